"""`tallyd dead`: the amounts that no document could take."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from daemon.cli.options import ConfigOption, DataOption, JsonOption, load, run
from daemon.cli.output import print_json, print_table, say
from daemon.config import Config, replica_tables
from daemon.errors import CheckFailed, ConfigError

if TYPE_CHECKING:
    from daemon.rollups.dead_letters import DeadLetters, Letter, Retried

app = typer.Typer(help="Look at, retry or drop the amounts no document could take.", no_args_is_help=True)

IdArgument = Annotated[str, typer.Argument(metavar="ID", help="The letter's id, as `dead list` shows it.")]

T = TypeVar("T")


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

    async def work(letters: DeadLetters, _: Config) -> list[Letter]:
        found: list[Letter] = []
        async for letter in letters.each(dropped=dropped):
            found.append(letter)
            if len(found) == limit:
                break
        return found

    found = _on_letters(config, data, work)
    if as_json:
        print_json(found)
        return
    print_table(
        ("id", "amounts", "reason", "at"),
        [
            (
                letter.id,
                ", ".join(f"{counter} {amount}" for counter, amount in letter.amounts.items()),
                letter.reason,
                f"{letter.at:%Y-%m-%d %H:%M:%S}",
            )
            for letter in found
        ],
    )


@app.command()
def show(id_: IdArgument, config: ConfigOption = None, data: DataOption = None) -> None:
    """Show one dead letter as JSON.

    Example: `tallyd dead show 0:1771495200000000:analytics_entity_daily:jav:movie:x:2026-02-19`
    """
    print_json(_on_letters(config, data, lambda letters, _: _existing(letters, id_)))


@app.command()
def retry(
    id_: Annotated[str | None, typer.Argument(metavar="ID", help="The letter's id, as `dead list` shows it.")] = None,
    all_: Annotated[bool, typer.Option("--all", help="Retry every letter.")] = False,
    config: ConfigOption = None,
    data: DataOption = None,
) -> None:
    """Add a letter's amounts to its document, exactly once. First remove the reason why the document refused them.

    Example: `tallyd dead retry --all`
    """
    from daemon.rollups.dead_letters import Retried

    if (id_ is None) == (not all_):
        raise ConfigError("Name one letter, or --all.")

    async def work(letters: DeadLetters, loaded: Config) -> dict[str, Retried]:
        if id_ is None:
            return {letter.id: await _retry(loaded, letters, letter) async for letter in letters.each()}
        return {id_: await _retry(loaded, letters, await _existing(letters, id_))}

    results = _on_letters(config, data, work)
    for letter_id, result in results.items():
        say(f"{letter_id}: {result.value}")
    failed = sum(result is not Retried.APPLIED for result in results.values())
    print(f"{len(results) - failed} applied, {failed} not.")
    if failed:
        raise CheckFailed(f"{failed} dead letters could not be applied.")


@app.command()
def drop(id_: IdArgument, config: ConfigOption = None, data: DataOption = None) -> None:
    """Give a letter's amounts up. The letter stays on record, for `tallyd audit`.

    Example: `tallyd dead drop 0:1771495200000000::jav:movie:x view`
    """
    if not _on_letters(config, data, lambda letters, _: letters.drop(id_)):
        raise CheckFailed(f"No dead letter {id_} waits for a decision.")
    say(f"{id_}: dropped")


def _on_letters(config: Path | None, data: Path | None, work: Callable[[DeadLetters, Config], Awaitable[T]]) -> T:
    from daemon.rollups.mongo import MongoSink

    loaded = load(config, data, "redis", "mongo")

    async def opened() -> T:
        async with MongoSink(loaded.mongo, decides=True) as mongo:
            return await work(mongo.dead_letters, loaded)

    return run(opened())


async def _existing(letters: DeadLetters, id_: str) -> Letter:
    found = await letters.get(id_)
    if found is None:
        raise CheckFailed(f"There is no dead letter {id_}.")
    return found


async def _retry(config: Config, letters: DeadLetters, letter: Letter) -> Retried:
    """First the document, then the list of due rows, then the letter is deleted. A crash in between is safe: the next
    retry repeats the steps, and none counts twice."""
    from daemon.buffer.connection import opened
    from daemon.buffer.due import make_due
    from daemon.buffer.keys import Keys
    from daemon.domain.entity import parse_entity
    from daemon.domain.rollup import TOTALS
    from daemon.rollups.dead_letters import Retried

    result = await letters.retry(letter)
    if result is not Retried.APPLIED:
        return result
    entity = parse_entity(letter.document)
    if letter.collection == TOTALS.collection and entity and (entity.domain, entity.type) in replica_tables(config):
        async with opened(config.redis) as redis:
            await make_due(redis, Keys.of(config.redis).shard(letter.shard), [letter.document])
    await letters.forget(letter)
    return result
