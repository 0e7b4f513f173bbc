"""The rollups: what each is called, which buckets it has, and what one claim adds to its documents.

`KINDS` is the only list of them. Collections, indexes, audit, history, day reports, series, export and the command line
derive theirs from it, so a new rollup is a new entry here. Pure: no I/O and no clock.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Collection, Mapping
from math import isfinite
from typing import Any, NamedTuple

from msgspec import Struct

from daemon.domain.entity import Entity

INSTANT_STEP = dt.timedelta(microseconds=1)


class Kind(Struct, frozen=True, eq=False):
    """A rollup. Its documents are one an entity, or one an entity and bucket (`Bucketed`)."""

    name: str
    bucket_field: str | None = None
    """The document field that holds the bucket's name."""

    @property
    def collection(self) -> str:
        return f"analytics_entity_{self.name}"

    @property
    def expired_collection(self) -> str:
        """Where the amounts of this rollup's deleted documents are kept, one document an entity. See `retention`."""
        return f"{self.collection}_expired"

    @property
    def type_fields(self) -> tuple[str, ...]:
        """What a top list is about: an entity type, in one bucket if there are buckets."""
        return ("domain", "entity_type", *((self.bucket_field,) if self.bucket_field else ()))

    @property
    def key_fields(self) -> tuple[str, ...]:
        """The natural key of a document."""
        return ("domain", "entity_type", "entity_id", *((self.bucket_field,) if self.bucket_field else ()))


class OfDomains(Kind, frozen=True, eq=False, kw_only=True):
    """A rollup of whole domains. A document is about an entity type in a bucket, and about no entity.

    A type and bucket have several documents, whose amounts are added: one of each part. A part is a shard, for what its
    claims added; or it says where else the amounts are from (`flush/domains.py`). Each build has a `generation`, and
    documents of its own.
    """

    bucket_field: str
    of: Bucketed
    """The rollup of entities that it sums."""

    @property
    def collection(self) -> str:
        return f"analytics_{self.name}"

    def id_of(self, generation: int, domain: str, entity_type: str, bucket: str, part: str) -> str:
        """The `_id` of a document. Those of a type sort like their buckets."""
        return f"{generation}:{domain}.{entity_type}:{bucket}:{part}"


class Bucketed(Kind, frozen=True, eq=False, kw_only=True):
    """A rollup by buckets of time. Its functions take an instant in UTC and read nothing but its calendar fields."""

    bucket_field: str
    bucket_of: Callable[[dt.datetime], str]
    """The name of the instant's bucket. Names sort like the buckets they name."""
    start_of: Callable[[dt.datetime], dt.datetime]
    """The first instant of the instant's bucket."""
    length_min: dt.timedelta
    """No bucket is shorter than this, and none is half as long again."""
    points: int
    """Points of a series, if the request names no first day."""
    months: int = 0
    """Months of a bucket that is made of months. 0: all buckets are as long as `length_min`."""
    retention_key: str = ""
    """The key of `[retention]` that says how many buckets are kept. "": all are, for ever. Only buckets that all have
    the same length can expire."""
    retention_buckets: int = 1
    """So many buckets are kept for each unit of that key."""

    def last_of(self, at: dt.datetime) -> dt.datetime:
        """The last instant of the instant's bucket. Raises OverflowError behind the year 9999."""
        start = self.start_of(at)
        return self.start_of(start + 1.5 * self.length_min) - INSTANT_STEP

    def back(self, at: dt.datetime, buckets: int) -> dt.datetime:
        """The first instant of the bucket so many before the instant's. Raises OverflowError before the year 1."""
        start = self.start_of(at)
        if not self.months:
            return start - buckets * self.length_min
        year, month = divmod(12 * start.year + start.month - 1 - buckets * self.months, 12)
        if year < dt.MINYEAR:
            raise OverflowError
        return start.replace(year=year, month=month + 1)

    def count(self, first: dt.datetime, last: dt.datetime) -> int:
        """The buckets from the one of the first instant to the one of the last."""
        begin, end = self.start_of(first), self.start_of(last)
        if not self.months:
            return (end - begin) // self.length_min + 1
        return (12 * (end.year - begin.year) + end.month - begin.month) // self.months + 1

    def kept_from(self, now: dt.datetime, kept: Mapping[str, int]) -> str | None:
        """The oldest bucket that is kept; `now` (UTC) is in the newest. None: all buckets are kept.

        `kept`: the keys of `[retention]`, each a number of `retention_buckets`; 0 keeps all.
        """
        buckets = kept.get(self.retention_key, 0) * self.retention_buckets
        return self.bucket_of(now - (buckets - 1) * self.length_min) if buckets else None

    def lies_in(self, outer: Bucketed, at: dt.datetime) -> bool:
        """Whether the instant's bucket lies wholly in one bucket of `outer`."""
        return outer.bucket_of(self.start_of(at)) == outer.bucket_of(self.last_of(at))

    def parse(self, bucket: str) -> dt.datetime | None:
        """The first instant of the bucket of this name, or None if there is none. Only for buckets of at most a day."""
        try:
            at = dt.datetime.fromisoformat(bucket)
        except ValueError:
            return None
        return at if self.bucket_of(at) == bucket else None


def _week(at: dt.datetime) -> str:
    """ISO 8601: weeks start on Monday and belong to the year of their Thursday. So 2024-12-30 is in 2025-W01."""
    year, week, _ = at.isocalendar()
    return f"{year:04d}-W{week:02d}"


def start_of_day(day: dt.date) -> dt.datetime:
    """The first instant of the UTC day."""
    return dt.datetime(day.year, day.month, day.day)  # noqa: DTZ001  (all instants here are UTC's)


