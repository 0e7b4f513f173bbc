"""`tallyd series`: one entity's counters, bucket by bucket."""

from __future__ import annotations

import datetime as dt
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from daemon.cli.options import (
    ConfigOption,
    DataOption,
    DomainOption,
    FirstOption,
    JsonOption,
    LastOption,
    TypeOption,
    chosen_type,
    load,
    run,
)
from daemon.cli.output import print_json, print_table, say
from daemon.config import domain_counters
from daemon.domain.entity import Entity
from daemon.domain.rollup import BUCKETED, DAILY, HOURLY
from daemon.errors import ConfigError

if TYPE_CHECKING:
    from daemon.read.outside import Outside

    Bucket = str
else:  # what typer offers as choices
    Bucket = StrEnum("Bucket", [kind.name for kind in BUCKETED])


def series(
    entity_id: Annotated[str, typer.Argument(metavar="ID", help="The entity's id.")],
    config: ConfigOption = None,
    data: DataOption = None,
    domain: DomainOption = None,
    entity_type: TypeOption = None,
    bucket: Annotated[Bucket, typer.Option(help=f"One of {', '.join(kind.name for kind in BUCKETED)}.")] = DAILY.name,
    first: FirstOption = None,
    last: LastOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show one entity's counters bucket by bucket, out of MongoDB, zero where nothing was counted. A last line says
    what was counted outside these days.

    Without --from and --to, hours are the last 24.

    Example: `tallyd series 0f8fad5b-d9cb-469f-a165-70867728950e --bucket weekly --from 2026-01-01 --to 2026-03-31`
    """
    from daemon.read.outside import outside
    from daemon.read.series import POINTS_MAX, Stretch, default_first
    from daemon.read.series import series as read_series
    from daemon.rollups.mongo import MongoSink

    loaded = load(config, data, "mongo")
    entity = Entity(*chosen_type(loaded, domain, entity_type), entity_id)
    if bucket == HOURLY.name and not loaded.domains[entity.domain].hourly:
        raise ConfigError(
            f"--bucket: domain {entity.domain!r} has no hours; `hourly` of [domains.{entity.domain}] makes them."
        )
    now = dt.datetime.now(dt.UTC)
    to_day = last.date() if last else now.date()
    from_day = first.date() if first else default_first(bucket, to_day)
    if from_day > to_day:
        raise ConfigError(f"--from {from_day} is after --to {to_day}.")
    rolls = bucket == HOURLY.name and not first and not last
    stretch = Stretch.rolling(now) if rolls else Stretch.of_days(bucket, from_day, to_day)
    if stretch.points > POINTS_MAX:
        raise ConfigError(f"--from, --to: a series has at most {POINTS_MAX} points; choose a larger --bucket.")
    counters = domain_counters(loaded, entity.domain)
    field = stretch.kind.bucket_field

    async def read() -> tuple[list[dict[str, object]], Outside | None]:
        async with MongoSink(loaded.mongo) as mongo:
            points = await read_series(mongo, entity, counters, stretch)
            if as_json or bucket == HOURLY.name:
                return points, None
            return points, await outside(mongo, entity, counters, stretch.first.date(), stretch.last.date())

    points, beside = run(read())
    if as_json:
        print_json(points)
        return
    say(entity.key)
    rows = [[str(point[field]), *(f"{point[counter]:,}" for counter in counters)] for point in points]
    print_table((field, *counters), rows)
    if beside and beside.first:
        amounts = ", ".join(f"{amount:,} {counter}" for counter, amount in beside.amounts.items())
        say(f"{amounts} outside this window, first on {beside.first}.")
