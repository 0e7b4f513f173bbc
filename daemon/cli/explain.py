"""`tallyd explain`: one entity in every store, on one screen."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Annotated

import typer

from daemon.cli.options import ConfigOption, DataOption, JsonOption, chosen_type, load, run
from daemon.cli.output import print_json, print_table, say
from daemon.domain.entity import Entity
from daemon.domain.instant import moment
from daemon.domain.rollup import BUCKETED, TOTALS

if TYPE_CHECKING:
    from daemon.read.explain import Explained, Stored

NEWEST_SHOWN = 3
"""Documents of each rollup that the table shows. `--json` has all."""
LETTERS_SHOWN = 5


def explain(
    domain: Annotated[str, typer.Argument(metavar="DOMAIN", help="The entity's domain.")],
    entity_type: Annotated[str, typer.Argument(metavar="TYPE", help="Its type.")],
    entity_id: Annotated[str, typer.Argument(metavar="ID", help="Its id.")],
    config: ConfigOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show all that Redis, MongoDB and MySQL hold of one entity, and say what is wrong with it. It changes nothing.

    Example: `tallyd explain jav movie 2955a473-bce4-5179-9fa9-3554c066d728 --data .tallyd`
    """
    from daemon.read.explain import explain as read

    loaded = load(config, data, "redis", "mongo")
    found = run(read(loaded, Entity(*chosen_type(loaded, domain, entity_type), entity_id)))
    if as_json:
        print_json(found)
    else:
        _print(found)


def _print(found: Explained) -> None:
    say(f"{found.entity}, shard {found.shard}")
    counted, base = found.sums(TOTALS.name)
    claim = found.in_flight
    amounts = claim.amounts if claim else {}
    print_table(
        ("where", *found.counters),
        [
            ("live in Redis", *(found.live.get(name, 0) for name in found.counters)),
            ("in the claim in flight", *(amounts.get(name, 0) for name in found.counters)),
            ("counted in MongoDB", *(counted.get(name, 0) for name in found.counters)),
            ("base", *(base.get(name, 0) for name in found.counters)),
            *_row(found),
        ],
    )
    print_table(
        ("documents", "seq", *found.counters, "base", "updated"),
        [
            (
                f"{each.rollup} {'expired' if each.expired else each.bucket or ''}".rstrip(),
                "-" if each.flush_seq is None else str(each.flush_seq),
                *(each.counted.get(name, 0) for name in found.counters),
                ", ".join(f"{name} {amount:,}" for name, amount in each.base.items() if amount) or "-",
                _time(each.updated_at),
            )
            for each in _newest(found)
        ],
    )
    more = len(found.documents) - len(_newest(found))
    if more:
        say(f"… and {more} older documents (--json lists them)")
    say(f"Last claim of the shard: {moment(found.last)}. Floor in MongoDB: {moment(found.floor)}.")
    if claim:
        state = "open" if claim.open else "sealed"
        held = "with this entity" if amounts else "without this entity"
        say(f"In flight: {moment(claim.seq)}, {state}, {held}, of {claim.owner} until {_time(claim.until)}.")
    if found.row is not None:
        say("Its row is not due." if found.due is None else f"Its row is due since claim {moment(int(found.due))}.")
    if found.setting:
        say("A sync sets its row now, or died while it did.")
    for letter in found.letters[:LETTERS_SHOWN]:
        state = "waits" if letter.dropped_at is None else f"was dropped {_time(letter.dropped_at)}"
        amounts_said = ", ".join(f"{name} {amount}" for name, amount in letter.amounts.items())
        say(f"Dead letter {letter.id}: {amounts_said} ({letter.reason}); it {state}.")
    if len(found.letters) > LETTERS_SHOWN:
        say(f"… and {len(found.letters) - LETTERS_SHOWN} more dead letters")
    for finding in found.findings:
        say(finding, "yellow")
    if not found.findings:
        say("Nothing is wrong with it.", "green")


def _row(found: Explained) -> list[tuple[str | int, ...]]:
    row = found.row
    if row is None or row.columns is None:
        return []
    return [(f"row of {row.table}", *(row.columns.get(name, "-") for name in found.counters))]


def _newest(found: Explained) -> list[Stored]:
    """The totals, and the newest of each other rollup. They come oldest first."""
    shown = [found.totals] if found.totals else []
    for kind in BUCKETED:
        shown += [each for each in found.documents if each.rollup == kind.name][-NEWEST_SHOWN:]
    return shown


def _time(at: dt.datetime | None) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S}" if at else "-"
