"""`tallyd shadow-compare`: compares the application's own column with tallyd's, while both count."""

from __future__ import annotations

import datetime as dt
import re
from typing import TYPE_CHECKING, Annotated, NamedTuple

import msgspec
import typer
from rich.console import Console

from daemon.cli.flush import flush_first
from daemon.cli.options import ConfigOption, DataOption, JsonOption, WaitOption, load, run
from daemon.cli.output import print_json, print_table
from daemon.cli.record import RecordOption, recorded
from daemon.config import Config, replica_tables
from daemon.errors import CheckFailed, ConfigError

if TYPE_CHECKING:
    from daemon.verify.shadow import BadDay, Comparison, Percentiles, Snapshot, Trend

_TOLERANCE = re.compile(r"(\d+(?:\.\d+)?)(%?)\Z", re.ASCII)


class Tolerance(NamedTuple):
    """How far apart the columns of a table may be, all rows together."""

    amount: float
    is_percent: bool

    def allows(self, found: Comparison | Snapshot) -> bool:
        from daemon.verify.shadow import percent_of

        if not self.is_percent:
            return found.apart <= self.amount
        percent = percent_of(found.apart, found.own)
        return percent is not None and percent <= self.amount


class _Compared(NamedTuple):
    """A counter's comparison, and the first of the days that were asked for that was not within the tolerance."""

    comparison: Comparison
    trend: list[Trend]
    bad_day: BadDay | None

    @property
    def name(self) -> str:
        return f"{self.comparison.entity_type} {self.comparison.counter}"


def shadow_compare(
    config: ConfigOption = None,
    data: DataOption = None,
    tolerance: Annotated[
        str, typer.Option(metavar="N or N%", help="How far apart all rows together may be; N% of the application's.")
    ] = "0",
    days: Annotated[
        int, typer.Option(min=1, max=90, help="Each of the last days must be within the tolerance: 7, 14, 30 or 90.")
    ] = 1,
    worst: Annotated[int, typer.Option(min=0, max=10_000, help="How many of the rows that differ most.")] = 10,
    wait: WaitOption = False,
    record: RecordOption = False,
    as_json: JsonOption = False,
) -> None:
    """Compare the application's own column with tallyd's: sums, percentiles of the rows' differences, the worst rows,
    and how both grew over 1, 7, 14, 30 and 90 days.

    Configure `shadow` in [replica.DOMAIN.TYPE]: counter = the application's column. MongoDB keeps one result for each
    day, so run it daily. Exit 1 if the differences of all rows, added up without their signs, exceed the tolerance.
    With --days, also if they did on one of the last days, or if that has no result. The first such day is named.

    Example: `tallyd shadow-compare --wait --tolerance 0.1% --days 30`
    """
    limit = _tolerance(tolerance)
    loaded = load(config, data, "redis", "mongo", "mysql")
    if not any(table.shadow for table in replica_tables(loaded).values()):
        raise ConfigError('No table has a shadow column: set replica.DOMAIN.TYPE.shadow = { counter = "column" }.')
    with recorded(loaded, "shadow-compare", wanted=record) as kept:
        found = run(_compare(loaded, worst, days, limit, wait=wait))
        if as_json:
            print_json(
                [
                    {
                        **msgspec.to_builtins(each.comparison),
                        "trend": each.trend,
                        "within_tolerance": limit.allows(each.comparison),
                        "bad_day": each.bad_day,
                    }
                    for each in found
                ]
            )
        else:
            console = Console()
            for each in found:
                _print(each.comparison, each.trend, console)
        kept.figures |= {
            f"apart:{each.comparison.entity_type.replace('.', ':')}:{each.comparison.counter}": each.comparison.apart
            for each in found
        }
        kept.summary = f"{len(found)} columns compared, none further apart than {tolerance}."
        beyond = [each.name for each in found if not limit.allows(each.comparison)]
        if beyond:
            raise CheckFailed(f"Further apart than {tolerance}: {', '.join(beyond)}.")
        bad = [f"{each.name} on {each.bad_day.date} {each.bad_day.why}" for each in found if each.bad_day]
        if bad:
            raise CheckFailed(f"Not within {tolerance} on each of the last {days} days: {'; '.join(bad)}.")


def _tolerance(text: str) -> Tolerance:
    match = _TOLERANCE.match(text)
    if match is None:
        raise ConfigError(f"--tolerance: {text!r} must be a number of counts or a percentage, such as 50 or 0.1%.")
    return Tolerance(float(match[1]), bool(match[2]))


async def _compare(config: Config, worst: int, days: int, limit: Tolerance, *, wait: bool) -> list[_Compared]:
    from daemon.replica.mysql import MysqlSink
    from daemon.rollups.mongo import MongoSink
    from daemon.verify import shadow

    if wait:
        await flush_first(config)
    now = dt.datetime.now(dt.UTC)
    found = []
    async with MongoSink(config.mongo) as mongo, MysqlSink(config.mysql) as mysql:
        for (domain, kind), table in replica_tables(config).items():
            for counter in table.shadow:
                comparison = await shadow.compare(mysql, f"{domain}.{kind}", table, counter, worst)
                past = await shadow.snapshots(mongo, comparison, now.date())
                await shadow.record(mongo, comparison, now)
                bad_day = shadow.bad_day(past, now.date(), days, limit.allows)
                found.append(_Compared(comparison, shadow.trends(past, comparison, now.date()), bad_day))
    return found


def _print(found: Comparison, trend: list[Trend], console: Console) -> None:
    columns = f"the application's {found.own_column}, tallyd's {found.tallyd_column}"
    console.print(f"{found.entity_type} {found.counter}: {columns}")
    console.print(
        f"{found.rows:,} rows, {found.differing:,} differ; sums {found.own:,} and {found.tallyd:,}"
        f" ({found.difference:+,}); apart {found.apart:,} ({_percent(found.apart_percent)})"
    )
    console.print(f"a row: {_percentiles(found.absolute)}; in percent: {_percentiles(found.percent)}", soft_wrap=True)
    if found.worst:
        print_table(
            ("row", "application", "tallyd", "difference", "percent"),
            [
                (row.label or row.key, row.own, row.tallyd, f"{row.difference:+,}", _percent(row.percent))
                for row in found.worst
            ],
        )
    if trend:
        print_table(
            ("days", "since", "application grew", "tallyd grew", "difference", "percent"),
            [
                (
                    *(each.days, str(each.since), each.own, each.tallyd),
                    *(f"{each.difference:+,}", _percent(each.percent)),
                )
                for each in trend
            ],
        )


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:g} %"


def _percentiles(of: Percentiles) -> str:
    return f"p50 {of.p50:g}, p90 {of.p90:g}, p99 {of.p99:g}, max {of.max:g}"
