"""How far a server's clock is from this machine's, measured by one question and its answer.

The server read its clock between the sending of the question and the arrival of the answer. The middle of the two is
wrong by half the round trip at most (RFC 5905: offset and delay). Only what exceeds that half counts as a difference,
so a slow network is never taken for a wrong clock.
"""

from __future__ import annotations

from typing import NamedTuple

from daemon.doctor.finding import Verdict, fatal, ok, warning

APART_WARN_S = 1.0
APART_FATAL_S = 60.0

NO_LIMIT_S = float("inf")

_FIX = "on the machine whose clock is wrong: timedatectl set-ntp true (then look at `timedatectl timesync-status`)"


class Clock(NamedTuple):
    """`offset_s`: the server's time minus this machine's. `uncertainty_s`: half the round trip."""

    offset_s: float
    uncertainty_s: float

    @property
    def apart_s(self) -> float:
        """The least difference that the measurement allows."""
        return max(0.0, abs(self.offset_s) - self.uncertainty_s)


def compare(server_s: float, sent_s: float, received_s: float) -> Clock:
    """`server_s`: the server's answer. `sent_s`, `received_s`: when this machine asked and had the answer.

    All three are seconds since 1970.
    """
    return Clock(server_s - (sent_s + received_s) / 2, (received_s - sent_s) / 2)


def check_clock(clock: Clock, why: str, fatal_s: float = APART_FATAL_S) -> Verdict:
    """The verdict on a difference. `fatal_s` is NO_LIMIT_S where even a large one loses nothing."""
    if clock.apart_s <= APART_WARN_S:
        return ok(f"{clock.offset_s * 1000:+.0f} ms from this machine's, ± {clock.uncertainty_s * 1000:.1f} ms")
    found = f"{abs(clock.offset_s):.1f} s {'ahead of' if clock.offset_s > 0 else 'behind'} this machine's"
    return fatal(found, why, _FIX) if clock.apart_s > fatal_s else warning(found, why, _FIX)
