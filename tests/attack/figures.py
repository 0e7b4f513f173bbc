"""What a trial found: its figures, the bars they are held against, and the table in ops/SECURITY.md."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import msgspec
from msgspec import Struct

from tests.attack.legit import Answered
from tests.kit.commands import ROOT

ANSWERED_MIN = 0.999
"""Share of the legitimate events that are answered 202 during the attack."""
RATIO_MAX = 5.0
"""Their p99 under attack over the calm one."""
GROWTH_MAX = 2.0
"""The largest resident memory of the worker over that before the attack."""
RELEASED_S_MAX = 5.0
"""After the attack, until a new address and an attacker's own get an event in."""
ANSWER_BYTES_MAX = 4_096
"""The largest answer to a sender whose requests are refused."""

BEFORE = {
    "half-bodies": "9 of 10 refused, gap 11.9 s",
    "tiny-chunks": "a core for one connection",
    "refused-unread": "gap 39.4 s, 2,297 MiB",
    "refused-read": "p99 841 ms",
    "wrong-keys": "not counted",
    "summary-variants": "p99 348 ms",
    "top-variants": "p99 290 ms",
    "series-of-nothing": "p99 5.0 s, 739 MiB",
    "metrics": "p99 118 ms",
    "readyz": "p99 24 ms",
    "new-entities": "all counted, flushed for 88 s",
    "long-new-entities": "1,358 MB in MongoDB",
    "many-event-ids": "65 bytes an event, not 9",
    "flood-without-redis": "503 for all, gap 22 s",
    "many-days": "p99 7.0 s, gap 6.5 s",
    "forged-forwarded": "held",
    "one-ipv6-network": "10,000 counted",
    "slow-heads": "held",
    "idle-connections": "held",
    "idle-and-few-files": "nothing answered, gap 29 s",
    "reads-of-a-frozen-mongod": "p99 5.1 s, gap 3.3 s",
}
"""What version 0.2.0 did under an attack of the kind, tried on a like machine."""

BUSY_SHARE = 0.2
"""If others had more of the cores than this, a latency says more about them."""

RESULTS = ROOT / "bench" / "results" / "attacks.json"
PAGE = ROOT / "ops" / "SECURITY.md"
BEGIN, END = "<!-- attacks -->\n", "\n<!-- /attacks -->"


class Phase(Struct, frozen=True):
    """What the legitimate senders met in one phase. Milliseconds from the planned moment to the answer."""

    events: int
    answered: int
    """With 202."""
    p50_ms: float
    p99_ms: float
    gap_ms: float
    """The longest time without a single 202."""
    statuses: dict[str, int]

    @property
    def share(self) -> float:
        return self.answered / self.events


class Found(Struct, frozen=True, kw_only=True):
    """One attack's figures."""

    attack: str
    probe: str
    says: str
    seconds: float
    calm: Phase
    attacked: Phase
    after: Phase
    before_mib: float
    peak_mib: float
    after_mib: float
    fresh_released_s: float
    """From the end of the attack until an event of a new address is taken."""
    attacker_released_s: float
    """The same for an address that attacked."""
    outcomes: dict[str, int]
    """What became of the attackers' requests: status → number."""
    answer_bytes_max: int
    taken: int
    """The attackers' events that were counted."""
    taken_max: int
    """As many as the limits of that many senders allow in this time."""
    refused_only: bool = False
    """Whether all that the attackers sent should be refused, so that the size of the answers has a bar."""
    troubles: tuple[str, ...] = ()
    """What is wrong with the counts: none if they are exact and the audit holds."""
    others: float = 0.0
    """The share of the cores that other processes had."""

    @property
    def ratio(self) -> float:
        return self.attacked.p99_ms / self.calm.p99_ms

    @property
    def growth(self) -> float:
        return self.peak_mib / self.before_mib

    @property
    def misses(self) -> list[str]:
        """The bars that were not held, in words."""
        busy = f" (others had {self.others:.0%} of the cores)" if self.others > BUSY_SHARE else ""
        released_s = max(self.fresh_released_s, self.attacker_released_s)
        bars = {
            f"{self.attacked.share:.2%} answered 202": self.attacked.share >= ANSWERED_MIN,
            f"p99 {self.ratio:.1f} times the calm one{busy}": self.ratio <= RATIO_MAX,
            f"memory {self.growth:.1f} times": self.growth <= GROWTH_MAX,
            f"released after {released_s:.1f} s": released_s <= RELEASED_S_MAX,
            f"took {self.taken} of the attackers' events, not {self.taken_max}": self.taken <= self.taken_max,
            f"an answer of {self.answer_bytes_max} bytes": (
                not self.refused_only or self.answer_bytes_max <= ANSWER_BYTES_MAX
            ),
        }
        return [text for text, held in bars.items() if not held] + list(self.troubles)


