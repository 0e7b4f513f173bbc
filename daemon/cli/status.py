"""`tallyd status`: how far along the counts are, shard by shard."""

from __future__ import annotations

import datetime as dt

import msgspec
from rich.console import Console
from rich.table import Table

from daemon.cli.options import ConfigOption, DataOption, JsonOption, load, print_json, run
from daemon.config import Config, require
from daemon.errors import StoreError
from daemon.read.status import Status, read_status


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


def _age(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return f"{seconds:.1f} s" if seconds < 120 else str(dt.timedelta(seconds=int(seconds)))
