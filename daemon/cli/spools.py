"""`tallyd spools`: the spools of all hosts, as they reported, and the end of one that is lost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from daemon.cli.options import ConfigOption, DataOption, JsonOption, load, run
from daemon.cli.output import print_json, print_table
from daemon.config import Config
from daemon.errors import CheckFailed

if TYPE_CHECKING:
    from daemon.spool.register import Known

app = typer.Typer(help="The spools of all hosts: list, forget.", no_args_is_help=True)


@app.command("list")
def list_(config: ConfigOption = None, data: DataOption = None, as_json: JsonOption = False) -> None:
    """List what each host's spool held when it last reported. A running ingest daemon reports every 5 seconds.

    A daemon that stopped with an empty spool is not listed. One that is silent was lost, or does not reach Redis.

    Example: `tallyd spools list`
    """
    from daemon.read.trouble import lasted

    found = run(_read(load(config, data, "redis")))
    if as_json:
        print_json(msgspec.to_builtins(found))
        return
    print_table(
        ("name", "host", "folder", "segments", "bytes", "reported"),
        [
            (
                known.name, known.report.host, known.report.dir, known.report.segments, known.report.bytes,
                f"{lasted(known.age_s)} ago" + (" (silent)" if known.silent else ""),
            )
            for known in found
        ],
    )  # fmt: skip


@app.command("forget")
def forget(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The spool's name, as `spools list` shows it.")],
    config: ConfigOption = None,
    data: DataOption = None,
) -> None:
    """Take a spool that is lost off the list. What was in it is not counted. If its folder is left, replay that first.

    Example: `tallyd spools forget 3f0c1b2a9d8e`
    """
    loaded = load(config, data, "redis")
    if not run(_forget(loaded, name)):
        raise CheckFailed(f"There is no spool {name}; see `tallyd spools list`.")


async def _read(config: Config) -> list[Known]:
    from daemon.buffer.connection import opened
    from daemon.buffer.keys import Keys
    from daemon.spool.register import read_reports

    async with opened(config.redis) as redis:
        return await read_reports(redis, Keys.of(config.redis))


async def _forget(config: Config, name: str) -> bool:
    from daemon.buffer.connection import opened
    from daemon.buffer.keys import Keys

    async with opened(config.redis) as redis:
        return bool(await redis.hdel(Keys.of(config.redis).spools, name))
