"""The messages to and from the swarm: its orders, a sample a second, and the tally in the end."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from msgspec import Struct

DATABASE = "tallyd"
DOMAIN, ENTITY_TYPE = "jav", "movie"
UUID_PREFIX = "10ad7e57-d9cb-469f-a165-"


TALLY, LOCUST_REPORT = "tally.json", "locust.html"
"""Files the swarm leaves in its folder."""


class Orders(Struct):
    """The orders to the swarm. `url`: of the ingest daemon, without a path."""

    scenario: str
    url: str
    users: int
    rate: float
    seconds: float
    folder: str


class Counted(NamedTuple):
    """What one event adds when it is accepted."""

    entity: int
    counter: str
    day: str
    amount: int


class Sample(Struct):
    """One second of a run. Times are of the requests answered in it, 0 if none was."""

    second: int
    requests: int
    events: int
    failed: int
    p50_ms: float
    p95_ms: float
    p99_ms: float


class Totals(Struct, kw_only=True):
    """The sums of a run."""

    duplicates: dict[str, int]
    """Counter → amount of events that were accepted before and answered 202 again."""
    requests: int
    events: int
    """Accepted, the repeated ones included."""
    failed: int
    failures: dict[str, int]
    """Failure → how often."""
    resent: int
    """Requests without a known outcome that were sent again at the end."""
    unsettled: int
    """Requests whose outcome is unknown, although they were sent again; the counts can't be compared then."""
    seconds: float
    p50_ms: float
    p95_ms: float
    p99_ms: float


class Tally(Totals, kw_only=True):
    """The end of a run.

    An event is in `entities` and `days` once, whatever became of its first delivery: with the first 202 that was read.
    """

    entities: dict[str, dict[str, int]]
    """Entity key → counter → amount."""
    days: dict[str, dict[str, int]]
    """UTC date → counter → amount."""

    def sums(self) -> dict[str, int]:
        """Counter → amount."""
        sums: Counter[str] = Counter()
        for amounts in self.entities.values():
            sums.update(amounts)
        return dict(sorted(sums.items()))


def uuid_of(entity: int) -> str:
    """The entity's id, which is also its row's in MySQL."""
    return f"{UUID_PREFIX}{entity:012x}"


def key_of(entity: int) -> str:
    return f"{DOMAIN}:{ENTITY_TYPE}:{uuid_of(entity)}"
