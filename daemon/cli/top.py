"""`tallyd top`: the most counted entities."""

from __future__ import annotations

import datetime as dt
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from daemon.cli.options import (
    ConfigOption,
    DataOption,
    DomainOption,
    JsonOption,
    TypeOption,
    chosen_type,
    load,
    print_json,
    run,
)
from daemon.config import domain_counters, require
from daemon.domain.window import Window
from daemon.errors import ConfigError


def top(
    config: ConfigOption = None,
    data: DataOption = None,
    domain: DomainOption = None,
    entity_type: TypeOption = None,
    counter: Annotated[str, typer.Option(help="Counter to order by.")] = "view",
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many.")] = 10,
    window: Annotated[Window, typer.Option(help="All, or this day, week … (UTC), or the last days.")] = "total",
    as_json: JsonOption = False,
) -> None:
    """Show the most counted entities of a counter, out of MongoDB.

    Example: `tallyd top --domain jav --type movie --counter view --window 7d --limit 5`
    """
    from daemon.read.top import Top
    from daemon.rollups.mongo import MongoSink

    loaded = load(config, data)
    require(loaded, "mongo")
    domain, entity_type = chosen_type(loaded, domain, entity_type)
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
