"""`tallyd top`: the most counted entities."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Annotated, NamedTuple

import msgspec
import typer
from rich.console import Console

from daemon.cli.options import ConfigOption, DataOption, DomainOption, JsonOption, chosen_type, load, run
from daemon.cli.output import print_json, print_table, say
from daemon.cli.watch import WatchOption, watching
from daemon.config import Config, domain_counters, replica_tables
from daemon.domain.window import ROLLING, Window, span_of
from daemon.errors import ConfigError, MysqlStoreError

if TYPE_CHECKING:
    from collections.abc import Sequence


class Row(NamedTuple):
    """Of a list. `label`: "" if nobody knows it."""

    entity_id: str
    label: str
    counts: dict[str, int]


def top(
    config: ConfigOption = None,
    data: DataOption = None,
    domain: DomainOption = None,
    entity_type: Annotated[str | None, typer.Option("--type", help="Entity type. Default: all of the domain.")] = None,
    counter: Annotated[str, typer.Option(help="Counter to order by.")] = "view",
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many.")] = 10,
    window: Annotated[
        Window, typer.Option(help="Days are UTC. One of total, day, week, month, year, 24h, 7d, 14d, 30d, 90d.")
    ] = "total",
    watch: WatchOption = False,
    as_json: JsonOption = False,
) -> None:
    """Show the most counted entities of a counter, out of MongoDB, with their labels and their other counters.

    Example: `tallyd top --domain jav --type movie --counter view --window 7d --limit 5`
    """
    loaded = load(config, data, "mongo")
    named, _ = chosen_type(loaded, domain, entity_type)
    types = (entity_type,) if entity_type else loaded.domains[named].entity_types
    counters = domain_counters(loaded, named)
    if counter not in counters:
        raise ConfigError(f"--counter: domain {named!r} has no counter {counter!r}; it has: {', '.join(counters)}.")
    if window == ROLLING and not loaded.domains[named].hourly:
        raise ConfigError(f"--window: domain {named!r} has no hours; `hourly` of [domains.{named}] makes them.")
    shown = (counter, *(other for other in counters if other != counter))

    def show(console: Console) -> None:
        lists, unlabelled = run(_read(loaded, named, types, shown, window, limit))
        if as_json:
            print_json([_plain(kind, row) for kind, rows in lists.items() for row in rows])
            return
        for kind in [kind for kind, rows in lists.items() if rows] or types[:1]:
            label = ("label",) if any(row.label for row in lists[kind]) else ()
            cells = [
                (place, row.entity_id, *((row.label,) if label else ()), *row.counts.values())
                for place, row in enumerate(lists[kind], start=1)
            ]
            print_table(("#", kind, *label, *shown), cells, console=console)
        if unlabelled:
            say(f"Without labels: {unlabelled}", "dim", console=console)

    if watch:
        watching(show, as_json=as_json)
    else:
        show(Console())


async def _read(
    config: Config, domain: str, types: Sequence[str], counters: Sequence[str], window: Window, limit: int
) -> tuple[dict[str, list[Row]], str]:
    """Entity type → the most counted of the first counter; and why labels are missing, "" if none are."""
    from daemon.read.sums import window_sums
    from daemon.read.top import TopReader
    from daemon.rollups.mongo import MongoSink

    now = dt.datetime.now(dt.UTC)
    lists, unlabelled = {}, ""
    async with MongoSink(config.mongo) as mongo:
        reader = TopReader(mongo, config.read.sum_timeout_ms / 1000)
        for kind in types:
            ranked = await reader.read(domain, kind, counters[0], window, limit, now)
            ids = [row.entity_id for row in ranked]
            sums, _ = await window_sums(mongo, domain, kind, ids, counters[1:], span_of(window, now))
            try:
                labels = await _labels(config, domain, kind, ids)
            except MysqlStoreError as error:
                labels, unlabelled = {}, str(error)
            zeros = dict.fromkeys(counters[1:], 0)
            lists[kind] = [
                Row(id_, labels.get(id_, ""), {counters[0]: row.amount, **sums.get(id_, zeros)})
                for id_, row in zip(ids, ranked, strict=True)
            ]
    return lists, unlabelled


async def _labels(config: Config, domain: str, entity_type: str, ids: Sequence[str]) -> dict[str, str]:
    """Entity id → its label, of those that have one. Raises StoreError if MySQL does not answer."""
    table = replica_tables(config).get((domain, entity_type))
    if table is None or table.label is None or not ids:
        return {}
    from daemon.replica.mysql import MysqlSink

    async with MysqlSink(config.mysql) as mysql:
        rows = await mysql.describe(msgspec.structs.replace(table, enrich=(table.label,)), ids)
    return {id_: str(row[table.label]) for id_, row in rows.items() if row[table.label] is not None}


def _plain(entity_type: str, row: Row) -> dict[str, object]:
    label = {"label": row.label} if row.label else {}
    return {"entity_type": entity_type, "entity_id": row.entity_id, **label, **row.counts}
