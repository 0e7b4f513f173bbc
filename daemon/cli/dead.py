"""`tallyd dead`: the amounts no document could take."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from daemon.cli.options import ConfigOption, DataOption, JsonOption, load, print_json, run
from daemon.config import Config, replica_tables, require
from daemon.errors import CheckFailed, ConfigError
from daemon.rollups.dead_letters import DeadLetters, Letter, Retried

app = typer.Typer(help="Look at, retry or drop the amounts no document could take.", no_args_is_help=True)

IdArgument = Annotated[str, typer.Argument(metavar="ID", help="The letter's id, as `dead list` shows it.")]


@app.command("list")
def list_(
    config: ConfigOption = None,
    data: DataOption = None,
    limit: Annotated[int, typer.Option(min=1, help="How many.")] = 100,
    dropped: Annotated[bool, typer.Option("--dropped", help="Those that were dropped, too.")] = False,
    as_json: JsonOption = False,
) -> None:
    """List dead letters, the oldest first.

    Example: `tallyd dead list --limit 20`
    """

    async def work(loaded: Config) -> list[Letter]:
        async with _letters(loaded) as letters:
            found: list[Letter] = []
            async for letter in letters.each(dropped=dropped):
                found.append(letter)
                if len(found) == limit:
                    break
            return found

    found = run(work(load(config, data)))
    if as_json:
        print_json(found)
        return
    table = Table("id", "deltas", "reason", "at")
    for letter in found:
        deltas = ", ".join(f"{counter} {amount}" for counter, amount in letter.amounts.items())
        table.add_row(letter.id, deltas, letter.reason, f"{letter.at:%Y-%m-%d %H:%M:%S}")
    Console().print(table)


@app.command()
def show(id_: IdArgument, config: ConfigOption = None, data: DataOption = None) -> None:
    """Show one dead letter as JSON.

    Example: `tallyd dead show 0:1771495200000000:analytics_entity_daily:jav:movie:x:2026-02-19`
    """

    async def work(loaded: Config) -> Letter | None:
        async with _letters(loaded) as letters:
            return await letters.get(id_)

    found = run(work(load(config, data)))
    if found is None:
        raise CheckFailed(f"There is no dead letter {id_}.")
    print_json(msgspec.to_builtins(found))


@app.command()
def retry(
    id_: Annotated[str | None, typer.Argument(metavar="[ID]", help="The letter's id, as `dead list` shows it.")] = None,
    all_: Annotated[bool, typer.Option("--all", help="Retry every letter.")] = False,
    config: ConfigOption = None,
    data: DataOption = None,
) -> None:
    """Add a letter's amounts to its document, exactly once, after what was in their way was mended.

    Example: `tallyd dead retry --all`
    """
    if (id_ is None) == (not all_):
        raise ConfigError("Name one letter, or --all.")

    async def work(loaded: Config) -> dict[str, Retried]:
        async with _letters(loaded) as letters:
            if id_ is None:
                return {letter.id: await _retry(loaded, letters, letter) async for letter in letters.each()}
            found = await letters.get(id_)
            if found is None:
                raise CheckFailed(f"There is no dead letter {id_}.")
            return {id_: await _retry(loaded, letters, found)}

    results = run(work(load(config, data)))
    for letter_id, result in results.items():
        print(f"{letter_id}: {result.value}")
    failed = sum(result is not Retried.APPLIED for result in results.values())
    print(f"{len(results) - failed} applied, {failed} not.")
    if failed:
        raise CheckFailed(f"{failed} dead letters could not be applied.")


@app.command()
def drop(id_: IdArgument, config: ConfigOption = None, data: DataOption = None) -> None:
    """Give a letter's amounts up. It stays on record, so that `tallyd audit` can account for them.

    Example: `tallyd dead drop 0:1771495200000000::jav:movie:x view`
    """

    async def work(loaded: Config) -> bool:
        async with _letters(loaded) as letters:
            return await letters.drop(id_)

    if not run(work(load(config, data))):
        raise CheckFailed(f"No dead letter {id_} waits for a decision.")
    print(f"{id_}: dropped")


async def _retry(config: Config, letters: DeadLetters, letter: Letter) -> Retried:
    """The document first, then MySQL's list, then the letter goes: dying anywhere in between repeats harmlessly."""
    from daemon.buffer.connection import opened
    from daemon.buffer.due import make_due
    from daemon.domain.entity import parse_entity
    from daemon.domain.rollup import TOTALS

    result = await letters.retry(letter)
    if result is not Retried.APPLIED:
        return result
    entity = parse_entity(letter.document)
    if letter.collection == TOTALS.collection and entity and (entity.domain, entity.type) in replica_tables(config):
        async with opened(config.redis) as redis:
            await make_due(redis, letter.shard, [letter.document])
    await letters.forget(letter)
    return result


@asynccontextmanager
async def _letters(config: Config) -> AsyncIterator[DeadLetters]:
    from daemon.rollups.mongo import MongoSink

    require(config, "redis", "mongo")
    mongo = MongoSink(config.mongo)
    try:
        yield mongo.dead_letters
    finally:
        await mongo.close()
