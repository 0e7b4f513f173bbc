"""`tallyd status`, `tallyd top` and `tallyd series`: what was counted, and how far along it is."""

from __future__ import annotations

import datetime as dt
from enum import StrEnum
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from daemon.cli.options import ConfigOption, DataOption, JsonOption, load, print_json, run
from daemon.config import Config, domain_counters, require
from daemon.domain.entity import Entity
from daemon.domain.window import Window
from daemon.errors import ConfigError, StoreError
from daemon.read.status import Status, read_status


class Bucket(StrEnum):
    """Choices of `--bucket`."""

    DAILY = "daily"
    WEEKLY = "weekly"
    MONTHLY = "monthly"
    YEARLY = "yearly"


def status(config: ConfigOption = None, data: DataOption = None, as_json: JsonOption = False) -> None:
    """Show per shard what is dirty, in flight (and for how long), due for MySQL, and when it was last flushed.

    Example: `tallyd status --data .tallyd`
    """
    loaded = load(config, data)
    require(loaded, "redis", "mongo")
    found = run(read_status(loaded))
    if as_json:
        print_json(msgspec.to_builtins(found))
    else:
        _print_status(found, loaded)
    if found.redis_error or found.mongo_error:
        raise StoreError(found.redis_error or found.mongo_error)


def _print_status(found: Status, loaded: Config) -> None:
    table = Table("shard", "dirty", "in flight", "age", "replica due", "last flush")
    for shard in found.shards:
        table.add_row(
            str(shard.shard),
            f"{shard.dirty:,}",
            f"{shard.in_flight:,}",
            _age(shard.in_flight_age_s),
            f"{shard.replica_due:,}" if loaded.mysql.url else "off",
            f"{_age(shard.last_flush_age_s)} ago" if shard.last_flush_age_s is not None else "never",
        )
    console = Console()
    if found.shards:
        console.print(table)
    sums = Table("counter", "accepted", "duplicate", "flushed", "dead")
    columns = ("accepted", "duplicate", "flushed", "dead")
    names = sorted({field.partition(":")[2] for shard in found.shards for field in shard.ledger} - {""})
    for name in names:
        amounts = (sum(shard.ledger.get(f"{column}:{name}", 0) for shard in found.shards) for column in columns)
        sums.add_row(name, *(f"{amount:,}" for amount in amounts))
    if names:
        console.print(sums)
    if found.spool and (found.spool.segments or found.spool.damaged):
        console.print(
            f"Spool: {found.spool.segments} segments, {found.spool.bytes:,} bytes, the oldest from"
            f" {_age(found.spool.oldest_age_s)} ago; {found.spool.damaged} files of damaged bytes in"
            f" {loaded.spool.dir}/damaged."
        )
    refused = sum(shard.replica_refused for shard in found.shards)
    if refused:
        console.print(
            f"MySQL refuses the rows of {refused} entities; HGETALL anl:{{shard}}:refused says why.", style="red"
        )
    aside = sum(shard.ledger.get("aside", 0) for shard in found.shards)
    if aside:
        console.print(f"{aside} foreign values were moved out of the way in Redis (keys anl:{{shard}}:aside:*).")
    if found.dead_letters:
        console.print(f"{found.dead_letters} dead letters (collection analytics_dead_letters).", style="red")


