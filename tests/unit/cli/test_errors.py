"""What an error looks like: one line, and with --verbose all that led to it."""

from __future__ import annotations

import json
import logging
import platform
import sys
from collections.abc import Iterator

import pytest

from daemon import cli, log

FAULT = "tallyd: A fault of tallyd: KeyError: 'x'"


@pytest.fixture(autouse=True)
def _level() -> Iterator[None]:
    """Each test is a process of its own to the command."""
    yield
    logging.getLogger("daemon.cli").setLevel(logging.NOTSET)


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that does what nobody planned."""

    def fail() -> str:
        raise ExceptionGroup("of a task group", [KeyError("x")])

    monkeypatch.setattr(platform, "python_version", fail)


def ended(monkeypatch: pytest.MonkeyPatch, *words: str) -> object:
    monkeypatch.setattr(sys, "argv", ["tallyd", *words])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    return stopped.value.code


@pytest.mark.usefixtures("broken")
def test_an_unforeseen_one_is_one_line_that_says_where(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ended(monkeypatch, "version") == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.startswith(FAULT)
    assert "daemon/cli/version.py line" in said
    assert said.endswith("--verbose shows all of it.\n")


@pytest.mark.usefixtures("broken")
@pytest.mark.parametrize("words", [("--verbose", "version"), ("version", "--verbose")])
def test_the_traceback_comes_with_verbose_before_or_after_the_command(
    words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ended(monkeypatch, *words) == 1
    said = capsys.readouterr().err
    assert "Traceback" in said
    assert FAULT in said.splitlines()[-1], "the one line comes last, where one looks"


def test_a_foreseen_one_has_its_traceback_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("config", "--config", "/nowhere.toml")
    assert ended(monkeypatch, *words) == 2
    assert (
        capsys.readouterr().err
        == "tallyd: Cannot read the configuration file /nowhere.toml: No such file or directory.\n"
    )
    assert ended(monkeypatch, *words, "--verbose") == 2
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.usefixtures("broken")
def test_a_daemon_logs_it_with_the_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = logging.getLogger().handlers[:]
    log.configure("info", "json")
    try:
        assert ended(monkeypatch, "version") == 1
    finally:
        logging.getLogger().handlers = before
    [entry] = capsys.readouterr().err.splitlines()
    assert "KeyError" in json.loads(entry)["exception"]
