"""`tallyd audit`: does every accepted amount lie where it should?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from rich.console import Console

from daemon.cli.enabled import require_on
from daemon.cli.options import ConfigOption, DataOption, JsonOption, load, run
from daemon.cli.output import print_json, print_strays, print_table, say
from daemon.cli.record import RecordOption, recorded
from daemon.config import NOTHING_MAPPED, require
from daemon.domain.instant import moment
from daemon.errors import CheckFailed, ConfigError

if TYPE_CHECKING:
    from daemon.verify.audit.audit import Report

DIFFERENCES_SHOWN = 20


def audit(
    config: ConfigOption = None,
    data: DataOption = None,
    deep: Annotated[bool, typer.Option("--deep", help="Compare each entity across all rollups, too.")] = False,
    repair_replica: Annotated[
        bool, typer.Option("--repair-replica", help="Set every row of MySQL that differs to MongoDB's totals.")
    ] = False,
    accept: Annotated[
        str | None,
        typer.Option(
            "--accept",
            metavar="REASON",
            help="After a restore: put the amounts that differ on record as accepted. The laws hold again from there.",
        ),
    ] = None,
    rebuild_domains: Annotated[
        bool,
        typer.Option("--rebuild-domains", help="Have the flush daemon add up whole domains anew, and audit the rest."),
    ] = False,
    record: RecordOption = False,
    as_json: JsonOption = False,
) -> None:
    """State the conservation law: accepted = live + in flight + dead-lettered + applied. All rollups must agree, and a
    row of MySQL that is not due must equal MongoDB. Exit 1 and the differences if not.

    Safe at any moment. If counts move while it reads, it tries again a few times. Then it states only that MongoDB
    holds all that was acknowledged, and nothing that was not accepted.

    Example: `tallyd audit --deep --data .tallyd`

    If whole domains differ from their entities: `tallyd audit --rebuild-domains`

    After a restore: `tallyd audit --accept "MongoDB restored from the backup of 02:00"`
    """
    from daemon.flush.flusher import Flushed, Flusher
    from daemon.verify.audit.audit import auditor

    loaded = load(config, data, "redis", "mongo")
    if repair_replica:
        require_on(loaded, "--repair-replica")
        require(loaded, "mysql")
    if accept is not None and not accept.strip():
        raise ConfigError("--accept: say why, for the record.")

    async def work() -> tuple[Report, int, int]:
        async with auditor(loaded) as by:
            repaired = aliases = 0
            if repair_replica:
                repaired, aliases = await by.mark_due()
                async with Flusher(loaded) as flusher:
                    await flusher.sync_replicas(Flushed())
            if rebuild_domains:
                await by.rebuild_domains()
            if accept is not None and await by.accept(accept) is None:
                say("There is nothing to accept.", console=Console(stderr=True))
            return await by.audit(thorough=deep), repaired, aliases

    with recorded(loaded, "audit", wanted=record) as kept:
        report, repaired, aliases = run(work())
        if as_json:
            found = msgspec.to_builtins(report)
            print_json({**found, "holds": report.holds, "repaired": repaired, "aliases_mended": aliases})
        else:
            _print(report, repaired, aliases, Console(), deep=deep, rebuilt=rebuild_domains)
        kept.figures = _figures(report)
        kept.summary = _verdict(report)
        if not report.holds:
            raise CheckFailed(f"The audit found {len(report.broken) + report.broken_more} differences.")


def _figures(report: Report) -> dict[str, int | float]:
    """While counts move, no counter's difference is known."""
    differences = {f"difference:{line.counter}": line.difference for line in report.lines if report.exact}
    broken = len(report.broken) + report.broken_more
    return {**differences, "broken": broken, "rows_pending": report.rows_pending, "rows_missing": report.rows_missing}


def _verdict(report: Report) -> str:
    return "The law holds." if report.exact else "Counts are moving. What can be stated now holds."


