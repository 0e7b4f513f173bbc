"""A configuration as these tests give it: a file, and variables."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from daemon.config import Config, load
from daemon.errors import ConfigError

OPS = Path(__file__).resolve().parents[3] / "ops"


def read(toml: str = "", **environ: str) -> Config:
    """The configuration of this file and these variables (without their prefix)."""
    Path("given.toml").write_text(toml)
    return load(Path("given.toml"), environ={f"TALLYD_{name}": value for name, value in environ.items()})


def problems(toml: str = "", **environ: str) -> list[str]:
    """The problems told, one a line, each with the place it comes from."""
    with pytest.raises(ConfigError) as raised:
        read(toml, **environ)
    first, *lines = str(raised.value).splitlines()
    assert first == "The configuration is wrong:"
    assert raised.value.exit_code == 2
    return [line.removeprefix("  ") for line in lines]


def without_place(line: str) -> str:
    """A problem without the line or variable it comes from."""
    return re.sub(r"\A(?:given\.toml line \d+|TALLYD_[A-Z0-9_]+): ", "", line)


def keys_of(lines: list[str]) -> list[str]:
    return [without_place(line).partition(":")[0] for line in lines]
