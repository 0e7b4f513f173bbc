"""`--help` of the whole and of each command."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import pytest
from typer.main import get_command

from daemon.cli import CHECK, KEEP, LOOK, MOVE, RUN, app
from tests.kit.commands import run

LINE_MAX = 60
"""What the list of commands has room for on a terminal of 80 columns."""


def listed() -> dict[str, Any]:
    whole: Any = get_command(app)
    return dict(whole.commands)


def examples() -> Iterator[tuple[str, str]]:
    """Each command and what its help says."""
    for name, command in listed().items():
        for inner, each in getattr(command, "commands", {"": command}).items():
            yield f"tallyd {name} {inner}".strip(), each.help


@pytest.mark.parametrize(("name", "help_"), list(examples()))
def test_each_command_shows_how_it_is_called(name: str, help_: str) -> None:
    _, _, example = help_.partition("Example: `")
    assert name in example


@pytest.mark.parametrize("name", listed())
def test_each_is_in_the_list_with_one_line(name: str) -> None:
    command = listed()[name]
    assert command.rich_help_panel in (RUN, LOOK, CHECK, MOVE, KEEP)
    assert 0 < len(command.short_help) <= LINE_MAX


def test_a_command_waits_for_no_driver_that_it_does_not_use() -> None:
    """`--help`, and the check at each reload. A command imports a store's driver itself."""
    program = "import daemon.cli, sys; print({'redis', 'pymongo', 'asyncmy', 'granian'} & {*sys.modules})"
    assert run([sys.executable, "-c", program]).stdout == "set()\n"
