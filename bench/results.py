"""What was measured, as files: bench/results/GROUP.json, from which the README is made."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import msgspec

from bench.measure import Row

FOLDER = Path(__file__).with_name("results")


def _today() -> str:
    return dt.datetime.now(dt.UTC).date().isoformat()


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """A group's rows, and what they were measured on."""

    group: str
    date: str = msgspec.field(default_factory=_today)
    machine: dict[str, str]
    rows: list[Row]


def write(result: Result, folder: Path = FOLDER) -> None:
    """Replaces the group's file."""
    folder.mkdir(exist_ok=True)
    (folder / f"{result.group}.json").write_bytes(encode(result))


def read(group: str, folder: Path = FOLDER) -> Result | None:
    """What was measured last of this group, if ever."""
    path = folder / f"{group}.json"
    return msgspec.json.decode(path.read_bytes(), type=Result) if path.exists() else None


def encode(value: object) -> bytes:
    """JSON for people and for `diff`."""
    return msgspec.json.format(msgspec.json.encode(value), indent=1) + b"\n"
