"""`tallyd expire`: gives up days and weeks that are older than the configured age."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from daemon.cli.options import ConfigOption, DataOption, JsonOption, load, print_json, run
from daemon.config import Config, require

if TYPE_CHECKING:
    from daemon.retention.expire import Expired


def expire(
    config: ConfigOption = None,
    data: DataOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be deleted.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Delete the daily and weekly documents that are older than `retention.daily_days` and `retention.weekly_weeks`.

    Their amounts are kept, added up per entity, so that `tallyd audit` still accounts for every count. Documents that
    were written to within the last seven days wait for a later run. Safe to interrupt and to repeat.

    Example: `tallyd expire --dry-run`
    """
    loaded = load(config, data)
    require(loaded, "redis", "mongo")
    done = run(_expire(loaded, dry_run=dry_run))
    if as_json:
        print_json(done)
        return
    table = Table(
        "rollup", "kept from", "would be deleted" if dry_run else "deleted", *(["amounts"] if dry_run else [])
    )
    for each in done:
        amounts = ", ".join(f"{field} {amount:,}" for field, amount in each.amounts.items())
        table.add_row(each.rollup, each.kept_from or "all", f"{each.documents:,}", *([amounts] if dry_run else []))
    Console().print(table)


async def _expire(config: Config, *, dry_run: bool) -> list[Expired]:
    from daemon.buffer.connection import opened
    from daemon.retention.expire import expire
    from daemon.rollups.mongo import MongoSink

    mongo, console = MongoSink(config.mongo), Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    try:
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
            task = bar.add_task("Expiring")
            async with opened(config.redis) as redis:
                return await expire(
                    config, redis, mongo, dry_run=dry_run,
                    progress=lambda so_far: bar.update(
                        task, description=f"{so_far.rollup}: {so_far.documents:,} documents"
                    ),
                )  # fmt: skip
    finally:
        await mongo.close()
