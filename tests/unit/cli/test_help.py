"""`--help` of the whole and of each command."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from textwrap import dedent
from typing import Any

import pytest

from daemon.cli import CHECK, COMMANDS, ITSELF, KEEP, LOOK, MOVE, RUN, application, called
from daemon.cli.command import command_tree
from tests.kit.commands import run

WIDTH = 80
LINE_MAX = 60
"""What the list of commands has room for on a terminal of 80 columns."""
TREE = command_tree(application())


def listed() -> dict[str, Any]:
    return dict(TREE.commands)


def each_command() -> Iterator[tuple[str, Any]]:
    """Each command that does something, by the words one types."""
    for name, command in listed().items():
        for inner, each in getattr(command, "commands", {"": command}).items():
            yield f"{name} {inner}".strip(), each


def shown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """What a terminal of 80 columns shows."""
    monkeypatch.setenv("COLUMNS", str(WIDTH))
    with pytest.raises(SystemExit) as ended:
        TREE(list(words), prog_name="tallyd")
    assert ended.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize(("words", "command"), list(each_command()))
def test_each_command_shows_how_it_is_called(words: str, command: Any) -> None:
    _, _, example = command.help.partition("Example: `")
    assert f"tallyd {words}" in example


@pytest.mark.parametrize("name", listed())
def test_each_is_in_the_list_with_one_line(name: str) -> None:
    command = listed()[name]
    assert command.rich_help_panel in (RUN, LOOK, CHECK, MOVE, KEEP, ITSELF)
    assert 0 < len(command.short_help) <= LINE_MAX


@pytest.mark.parametrize("name", [name for name in listed() if hasattr(listed()[name], "commands")])
def test_the_line_of_a_group_names_what_is_in_it(name: str) -> None:
    group = listed()[name]
    assert group.short_help.partition(": ")[2] == f"{', '.join(group.commands)}."


@pytest.mark.parametrize("words", [words for words, _ in each_command()])
def test_it_names_no_type_of_python_and_cuts_no_word(
    words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = shown(monkeypatch, capsys, *words.split(), "--help")
    assert not re.search(
        r"<(bool|int|str|float|list|file|path|directory|datetime|%Y)|\[\[|\w\|$", text, re.MULTILINE
    ), text
    assert max(map(len, text.splitlines())) <= WIDTH
    command = dict(each_command())[words]
    for parameter in command.params:
        said = " ".join(re.sub("[│ \n]+", " ", text).split())
        assert (parameter.metavar or "") in said, "it stands in one line"
        for choice in parameter.type_descriptor.choices or ():
            assert str(getattr(choice, "value", choice)) in said
        assert "--verbose" in said


def test_a_short_flag_shows_it_too(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for words in ((), ("top",), ("dead",), ("dead", "list")):
        long, short = (shown(monkeypatch, capsys, *words, flag) for flag in ("--help", "-h"))
        assert short == long


def test_a_command_waits_for_no_driver_that_it_does_not_use() -> None:
    """`--help`, and the check at each reload. A command imports a store's driver itself."""
    assert loaded("COMMANDS", "redis", "pymongo", "asyncmy", "granian") == "set()"


def test_a_daemon_waits_for_no_other_command_and_for_nothing_that_draws() -> None:
    assert loaded("['ingest']", "rich", "daemon.cli.audit", "daemon.cli.ingest") == "{'daemon.cli.ingest'}"
    assert loaded("['flush']", "rich", "daemon.cli.audit", "daemon.cli.flush") == "{'daemon.cli.flush'}"


@pytest.mark.parametrize("words", [["top"], ["dead", "list"], ["parity-check", "--json"]])
def test_only_the_command_that_is_called_is_needed(words: list[str]) -> None:
    assert called(words) == words[:1]


@pytest.mark.parametrize("words", [[], ["--help"], ["--verbose", "top"], ["tpo"]])
def test_all_are_there_for_the_list_and_for_whoever_mistypes(words: list[str]) -> None:
    assert called(words) == COMMANDS


def loaded(commands: str, *modules: str) -> str:
    """Which of the modules a process has that put these commands together."""
    program = f"""
        import sys
        from daemon.cli import COMMANDS, application
        application({commands})
        print({{*{modules}}} & {{*sys.modules}})"""
    return run([sys.executable, "-c", dedent(program)], check=True).stdout.strip()
