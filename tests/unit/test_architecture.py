"""Who may import whom. The code may do no more than this table says, and the table says no more than the code does.

`daemon/DESIGN.md` shows the same table. After a change: python -m tests.unit.test_architecture
"""

from __future__ import annotations

import ast
import graphlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "daemon"
DESIGN = PACKAGE / "DESIGN.md"


class Room(NamedTuple):
    """A folder or a top-level module. `imports`: the rooms it may import besides the ground."""

    what: str
    imports: str = ""


GROUND = ("errors", "domain", "config")
"""Rooms that any room below them in the table may import."""

ROOMS: dict[str, Room] = {
    # From the ground up. A room imports only rooms that stand above it here.
    "errors": Room("the errors that are raised on purpose"),
    "domain": Room("pure values: entity, event, admission, counter, rollup"),
    "config": Room("the configuration: schema, load, check, effective"),
    "log": Room("one line an event"),
    "counted": Room("what was counted, in words"),
    "retry": Room("the pause before a next attempt"),
    "notify": Room("what systemd is told"),
    "scheduling": Room("who gets a core first"),
    "files": Room("files that are written whole or not at all"),
    "response": Room("the answer to an HTTP request"),
    "lifecycle": Room("signals, and what a reload changed"),
    "metrics": Room("every metric"),
    "exposition": Room("/metrics, and whether a daemon lives", "log metrics response"),
    "traces": Room("spans of calls, claims, bulk writes and UPDATEs", "log"),
    "devstack": Room("private servers; never in production", "scheduling"),
    "buffer": Room("Redis: connection, keys, scripts, dedupe", "retry traces"),
    "rollups": Room("MongoDB: documents, guard, dead letters", "traces"),
    "replica": Room("MySQL: due rows, bases, columns", "buffer rollups metrics retry traces"),
    "retention": Room("gives up old days and weeks", "buffer rollups"),
    "spool": Room("events on disk while Redis is away", "buffer metrics retry"),
    "flush": Room(
        "claim, rollups, ack, and the sync",
        "buffer rollups replica retention counted exposition lifecycle log metrics notify response retry scheduling"
        " traces",
    ),
    "read": Room("the answers to GET", "buffer rollups replica spool metrics response retry"),
    "web": Room("what a browser gets: tracker, dashboard, pixel, badge", "response"),
    "ingest/process": Room(
        "the main process, and its ties to the workers",
        "spool exposition lifecycle log metrics notify response scheduling",
    ),
    "ingest": Room("HTTP to Redis", "buffer spool read web counted log metrics response retry traces ingest/process"),
    "importer": Room("files to Redis", "buffer ingest lifecycle log retry"),
    "export": Room("rollups as files", "rollups"),
    "verify/audit": Room("is every amount where it should be?", "buffer rollups replica spool retention"),
    "verify/parity": Room("does MySQL say the same?", "buffer rollups replica verify/audit"),
    "verify/shadow": Room("does the application count the same?", "rollups replica"),
    "verify/report": Room("evidence as files", "buffer rollups files read verify/audit verify/parity"),
    "doctor": Room("is the ground sound?", "buffer rollups replica spool"),
    "install": Room("puts tallyd on a server, and takes it off", "files spool"),
    "move/backfill": Room("takes old counts over", "buffer rollups replica importer retention"),
    "move/drill": Room("rehearses going over and back", "devstack flush read move/backfill verify/audit verify/report"),
}
WINGS = ("verify", "move")
TOP = "cli"
"""It may import any room, and no room imports it."""


def room_of(module: str) -> str:
    """The room of `daemon.a.b`: its folder; in a wing and in `ingest/process`, the folder below. "": the package."""
    parts = module.split(".")[1:]
    deep = parts[:1] in ([wing] for wing in WINGS) or parts[:2] == ["ingest", "process"]
    return "/".join(parts[:2] if deep else parts[:1])


def sources() -> dict[str, str]:
    """Every module of the package, by its dotted name."""
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path.read_text()
        for path in PACKAGE.rglob("*.py")
    }


