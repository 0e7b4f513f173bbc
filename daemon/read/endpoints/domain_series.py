"""GET series of a domain: the history of all its entities, or of all of one type, a point a bucket."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, ClassVar

from msgspec import UNSET, Meta, UnsetType, field

from daemon.domain import rejection
from daemon.domain.entity import Entity
from daemon.domain.rejection import say
from daemon.domain.rollup import HOURLY
from daemon.read.domains import domain_series_json
from daemon.read.endpoint import Question
from daemon.read.endpoints.series import Buckets, Points, SeriesBefore
from daemon.read.parameters import Parameters
from daemon.read.series import Bucket, Stretch
from daemon.response import Body


class DomainSeries(Body, kw_only=True):
    """A point holds the name of its bucket, under `date`, `week` and so on, and the amount of each counter."""

    domain: str
    entity_type: Annotated[str | UnsetType, Meta(description="With `type`: the one that all is about.")] = UNSET
    bucket: str
    first: dt.date = field(name="from")
    last: dt.date = field(name="to")
    points: Points
    previous: Annotated[SeriesBefore | UnsetType, Meta(description="With `compare`.")] = UNSET


class ReadDomainSeries(Buckets):
    summary = "The history of a whole domain, zero-filled, of up to {read.series_points_max} points"
    about: ClassVar[dict[str, str]] = {
        "type": "Only this entity type.",
        **Buckets.about,
        "compare": "1: also as many buckets right before, whole.",
    }
    answer = DomainSeries

    def ask(self, place: Entity, parameters: Parameters) -> Question:
        entity_type = parameters.choice("type", self.types(place.domain), "")
        asked = self.stretch(place.domain, parameters)
        compare = parameters.flag("compare")
        if compare and not parameters.errors and Stretch.of(*asked).before() is None:
            parameters.wrong("compare", say(rejection.NOTHING_BEFORE, what=f"{asked[1]:%Y-%m-%d}"))
        own = Stretch.of(*asked)
        buckets = own.points if own.kind is HOURLY else (own.last - own.first).days + 1  # longer ones are sums of days
        kind = self.kind_of(buckets * (1 + compare) * (1 if entity_type else len(self.types(place.domain))))
        return self.question(kind, place.domain, entity_type, *asked, compare=compare, ttl_ms=self.ttl_ms)

    async def _read(
        self, domain: str, entity_type: str, bucket: Bucket, first: dt.datetime, last: dt.datetime, *, compare: bool
    ) -> DomainSeries:
        types = (entity_type,) if entity_type else self.types(domain)
        own = Stretch.of(bucket, first, last)
        before = own.before() if compare else None
        stretches = (before, own) if before else (own,)
        *earlier, points = await domain_series_json(self.stores.mongo, domain, types, self.counters(domain), *stretches)
        return DomainSeries(
            domain=domain,
            entity_type=entity_type or UNSET,
            bucket=bucket,
            first=first.date(),
            last=last.date(),
            points=points,
            previous=SeriesBefore(before.first.date(), before.last.date(), *earlier) if before else UNSET,
        )
