"""GET series: the history of one entity, a point a bucket."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, ClassVar

import msgspec
from msgspec import Meta, field

from daemon.domain import rejection
from daemon.domain.entity import Entity
from daemon.domain.rejection import say
from daemon.domain.rollup import DAILY
from daemon.read.endpoint import Endpoint, Question
from daemon.read.gate import Kind
from daemon.read.parameters import Parameters
from daemon.read.series import SIZES, Bucket, default_first, is_too_long, series_json
from daemon.response import Body

_POINTS = msgspec.json.schema(list[dict[str, str | int]])
"""The type of `Series.points`, which are made as JSON (`read/series.py`)."""


class Series(Body):
    """A point holds the name of its bucket, under `date`, `week` and so on, and the amount of each counter."""

    domain: str
    entity_type: str
    entity_id: str
    bucket: str
    first: dt.date = field(name="from")
    last: dt.date = field(name="to")
    points: Annotated[msgspec.Raw, Meta(extra_json_schema=_POINTS)]


class ReadSeries(Endpoint):
    summary = "An entity's history, zero-filled, of up to {read.series_points_max} points"
    about: ClassVar[dict[str, str]] = {"from": "First UTC day.", "to": "Last UTC day; today without it."}
    answer = Series

    def ask(self, place: Entity, parameters: Parameters) -> Question:
        bucket = parameters.choice("bucket", tuple(SIZES), DAILY.name)
        first = parameters.day("from")
        last = parameters.day("to") or self.today()
        first = first or default_first(bucket, last)
        if first > last:
            parameters.wrong("from", say(rejection.AFTER, "from", last="to"))
        elif is_too_long(bucket, first, last, self.limits.series_points_max):
            parameters.wrong("from", say(rejection.TOO_MANY_POINTS, most=self.limits.series_points_max))
        return self.question(Kind.SERIES, place, bucket, first, last, ttl_ms=self.ttl_ms)

    async def _read(self, entity: Entity, bucket: Bucket, first: dt.date, last: dt.date) -> Series:
        points = await series_json(self.stores.mongo, entity, bucket, self.counters(entity.domain), first, last)
        return Series(*entity, bucket, first, last, points)