def imports_of(source: str) -> Iterator[tuple[str, str]]:
    """(module, name taken from it or "") of every import in a file, wherever it stands, for types only or not."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            yield from ((node.module, alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)


def graph(code: Mapping[str, str]) -> dict[str, set[str]]:
    """Module → the modules of ours that it imports."""
    return {
        name: {f"{module}.{taken}" if f"{module}.{taken}" in code else module for module, taken in imports_of(source)}
        & code.keys()
        for name, source in code.items()
    }


def arrows(code: Mapping[str, str]) -> dict[tuple[str, str], str]:
    """(room, a room it imports) → one import that does so."""
    return {
        (room_of(module), room_of(other)): f"{module} imports {other}"
        for module, others in graph(code).items()
        for other in others
        if room_of(other) not in ("", room_of(module))  # anyone may ask the package itself for its version
    }


def forbidden(code: Mapping[str, str]) -> list[str]:
    """The imports that the table does not allow."""
    order = list(ROOMS)
    return sorted(
        why
        for (room, other), why in arrows(code).items()
        if room in ROOMS
        and other not in ROOMS[room].imports.split()
        and not (other in GROUND and order.index(other) < order.index(room))
    )


def circle(code: Mapping[str, str]) -> list[str]:
    """The modules of one circle of imports; none if there is no circle."""
    try:
        graphlib.TopologicalSorter(graph(code)).prepare()
    except graphlib.CycleError as error:
        return list(error.args[1])
    return []


def test_no_room_imports_a_room_that_the_table_does_not_allow() -> None:
    assert forbidden(sources()) == []


def test_the_table_has_every_room_and_says_nothing_that_is_not_used() -> None:
    code = sources()
    assert {room_of(module) for module in code} - {"", TOP, *WINGS} == ROOMS.keys()
    used = arrows(code)
    said = [(room, other) for room, (_, imports) in ROOMS.items() for other in imports.split()]
    assert [arrow for arrow in said if arrow not in used] == []


def test_no_arrow_of_the_table_points_upward() -> None:
    order = list(ROOMS)
    said = [(room, other) for room, (_, imports) in ROOMS.items() for other in imports.split()]
    assert [(room, other) for room, other in said if order.index(other) > order.index(room)] == []


def test_no_file_imports_itself_by_way_of_others() -> None:
    assert circle(sources()) == []


@pytest.mark.parametrize(
    ("module", "planted", "told"),
    [
        ("daemon.flush.drain", "import daemon.ingest.app", "daemon.flush.drain imports daemon.ingest.app"),
        ("daemon.domain.entity", "from daemon import config", "daemon.domain.entity imports daemon.config"),
        ("daemon.read.api", "from daemon.cli import app", "daemon.read.api imports daemon.cli"),
        (
            "daemon.buffer.keys",
            "def late():\n    from daemon.rollups import mongo",
            "daemon.buffer.keys imports daemon.rollups.mongo",
        ),
    ],
)
def test_a_planted_import_is_found(module: str, planted: str, told: str) -> None:
    code = sources()
    assert forbidden(code | {module: f"{code[module]}\n{planted}\n"}) == [told]


def test_a_planted_circle_is_found() -> None:
    code = sources()
    planted = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import daemon.domain.admission"
    assert "daemon.domain.entity" in circle(
        code | {"daemon.domain.entity": f"{code['daemon.domain.entity']}\n{planted}\n"}
    )


def block() -> str:
    """The table as DESIGN.md shows it; the single files are one row."""
    ground = ", ".join(f"`{room}`" for room in GROUND)
    single = [room for room in ROOMS if "/" not in room and (PACKAGE / f"{room}.py").exists()]
    rows = [
        f"| `{room}` | {what} | {', '.join(f'`{each}`' for each in imports.split()) or '-'} |"
        for room, (what, imports) in ROOMS.items()
        if room not in single
    ]
    return "\n".join(
        [
            f"From the ground up: a room may import rooms above it. All may import {ground}. `cli` may import any.",
            "",
            "| room | what it is for | imports besides |",
            "|---|---|---|",
            f"| {', '.join(f'`{room}`' for room in single)} | single files | - |",
            *rows,
        ]
    )


def test_the_page_shows_this_table() -> None:
    assert f"<!-- rooms -->\n{block()}\n<!-- /rooms -->" in DESIGN.read_text()


if __name__ == "__main__":
    shown = re.compile(r"(?<=<!-- rooms -->\n).*(?=\n<!-- /rooms -->)", re.DOTALL)
    DESIGN.write_text(shown.sub(lambda _: block(), DESIGN.read_text()))
