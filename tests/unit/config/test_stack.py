"""What a command is told of a stack that is down."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from daemon import config
from daemon.errors import ConfigError


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which `tallyd dev` ran once."""
    (tmp_path / ".tallyd" / "log").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refusal(data: Path | None = None) -> str:
    with pytest.raises(ConfigError) as refused:
        config.require(config.load(data=data, environ={}), "redis", "mongo")
    return str(refused.value)


def test_one_that_ended_is_named(here: Path) -> None:
    assert refusal() == "The stack in ./.tallyd is stopped: `tallyd dev` starts it."
    (here / "justw").touch()
    assert refusal() == "The stack in ./.tallyd is stopped: `./justw dev` starts it."


def test_one_that_was_killed_left_its_addresses_and_is_named_too(here: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        pass
    addresses = {"redis": "redis://x:1/0", "mongo": "mongodb://x:1/x", "mysql": "", "pids": {"redis": ended.pid}}
    (here / ".tallyd" / "stack.json").write_text(json.dumps(addresses))
    assert refusal() == "The stack in ./.tallyd is stopped: `tallyd dev` starts it."
    assert refusal(here / ".tallyd").startswith(f"The stack in {here}/.tallyd is stopped: `tallyd dev --data")


def test_a_folder_without_one_is_told_how_to_make_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert refusal().startswith("No address for:")
    assert refusal(tmp_path).startswith(f"No embedded stack is up in {tmp_path}: start one")
