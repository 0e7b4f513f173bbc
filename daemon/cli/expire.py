"""`tallyd expire`: gives up hours, days and weeks that are older than the configured age."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from daemon.cli.options import ConfigOption, DataOption, JsonOption, load, run
from daemon.cli.output import print_json, print_table, progress
from daemon.cli.record import RecordOption, recorded
from daemon.config import Config
from daemon.errors import ConfigError

if TYPE_CHECKING:
    from daemon.retention.expire import Expired


def expire(
    config: ConfigOption = None,
    data: DataOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be deleted.")] = False,
    record: RecordOption = False,
    as_json: JsonOption = False,
) -> None:
    """Delete the hourly, daily and weekly documents that are older than `retention.hourly_days`, `daily_days` and
    `weekly_weeks`.

    Their amounts are kept as one sum for each entity, so `tallyd audit` still accounts for every count. Documents
    written within the last seven days wait for a later run. Safe to interrupt and to repeat.

    Example: `tallyd expire --dry-run`
    """
    if dry_run and record:
        raise ConfigError("--dry-run and --record: choose one.")
    loaded = load(config, data, "redis", "mongo")
    with recorded(loaded, "expire", wanted=record) as kept:
        done = run(_expire(loaded, dry_run=dry_run))
        kept.figures |= {f"deleted:{each.rollup}": each.documents for each in done}
        kept.summary = f"{sum(each.documents for each in done):,} documents were deleted."
    if as_json:
        print_json(done)
        return
    print_table(
        ("rollup", "kept from", *(("would be deleted", "amounts") if dry_run else ("deleted",))),
        [
            (
                each.rollup,
                each.kept_from or "all",
                each.documents,
                *([", ".join(f"{field} {amount:,}" for field, amount in each.amounts.items())] if dry_run else []),
            )
            for each in done
        ],
    )


async def _expire(config: Config, *, dry_run: bool) -> list[Expired]:
    from daemon.buffer.connection import opened
    from daemon.retention.expire import expire
    from daemon.rollups.mongo import MongoSink

    with progress("Expiring") as move:
        async with MongoSink(config.mongo, decides=True) as mongo, opened(config.redis) as redis:
            return await expire(
                config, redis, mongo, dry_run=dry_run,
                progress=lambda so_far: move(description=f"{so_far.rollup}: {so_far.documents:,} documents"),
            )  # fmt: skip
