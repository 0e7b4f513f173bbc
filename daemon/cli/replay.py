"""`tallyd replay`: sends the spool to Redis, on a machine where no ingest daemon does it."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from daemon.cli.options import ConfigOption, DataOption, JsonOption, load, run
from daemon.cli.output import print_json, print_strays, progress
from daemon.config import Config
from daemon.errors import ConfigError, StoreError

if TYPE_CHECKING:
    from daemon.spool.replay import Replayed


def replay(
    config: ConfigOption = None,
    data: DataOption = None,
    foreign: Annotated[
        bool, typer.Option("--foreign", help="Also segments for another Redis, or with a damaged first line.")
    ] = False,
    from_: Annotated[
        Path | None, typer.Option("--from", metavar="FOLDER", help="In place of spool.dir: another host's spool.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Send what waits in the spool to Redis. A running ingest daemon does that by itself.

    A segment names the Redis that its events are for. Those for another one are left alone: --foreign counts them here.

    Safe to repeat and to interrupt: an event that had reached Redis is not counted again. Exit 1 if something is left.

    Example: `tallyd replay --data .tallyd`

    If a host is lost, bring its folder here: `tallyd replay --from /root/spool-of-web-2`
    """
    loaded = load(config, data, "redis")
    if from_ is not None:
        loaded = msgspec.structs.replace(loaded, spool=msgspec.structs.replace(loaded.spool, dir=str(from_)))
    if not loaded.spool.dir:
        raise ConfigError("spool.dir is empty: there is no spool to replay.")
    done, error = run(_replay(loaded, foreign_too=foreign))
    if as_json:
        print_json({**msgspec.to_builtins(done), "error": error})
    else:
        print(
            f"{done.events:,} events of {done.segments} segments replayed: {done.counted:,} were new,"
            f" {done.events - done.counted:,} had reached Redis before. {done.damaged_bytes:,} damaged bytes set aside"
            f" in {Path(loaded.spool.dir) / 'damaged'}. {done.busy} segments are held by running daemons."
        )
    print_strays(done.strays, loaded.spool.dir)
    if error:
        raise StoreError(f"{error}\nThe rest stays in {loaded.spool.dir}. Run the command again.")


async def _replay(config: Config, *, foreign_too: bool) -> tuple[Replayed, str | None]:
    from daemon.buffer.connection import Connection
    from daemon.buffer.counters import Counters, Limits, ingest_events
    from daemon.buffer.layout import Layout
    from daemon.ingest.unconfirmed import Unconfirmed
    from daemon.spool.origin import origin_of
    from daemon.spool.register import say
    from daemon.spool.replay import Replayed, Replayer
    from daemon.spool.segment import list_contents

    layout = Layout(config)
    connection = Connection(config.redis, layout)
    connections = connection.for_shards(config.redis.shards)
    counters = [Counters(each, shard, Limits.of(config)) for shard, each in enumerate(connections)]
    unconfirmed = Unconfirmed.of_all(config, layout, counters, connections)
    folder, done = Path(config.spool.dir), Replayed()
    replayer = Replayer(
        folder,
        lambda events: ingest_events(counters, events),
        lambda: origin_of(config, connection.epoch),
        call_events_max=config.spool.replay_call_events_max,
        foreign_too=foreign_too,
        shards=len(counters) if connection.is_of_cluster else 1,
    )
    try:
        segments = len(list_contents(folder).segments)
    except OSError as error:
        raise StoreError(f"The spool in {folder} cannot be read: {error.strerror}.") from None
    with progress("Replaying", segments) as move:
        try:
            with contextlib.suppress(StoreError) if connection.is_of_cluster else contextlib.nullcontext():
                await connection.ping()  # its epoch says which segments are its own
            await replayer.replay(done, lambda so_far: move(completed=so_far.segments))
            for each in unconfirmed:
                await each.settle()
            with contextlib.suppress(OSError):  # a folder that cannot be written is replayed, too
                await say(connection, folder, leaving=True)
        except StoreError as error:
            return done, str(error)
        except OSError as error:
            return done, f"The spool in {folder} cannot be read: {error.strerror}."
        finally:
            for each in unconfirmed:
                await each.close()
            await connection.close()
    return done, None