def _print_records(report: Report) -> None:
    """The accepted differences, and the stores that came back older: both explain a difference, or a baseline."""
    for epoch in report.epochs:
        for older in epoch.older:
            other = "MongoDB" if older.store == "redis" else "Redis"
            say(
                f"{'Redis' if older.store == 'redis' else 'MongoDB'} came back older than {other}: of shard"
                f" {older.shard}, Redis knew claims up to {moment(older.redis)}, MongoDB up to {moment(older.mongo)}."
            )
        for each in epoch.accepted:
            amounts = ", ".join(
                f"{rollup} {counter} {amount:+,}"
                for rollup, counters in each.differences.items()
                for counter, amount in counters.items()
            )
            say(f"Accepted {each.at:%Y-%m-%d %H:%M:%S} UTC by {each.by}: {amounts}. {each.reason}")


def _print(report: Report, repaired: int, aliases: int, console: Console, *, deep: bool, rebuilt: bool) -> None:
    print_table(
        ("counter", "accepted", "live", "in flight", "applied", "dead", "difference", "base"),
        [
            (
                line.counter,
                f"{line.accepted:,}" + (f" + {line.baseline:,} before" if line.baseline else ""),
                *(line.live, line.in_flight, line.applied, line.dead),
                line.difference if report.exact else "moving",
                line.base,
            )
            for line in report.lines
        ],
    )
    _print_records(report)
    for broken in report.broken[:DIFFERENCES_SHOWN]:
        where = "" if broken.shard is None else f" shard {broken.shard}"
        say(f"{broken.law}{where} {broken.counter}: {broken.difference:+,}  {broken.detail}", "red")
    more = len(report.broken) - DIFFERENCES_SHOWN + report.broken_more
    if more > 0:
        console.print(f"… and {more} more (--json lists them)")
    if report.unmapped:
        partly = f"MySQL was compared for {', '.join(report.mapped)}. No table: {', '.join(report.unmapped)}"
        say(f"{partly if report.mapped else NOTHING_MAPPED}.", "yellow")
    if rebuilt:
        console.print("The flush daemon adds up whole domains anew before its next claim.")
    if repaired:
        console.print(f"{repaired} rows of MySQL were set to MongoDB's totals.")
    if aliases:
        console.print(f"{aliases} entities lost a base that was of another id's row.")
    if report.rows_pending:
        console.print(f"{report.rows_pending} rows of MySQL are due. The next sync sets them.")
    if report.rows_missing:
        console.print(f"{report.rows_missing} entities have totals and no row: no row's key is their id.")
    if report.history_pending:
        console.print(
            f"The history of {report.history_pending} entities is half written, so the bases were not compared."
            " If `tallyd backfill --daily` was interrupted, run it again."
        )
    if report.malformed:
        console.print(f"{report.malformed} foreign values in Redis are in no sum. A flush makes dead letters of them.")
    from daemon.read.trouble import lasted

    if report.spooled_segments:
        console.print(f"{report.spooled_bytes:,} bytes wait in the spool. They are accepted when they are replayed.")
    print_strays(report.spool_strays, "the spool")
    for known in report.spools:
        said = known.report
        silent = f", and has not reported for {lasted(known.age_s)}" if known.silent else ""
        held = f"{said.bytes:,} bytes of events" if said.segments else "nothing"
        say(f"The spool {said.dir} of {said.host} held {held}{silent}. Events in it are in no sum.", "yellow")
    for each in report.held:
        if each.hold is not None:
            say(f"Shard {each.shard} is held. If it goes on, {each.hold.bound}. See `tallyd shards list`.", "red")
    if report.spool_error:
        say(f"{report.spool_error}. Events in it are in no sum.", "red")
    if deep and not report.deep:
        console.print("Counts moved, so the entities were not compared one by one. Try again at a calmer time.")
    if report.holds:
        console.print(_verdict(report), style="green")
