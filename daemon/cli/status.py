"""`tallyd status`: how far the counts have come, shard by shard."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec
from rich.console import Console

from daemon.cli.options import ConfigOption, DataOption, JsonOption, load, run
from daemon.cli.output import print_json, print_strays, print_table, say
from daemon.cli.watch import WatchOption, watching
from daemon.config import Config
from daemon.errors import StoreError

if TYPE_CHECKING:
    from daemon.read.status import Status
    from daemon.read.trouble import Trouble


def status(
    config: ConfigOption = None, data: DataOption = None, watch: WatchOption = False, as_json: JsonOption = False
) -> None:
    """Say whether all is well, and if not, what to do. Below it, how far the counts of each shard have come.

    Also the last result of each job that ran with --record: audit, parity-check, report, expire, and others.

    Example: `tallyd status --data .tallyd`

    Example: `tallyd status --watch`
    """
    from daemon.read.status import read_status
    from daemon.read.trouble import troubles

    loaded = load(config, data, "redis", "mongo")

    def show(console: Console) -> None:
        found = run(read_status(loaded))
        trouble = troubles(loaded, found, dt.datetime.now(dt.UTC))
        if as_json:
            print_json({**msgspec.structs.asdict(found), "trouble": trouble})
        else:
            _print_trouble(trouble, console)
            _print_status(found, loaded, console)
        if found.redis_error or found.mongo_error:
            raise StoreError(found.redis_error or found.mongo_error)

    if watch:
        watching(show, as_json=as_json)
    else:
        show(Console())


def _print_trouble(trouble: Sequence[Trouble], console: Console) -> None:
    from daemon.read.trouble import WELL

    if not trouble:
        say(WELL, "green", console=console)
    for each in trouble:
        say(each.text, "red" if each.level == "bad" else "yellow", console=console)
        say(f"  {each.do}", console=console)


def _print_status(found: Status, loaded: Config, console: Console) -> None:
    if found.shards:
        print_table(
            ("shard", "dirty", "in flight", "age", "replica due", "last flush"),
            [
                (
                    str(shard.shard),
                    shard.dirty,
                    shard.in_flight,
                    _age(shard.in_flight_age_s),
                    shard.replica_due if loaded.mysql.url else "off",
                    "never" if shard.last_flush_age_s is None else f"{_age(shard.last_flush_age_s)} ago",
                )
                for shard in found.shards
            ],
            console=console,
        )
    booked = ("accepted", "duplicate", "flushed", "dead")
    counters = sorted({field.partition(":")[2] for shard in found.shards for field in shard.ledger} - {""})
    sums: list[tuple[str | int, ...]] = [
        (name, *(sum(shard.ledger.get(f"{column}:{name}", 0) for shard in found.shards) for column in booked))
        for name in counters
    ]
    if sums:
        print_table(("counter", *booked), sums, console=console)
    if found.spool and (found.spool.segments or found.spool.damaged):
        console.print(
            f"Spool: {found.spool.segments} segments, {found.spool.bytes:,} bytes, the oldest from"
            f" {_age(found.spool.oldest_age_s)} ago; {found.spool.damaged} files of damaged bytes in"
            f" {loaded.spool.dir}/damaged."
        )
    if found.spool:
        print_strays(found.spool.strays, loaded.spool.dir, console=console)
    missing = sum(shard.ledger.get("missing", 0) for shard in found.shards)
    if missing:
        console.print(f"{missing:,} times MySQL had no row for an entity. `tallyd audit` counts those entities.")
    unknown = sum(shard.ledger.get("unknown", 0) for shard in found.shards)
    if unknown:
        console.print(f"{unknown:,} counts of ids that MySQL did not have: dead letters. See `tallyd dead list`.")
    for job in found.jobs:
        ended = _age((dt.datetime.now(dt.UTC) - job.at).total_seconds())
        how = "ok" if job.ok else f"failed ({job.exit_code})"
        line = f"{job.job}: {how} {ended} ago, took {_age(job.seconds)}. {job.summary}"
        say(line, "" if job.ok else "red", console=console)


def _age(seconds: float | None) -> str:
    from daemon.read.trouble import lasted

    return "-" if seconds is None else lasted(seconds)
