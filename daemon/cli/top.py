"""`tallyd top`: the most counted entities."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from daemon.cli.options import ConfigOption, DataOption, DomainOption, JsonOption, TypeOption, chosen_type, load, run
from daemon.cli.output import print_json, print_table
from daemon.cli.watch import WatchOption, watching
from daemon.config import domain_counters
from daemon.domain.window import ROLLING, Window
from daemon.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from daemon.read.top import Ranked


def top(
    config: ConfigOption = None,
    data: DataOption = None,
    domain: DomainOption = None,
    entity_type: TypeOption = None,
    counter: Annotated[str, typer.Option(help="Counter to order by.")] = "view",
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many.")] = 10,
    window: Annotated[
        Window, typer.Option(help="Days are UTC. One of total, day, week, month, year, 24h, 7d, 14d, 30d, 90d.")
    ] = "total",
    watch: WatchOption = False,
    as_json: JsonOption = False,
) -> None:
    """Show the most counted entities of a counter, out of MongoDB.

    Example: `tallyd top --domain jav --type movie --counter view --window 7d --limit 5`
    """
    from daemon.read.top import TopReader
    from daemon.rollups.mongo import MongoSink

    loaded = load(config, data, "mongo")
    domain, entity_type = chosen_type(loaded, domain, entity_type)
    counters = domain_counters(loaded, domain)
    if counter not in counters:
        raise ConfigError(f"--counter: domain {domain!r} has no counter {counter!r}; it has: {', '.join(counters)}.")
    if window == ROLLING and not loaded.domains[domain].hourly:
        raise ConfigError(f"--window: domain {domain!r} has no hours; `hourly` of [domains.{domain}] makes them.")

    async def read() -> Sequence[Ranked]:
        async with MongoSink(loaded.mongo) as mongo:
            reader = TopReader(mongo, loaded.read.sum_timeout_ms / 1000)
            return await reader.read(domain, entity_type, counter, window, limit, dt.datetime.now(dt.UTC))

    def show(console: Console) -> None:
        ranked = run(read())
        if as_json:
            print_json([{"entity_id": row.entity_id, counter: row.amount} for row in ranked])
        else:
            print_table(
                ("#", entity_type, counter),
                [(place, row.entity_id, row.amount) for place, row in enumerate(ranked, start=1)],
                console=console,
            )

    if watch:
        watching(show, as_json=as_json)
    else:
        show(Console())
