"""GET series: the history of one entity or of many, a point a bucket."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, ClassVar

import msgspec
from msgspec import UNSET, Meta, UnsetType, field

from daemon.domain import rejection
from daemon.domain.entity import Entity
from daemon.domain.rejection import say
from daemon.domain.rollup import DAILY, HOURLY
from daemon.domain.window import ROLLING
from daemon.read.endpoint import Endpoint, Question
from daemon.read.gate import Kind
from daemon.read.parameters import Parameters
from daemon.read.series import SIZES, Bucket, Stretch, default_first, many_series, series_json
from daemon.response import Body

_POINTS = msgspec.json.schema(list[dict[str, str | int]])
"""The type of `Series.points`, which are made as JSON (`read/series.py`)."""
_AMOUNTS = msgspec.json.schema(dict[str, list[int]])
"""The same of `EntitySeries.counters`."""
Points = Annotated[msgspec.Raw, Meta(extra_json_schema=_POINTS)]


class SeriesBefore(Body):
    """As many buckets right before, whole."""

    first: dt.date = field(name="from")
    last: dt.date = field(name="to")
    points: Points


class Series(Body):
    """A point holds the name of its bucket, under `date`, `week` and so on, and the amount of each counter."""

    domain: str
    entity_type: str
    entity_id: str
    bucket: str
    first: dt.date = field(name="from")
    last: dt.date = field(name="to")
    points: Points
    previous: Annotated[SeriesBefore | UnsetType, Meta(description="With `compare`.")] = UNSET


class EntitySeries(Body):
    """Per counter its amount in each bucket of `labels`."""

    entity_id: str
    counters: Annotated[msgspec.Raw, Meta(extra_json_schema=_AMOUNTS)]


class ManySeries(Body):
    domain: str
    entity_type: str
    bucket: str
    first: dt.date = field(name="from")
    last: dt.date = field(name="to")
    labels: Annotated[list[str], Meta(description="The names of the buckets.")]
    series: list[EntitySeries]
    """In the order asked for."""


class Buckets(Endpoint):
    """A read of buckets: those of some days, or the last 24 hours."""

    about: ClassVar[dict[str, str]] = {
        "bucket": "Only domains with hours have hourly.",
        "from": "First UTC day.",
        "to": "Last UTC day; today without it.",
        "window": "24h: this hour and the 23 before. Hours have it without `from` and `to`.",
    }

    def stretch(self, domain: str, parameters: Parameters) -> tuple[Bucket, dt.datetime, dt.datetime]:
        """The parameters `bucket`, `from` and `to`, or `window`, as what `Stretch.of` takes."""
        hourly = not domain or self.config.domains[domain].hourly
        bucket = parameters.choice("bucket", [name for name in SIZES if name != HOURLY.name or hourly], DAILY.name)
        first, last = parameters.day("from"), parameters.day("to")
        window = parameters.choice("window", (ROLLING,), "")
        if window and (bucket != HOURLY.name or first or last):
            parameters.wrong("window", say(rejection.OF_HOURS, "window"))
        if bucket == HOURLY.name and not first and not last:
            return bucket, *Stretch.rolling(self.now())[1:]
        last = last or self.today()
        first = first or default_first(bucket, last)
        if first > last:
            parameters.wrong("from", say(rejection.AFTER, "from", last="to"))
            first = last
        found = Stretch.of_days(bucket, first, last)
        if found.points > self.limits.series_points_max:
            parameters.wrong("from", say(rejection.TOO_MANY_POINTS, most=self.limits.series_points_max))
        return bucket, found.first, found.last


class ReadSeries(Buckets):
    summary = "An entity's history, zero-filled, of up to {read.series_points_max} points"
    about: ClassVar[dict[str, str]] = {**Buckets.about, "compare": "1: also as many buckets right before, whole."}
    answer = Series

    def ask(self, place: Entity, parameters: Parameters) -> Question:
        asked = self.stretch(place.domain, parameters)
        compare = parameters.flag("compare")
        if compare and not parameters.errors and Stretch.of(*asked).before() is None:
            parameters.wrong("compare", say(rejection.NOTHING_BEFORE, what=f"{asked[1]:%Y-%m-%d}"))
        return self.question(Kind.SERIES, place, *asked, compare=compare, ttl_ms=self.ttl_ms)

    async def _read(
        self, entity: Entity, bucket: Bucket, first: dt.datetime, last: dt.datetime, *, compare: bool
    ) -> Series:
        own = Stretch.of(bucket, first, last)
        before = own.before() if compare else None
        if before is not None and not self.is_kept(before.kind, before.begin):
            before = None
        stretches = (before, own) if before else (own,)
        *earlier, points = await series_json(self.stores.mongo, entity, self.counters(entity.domain), *stretches)
        previous = SeriesBefore(before.first.date(), before.last.date(), *earlier) if before else UNSET
        return Series(*entity, bucket, first.date(), last.date(), points, previous)


class ReadManySeries(Buckets):
    summary = (
        "The histories of {read.series_ids_max} entities, zero-filled, with {read.series_all_points_max} points in all"
    )
    about: ClassVar[dict[str, str]] = {**Buckets.about, **Endpoint.ids_about}
    answer = ManySeries

    def ask(self, place: Entity, parameters: Parameters) -> Question:
        ids = parameters.entity_ids("ids", "id", self.limits.series_ids_max)
        asked = self.stretch(place.domain, parameters)
        points = len(ids) * Stretch.of(*asked).points
        if points > self.limits.series_all_points_max:
            parameters.wrong("ids", say(rejection.TOO_MANY_POINTS_IN_ALL, most=self.limits.series_all_points_max))
        return self.question(self.kind_of(points), place, *asked, ids, ttl_ms=self.ttl_ms)

    async def _read(
        self, place: Entity, bucket: Bucket, first: dt.datetime, last: dt.datetime, ids: list[str]
    ) -> ManySeries:
        domain, entity_type, _ = place
        stretch = Stretch.of(bucket, first, last)
        labels, made = await many_series(self.stores.mongo, domain, entity_type, ids, self.counters(domain), stretch)
        series = list(map(EntitySeries, ids, made))
        return ManySeries(domain, entity_type, bucket, first.date(), last.date(), labels, series)
