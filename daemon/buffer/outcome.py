"""What became of a request whose events were sent to Redis.

`wire.py` makes the first two from a reply, the batcher makes the third, and the handler turns all into answers.
"""

from __future__ import annotations

from typing import Literal

import msgspec


class Counted(msgspec.Struct, frozen=True, gc=False):
    """Redis took the request's events and counted the `new` ones. The others that it took were duplicates.

    It did not take the last `limited` ones: their sender is over its limit, for `left_ms` (≥ 1) more. `room`: so many
    more events of the sender would be taken now; 0 without a limit of events.
    """

    new: int
    limited: int = 0
    left_ms: int = 0
    room: int = 0


class Limited(msgspec.Struct, frozen=True, gc=False):
    """The request's sender is over its limit, so nothing was taken. It may ask again in `left_ms` (≥ 1).

    `room`: as of Counted. It is above 0 only if new entities are limited.
    """

    left_ms: int
    room: int = 0


class Failed(msgspec.Struct, frozen=True, gc=False):
    """It is unknown whether Redis counted the events. The client may send them again: their ids decide."""

    why: str
    at: Literal["queue", "spool", "store"] = "store"
    """Where it failed, as `tallyd_refusals_total` says it."""


Outcome = Counted | Limited | Failed