def top(
    config: ConfigOption = None,
    data: DataOption = None,
    domain: Annotated[str | None, typer.Option(help="Domain. Default: the first configured.")] = None,
    entity_type: Annotated[str | None, typer.Option("--type", help="Entity type. Default: the domain's first.")] = None,
    counter: Annotated[str, typer.Option(help="Counter to order by.")] = "view",
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many.")] = 10,
    window: Annotated[Window, typer.Option(help="All, or this day, week … (UTC), or the last days.")] = "total",
    as_json: JsonOption = False,
) -> None:
    """Show the most counted entities of a counter, out of MongoDB.

    Example: `tallyd top --domain jav --type movie --counter view --window 7d --limit 5`
    """
    from daemon.read.top import Top
    from daemon.sinks.mongo import MongoSink

    loaded = load(config, data)
    require(loaded, "mongo")
    domain, entity_type = _chosen(loaded, domain, entity_type)
    counters = domain_counters(loaded, domain)
    if counter not in counters:
        raise ConfigError(f"--counter: domain {domain!r} has no counter {counter!r}; it has: {', '.join(counters)}.")

    today = dt.datetime.now(dt.UTC).date()

    async def read() -> list[dict[str, object]]:
        mongo = MongoSink(loaded.mongo)
        try:
            reader = Top(mongo, loaded.read.sum_timeout_ms / 1000)
            ranked = await reader.read(domain, entity_type, counter, window, limit, today)
            return [{"entity_id": row.entity_id, counter: row.amount} for row in ranked]
        finally:
            await mongo.close()

    rows = run(read())
    if as_json:
        print_json(rows)
        return
    table = Table("#", entity_type, counter)
    for place, row in enumerate(rows, start=1):
        table.add_row(str(place), str(row["entity_id"]), f"{row[counter]:,}")
    Console().print(table)


def series(
    entity_id: Annotated[str, typer.Argument(help="The entity's id.")],
    config: ConfigOption = None,
    data: DataOption = None,
    domain: Annotated[str | None, typer.Option(help="Domain. Default: the first configured.")] = None,
    entity_type: Annotated[str | None, typer.Option("--type", help="Entity type. Default: the domain's first.")] = None,
    bucket: Annotated[Bucket, typer.Option(help="Size of a bucket.")] = Bucket.DAILY,
    first: Annotated[dt.datetime | None, typer.Option("--from", formats=["%Y-%m-%d"], help="First UTC day.")] = None,
    last: Annotated[dt.datetime | None, typer.Option("--to", formats=["%Y-%m-%d"], help="Last UTC day.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show one entity's counters bucket by bucket, out of MongoDB, zero where nothing was counted.

    Example: `tallyd series 0f8fad5b-d9cb-469f-a165-70867728950e --bucket weekly --from 2026-01-01 --to 2026-03-31`
    """
    from daemon.read.series import POINTS_MAX, SIZES, default_first, is_too_long
    from daemon.read.series import series as read_series
    from daemon.sinks.mongo import MongoSink

    loaded = load(config, data)
    require(loaded, "mongo")
    domain, entity_type = _chosen(loaded, domain, entity_type)
    to_day = last.date() if last else dt.datetime.now(dt.UTC).date()
    from_day = first.date() if first else default_first(bucket.value, to_day)
    if from_day > to_day:
        raise ConfigError(f"--from {from_day} is after --to {to_day}.")
    if is_too_long(bucket.value, from_day, to_day, POINTS_MAX):
        raise ConfigError(f"--from, --to: a series has at most {POINTS_MAX} points; choose a larger --bucket.")
    counters = domain_counters(loaded, domain)
    field = SIZES[bucket.value].kind.bucket_field

    async def read() -> list[dict[str, object]]:
        mongo = MongoSink(loaded.mongo)
        try:
            entity = Entity(domain, entity_type, entity_id)
            return await read_series(mongo, entity, bucket.value, counters, from_day, to_day)
        finally:
            await mongo.close()

    points = run(read())
    if as_json:
        print_json(points)
        return
    assert field is not None
    table = Table(field, *counters)
    for point in points:
        table.add_row(str(point[field]), *(f"{point[counter]:,}" for counter in counters))
    console = Console()
    console.print(f"{domain}:{entity_type}:{entity_id}", markup=False, highlight=False, soft_wrap=True)
    console.print(table)


def _chosen(config: Config, domain: str | None, entity_type: str | None) -> tuple[str, str]:
    """The domain and entity type asked for, or the first configured ones. Raises ConfigError if there is no such."""
    name = domain or next(iter(config.domains))
    if name not in config.domains:
        raise ConfigError(f"--domain: there is no {name!r}; configured: {', '.join(config.domains)}.")
    types = config.domains[name].entity_types
    if entity_type is not None and entity_type not in types:
        raise ConfigError(f"--type: domain {name!r} has no {entity_type!r}; it has: {', '.join(types)}.")
    return name, entity_type or types[0]


def _age(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return f"{seconds:.1f} s" if seconds < 120 else str(dt.timedelta(seconds=int(seconds)))
