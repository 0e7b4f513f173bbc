"""`tallyd replay`: the spool by hand, when no ingest daemon is there to do it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from daemon.cli.options import ConfigOption, DataOption, JsonOption, load, print_json, run
from daemon.config import Config, require
from daemon.errors import ConfigError, StoreError

if TYPE_CHECKING:
    from daemon.spool.replay import Replayed


def replay(config: ConfigOption = None, data: DataOption = None, as_json: JsonOption = False) -> None:
    """Send what waits in the spool to Redis. Running daemons do that by themselves; this is for a machine without one.

    Safe to repeat and to interrupt: events that had reached Redis are recognised. Exit 1 if something is left.

    Example: `tallyd replay --data .tallyd`
    """
    loaded = load(config, data)
    require(loaded, "redis")
    if not loaded.spool.dir:
        raise ConfigError("spool.dir is empty: there is no spool to replay.")
    done, error = run(_replay(loaded))
    if as_json:
        print_json({**dataclasses.asdict(done), "error": error})
    else:
        print(
            f"{done.events:,} events of {done.segments} segments replayed: {done.counted:,} were new,"
            f" {done.events - done.counted:,} had reached Redis before. {done.damaged_bytes:,} damaged bytes set aside"
            f" in {Path(loaded.spool.dir) / 'damaged'}. {done.busy} segments are held by running daemons."
        )
    if error:
        raise StoreError(f"{error}\nWhat is left stays in {loaded.spool.dir}; run this again.")


async def _replay(config: Config) -> tuple[Replayed, str | None]:
    from daemon.buffer.connection import Connection
    from daemon.buffer.counters import Counters, Limits, ingest_events
    from daemon.buffer.layout import Layout
    from daemon.spool.replay import Replayed, Replayer
    from daemon.spool.segment import list_segments

    connection = Connection(config.redis, Layout(config))
    limits = Limits(0, config.dedupe.window_s, config.dedupe.events_per_window)
    counters = [Counters(connection, shard, limits) for shard in range(config.redis.shards)]
    replayer = Replayer(
        Path(config.spool.dir),
        lambda events: ingest_events(counters, events),
        call_events_max=config.spool.replay_call_events_max,
    )
    done, console = Replayed(), Console(stderr=True)
    columns = (TextColumn("Replaying"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=len(list_segments(Path(config.spool.dir))))
        try:
            await replayer.replay(done, lambda so_far: bar.update(task, completed=so_far.segments))
        except StoreError as error:
            return done, str(error)
        finally:
            await connection.close()
    return done, None