class Results(Struct, frozen=True, kw_only=True):
    """A whole run, and the machine it was made on."""

    date: str
    machine: dict[str, str]
    found: list[Found]


def phase(answered: Sequence[Answered], begun_s: float, ended_s: float) -> Phase:
    """Of the events that were due in this time."""
    due = [each for each in answered if begun_s <= each.due_s < ended_s]
    taken = [each for each in due if each.status == 202]
    # An event that nobody answered took as long as its sender waited.
    times = sorted(each.ms for each in due)
    moments = [
        begun_s,
        *sorted(each.answered_s for each in answered if begun_s <= each.answered_s < ended_s and each.status == 202),
        ended_s,
    ]
    statuses: dict[str, int] = {}
    for each in due:
        name = str(each.status) if each.status else "lost"
        statuses[name] = statuses.get(name, 0) + 1
    return Phase(
        events=len(due),
        answered=len(taken),
        p50_ms=_rank(times, 0.5),
        p99_ms=_rank(times, 0.99),
        gap_ms=round(1000 * max(b - a for a, b in pairwise(moments)), 1),
        statuses=dict(sorted(statuses.items())),
    )


def _rank(ordered: Sequence[float], share: float) -> float:
    return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 1)


def line(found: Found) -> str:
    """One line of JSON."""
    derived = {"ratio": round(found.ratio, 2), "growth": round(found.growth, 2), "misses": found.misses}
    return msgspec.json.encode({**msgspec.to_builtins(found), **derived}).decode()


def read(path: Path = RESULTS) -> Results:
    return msgspec.json.decode(path.read_bytes(), type=Results)


def write(results: Results) -> None:
    """Replaces the results and the table on the page."""
    RESULTS.write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=1) + b"\n")
    page = PAGE.read_text(encoding="utf-8")
    head, _, rest = page.partition(BEGIN)
    _, _, tail = rest.partition(END)
    PAGE.write_text(head + BEGIN + table(results) + END + tail, encoding="utf-8")


def table(results: Results) -> str:
    """The figures as Markdown, headed by machine and date."""
    lines = [
        f"{results.date}. " + "; ".join(f"{name} {text}" for name, text in results.machine.items()) + ".",
        "",
        "| attack | 202 | p99 calm → attacked, ms | gap, ms | memory, MiB | released, s | bars | s | others | 0.2.0 |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    return "\n".join([*lines, *map(_table_line, results.found)])


def _table_line(each: Found) -> str:
    return (
        f"| `{each.attack}`: {each.says} | {each.attacked.share:.2%}"
        f" | {each.calm.p99_ms:g} → {each.attacked.p99_ms:g}"
        f" | {each.attacked.gap_ms:,.0f} | {each.before_mib:.0f} → {each.peak_mib:.0f}"
        f" | {max(each.fresh_released_s, each.attacker_released_s):.1f}"
        f" | {'; '.join(each.misses) or 'held'} | {each.seconds:g} | {each.others:.0%}"
        f" | {BEFORE.get(each.attack, '')} |"
    )


def today() -> str:
    return dt.datetime.now(dt.UTC).date().isoformat()