def end_of_day(day: dt.date) -> dt.datetime:
    """The last instant of the UTC day."""
    return dt.datetime.combine(day, dt.time.max)


TOTALS = Kind("totals")
HOURLY = Bucketed(
    "hourly", bucket_field="hour", bucket_of=lambda at: at.isoformat()[:13],
    start_of=lambda at: start_of_day(at) + dt.timedelta(hours=at.hour),
    length_min=dt.timedelta(hours=1), points=24, retention_key="hourly_days", retention_buckets=24,
)  # fmt: skip
DAILY = Bucketed(
    "daily", bucket_field="date", bucket_of=lambda at: at.date().isoformat(), start_of=start_of_day,
    length_min=dt.timedelta(days=1), points=30, retention_key="daily_days",
)  # fmt: skip
WEEKLY = Bucketed(
    "weekly", bucket_field="week", bucket_of=_week,
    start_of=lambda at: start_of_day(at) - dt.timedelta(days=at.weekday()),
    length_min=dt.timedelta(weeks=1), points=12, retention_key="weekly_weeks",
)  # fmt: skip
MONTHLY = Bucketed(
    "monthly", bucket_field="month", bucket_of=lambda at: f"{at.year:04d}-{at.month:02d}",
    start_of=lambda at: start_of_day(at).replace(day=1),
    length_min=dt.timedelta(days=28), points=12, months=1,
)  # fmt: skip
YEARLY = Bucketed(
    "yearly", bucket_field="year", bucket_of=lambda at: f"{at.year:04d}",
    start_of=lambda at: start_of_day(at).replace(month=1, day=1),
    length_min=dt.timedelta(days=365), points=5, months=12,
)  # fmt: skip

DAY_CHARS, HOUR_CHARS = (len(kind.bucket_of(start_of_day(dt.date.min))) for kind in (DAILY, HOURLY))
"""An hour's name begins with that of its day."""

BUCKETED = (HOURLY, DAILY, WEEKLY, MONTHLY, YEARLY)
"""From the finest to the coarsest."""
KINDS: tuple[Kind, ...] = (TOTALS, *BUCKETED)

COMPLETE: tuple[Kind, ...] = tuple(kind for kind in KINDS if kind is not HOURLY)
"""Those that hold all that was counted. `hourly` holds what recent events of domains with hours add."""
COARSER = BUCKETED[BUCKETED.index(DAILY) + 1 :]
"""Those whose buckets are made of days."""
DOMAIN_DAILY = OfDomains("domain_daily", bucket_field="date", of=DAILY)
DOMAIN_HOURLY = OfDomains("domain_hourly", bucket_field="hour", of=HOURLY)
OF_DOMAINS: tuple[OfDomains, ...] = (DOMAIN_DAILY, DOMAIN_HOURLY)
EXPIRING = tuple(kind for kind in BUCKETED if kind.retention_key)
"""Those whose old documents may be deleted."""

OWN_FIELDS: Mapping[str, str] = {
    "_id": "the entity's key; with a bucket `<key>:<bucket>`; of a domain `<generation>:<type>:<bucket>:<part>`",
    "domain": "the first part of the entity's key",
    "entity_type": "its second part",
    "entity_id": "its rest",
    **{kind.bucket_field: f"the bucket ({kind.name} only)" for kind in BUCKETED},
    "updated_at": "when it was last written to",
    "flush_seq": "the highest seq applied to it: the guard against a claim that comes twice",
    "base": "{counter: amount}: what was taken over from before tallyd counted",
    "hourly": "{counter: amount}: how much of it came with an hour (days of domains only)",
    "source": "who set the base: `migration`",
    "synced": "{counter: amount}: how much of what was counted the MySQL row holds (totals only)",
    "dead_applied": "ids of the dead letters that were added to it",
    "expiring": "the number of the expiry batch that marked it",
    "expired_batch": "the highest expiry batch added to it (`_expired` only)",
}
"""The fields of a rollup's document beside its counters, each with what it holds. No counter may have such a name."""


class Document(NamedTuple):
    """What one claim adds to one document. `id` is the entity key, with the bucket where there is one."""

    id: str
    entity: Entity
    bucket: str | None
    amounts: dict[str, int]


class Malformed(NamedTuple):
    """An amount under a key or field that is not ours."""

    entity: str
    field: str
    amount: str


class Rollup(NamedTuple):
    """`documents`: per kind, in the order of KINDS. A flusher adds those of OF_DOMAINS."""

    documents: dict[Kind, list[Document]]
    malformed: list[Malformed]

    def sums(self, only: Collection[str] | None = None) -> dict[str, int]:
        """Amount per counter, of all totals documents or only of those with these ids."""
        sums: dict[str, int] = {}
        for document in self.documents[TOTALS]:
            if only is None or document.id in only:
                for counter, amount in document.amounts.items():
                    sums[counter] = sums.get(counter, 0) + amount
        return sums


def amount_of(value: object) -> int:
    """A stored amount. Anything but a number is 0, as in MongoDB's own sums: an edited document stops no reader."""
    if isinstance(value, float):
        return int(value) if isfinite(value) else 0
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def total(document: Mapping[str, Any], counter: str) -> int:
    """What a stored document says of a counter: what was counted, plus its `base` (what was taken over from before
    tallyd counted; see `backfill`). Every reader, and the replica, goes through here."""
    return amount_of(document.get(counter)) + base_of(document, counter)


def base_of(document: Mapping[str, Any], counter: str) -> int:
    """The part of `total` that was taken over."""
    base = document.get("base")
    return amount_of(base.get(counter)) if isinstance(base, Mapping) else 0
