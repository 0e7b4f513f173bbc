"""`tallyd shards`: how far Redis and MongoDB know each other's claims, and what an operator says if one is held."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from daemon.cli.options import ConfigOption, DataOption, JsonOption, load, run
from daemon.cli.output import print_json, print_table, say
from daemon.config import Config
from daemon.domain.instant import moment
from daemon.errors import CheckFailed, ConfigError

if TYPE_CHECKING:
    from daemon.verify.audit.claims import ShardClaims

app = typer.Typer(help="The claims of each shard, as both stores know them: list, accept.", no_args_is_help=True)


@app.command("list")
def list_(config: ConfigOption = None, data: DataOption = None, as_json: JsonOption = False) -> None:
    """List the last claim of each shard that Redis has accounted for, and the last one that MongoDB holds.

    "behind": Redis came back older, and the flush daemon puts that right by itself. "held": an operator has to decide;
    below the table it says how much is lost or counted twice at most.

    Example: `tallyd shards list`
    """
    found = run(_read(load(config, data, "redis", "mongo")))
    if as_json:
        print_json(msgspec.to_builtins(found))
        return
    print_table(
        ("shard", "redis", "mongo", "state"),
        [(str(each.shard), moment(each.redis), moment(each.mongo), each.state) for each in found],
    )
    for each in found:
        if each.hold is not None:
            since = f"{each.hold.at:%Y-%m-%d %H:%M:%S} UTC"
            say(f"Shard {each.shard} is held since {since}. If it goes on, {each.hold.bound}.", "red")
            say(f"  Bring the right Redis back, or run `tallyd shards accept {each.shard} --reason …`.")


@app.command("accept")
def accept(
    shard: Annotated[int, typer.Argument(min=0, help="The shard's number, as `shards list` shows it.")],
    reason: Annotated[str, typer.Option("--reason", help="Why, for the record.")],
    config: ConfigOption = None,
    data: DataOption = None,
) -> None:
    """Let a held shard go on with the Redis that it has. `tallyd shards list` says what that loses or counts twice.

    It holds for the state that Redis is in now. A Redis that falls back again is held again.

    Example: `tallyd shards accept 3 --reason "restored from the backup of 02:00"`
    """
    loaded = load(config, data, "redis", "mongo")
    if shard >= loaded.redis.shards:
        raise ConfigError(f"There is no shard {shard}: redis.shards is {loaded.redis.shards}.")
    if not reason.strip():
        raise ConfigError("--reason: say why, for the record.")
    if not run(_accept(loaded, shard, reason)):
        raise CheckFailed(f"Shard {shard} is not behind, so there is nothing to accept. See `tallyd shards list`.")
    typer.echo("The flush daemon goes on at its next attempt.", err=True)


async def _read(config: Config) -> list[ShardClaims]:
    from daemon.buffer.connection import opened
    from daemon.rollups.mongo import MongoSink
    from daemon.verify.audit.claims import read_claims

    async with opened(config.redis) as redis, MongoSink(config.mongo) as mongo:
        return [await read_claims(config, redis, mongo, shard) for shard in range(config.redis.shards)]


async def _accept(config: Config, shard: int, reason: str) -> bool:
    from daemon.buffer.connection import opened
    from daemon.rollups.floors import accept_held
    from daemon.rollups.mongo import MongoSink
    from daemon.verify.audit.audit import who
    from daemon.verify.audit.claims import read_claims

    async with opened(config.redis) as redis, MongoSink(config.mongo, decides=True) as mongo:
        found = await read_claims(config, redis, mongo, shard)
        if found.state not in ("behind", "held"):
            return False
        return await accept_held(mongo, shard, floor=found.mongo, acked=found.redis, by=who(), reason=reason)
