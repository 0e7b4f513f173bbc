"""Logging: one line an event, as text for people or as JSON for collectors, on standard error.

Each entry has the same fields: its time with the zone, its level and logger, the run of the daemon and the process.
`bound` adds a field to all entries of a block, or of a task. An entry of several lines has them indented in text, so a
line that begins with a time is an entry, and no stranger's text can forge one.

`neutral` is for all text that a terminal shows: a stranger may have chosen an id or a name in it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import sys
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Literal

import msgspec

RUN_ID_ENV = "TALLYD_RUN_ID"
WORKER_ENV = "TALLYD_WORKER"
"""The number of a worker process, from 1. The main process sets it."""

_BOUND: ContextVar[Mapping[str, str | int]] = ContextVar("bound", default=MappingProxyType({}))


def run_id() -> str:
    """Of this daemon and its workers, which inherit it. Made here, unless the environment has one."""
    return os.environ.setdefault(RUN_ID_ENV, secrets.token_hex(8))


@contextlib.contextmanager
def bound(**fields: str | int) -> Iterator[None]:
    """Adds fields to the entries of the block: `shard`, `request_id`."""
    token = _BOUND.set({**_BOUND.get(), **fields})
    try:
        yield
    finally:
        _BOUND.reset(token)


class _Formatter(logging.Formatter):
    """Knows the fields. A fork has the formatter of its parent until it is configured, so `pid` is the record's."""

    def __init__(self) -> None:
        super().__init__()
        self._run_id = run_id()
        self._worker = os.environ.get(WORKER_ENV)

    def fields(self, record: logging.LogRecord) -> dict[str, str | int]:
        worker = {"worker": int(self._worker)} if self._worker else {}
        return {"run_id": self._run_id, "pid": record.process or 0, **worker, **_BOUND.get()}

    def at(self, record: logging.LogRecord) -> str:
        return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")


class _JsonFormatter(_Formatter):
    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "at": self.at(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            **self.fields(record),
            "message": record.getMessage(),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(entry).decode()


class _TextFormatter(_Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields = " ".join(f"{name}={value}" for name, value in self.fields(record).items())
        text = f"{self.at(record)} {record.levelname:7} {record.name} [{fields}] {super().format(record)}"
        return neutral_lines(text).replace("\n", "\n    ")


def neutral(text: str) -> str:
    """The text with each invisible character as an escape: control, bidirectional, zero-width, spaces but the usual.

    Such characters move a cursor, hide text, or make two ids look the same.
    """
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def neutral_lines(text: str) -> str:
    """The same for a text of several lines."""
    return "\n".join(map(neutral, text.split("\n")))


def is_configured() -> bool:
    """Whether this process logs: a daemon does, and most commands do not."""
    return any(isinstance(handler.formatter, _Formatter) for handler in logging.getLogger().handlers)


def is_json() -> bool:
    """Whether this process logs JSON. A command that logs nothing does not."""
    return any(isinstance(handler.formatter, _JsonFormatter) for handler in logging.getLogger().handlers)


def configure(level: str, style: Literal["text", "json"], *, counts: bool = False) -> None:
    """All loggers of this process, from now on: ours, those of libraries, and Granian's (see `ingest/process`).

    `counts`: what is counted is logged, too (`counted.py`)."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonFormatter() if style == "json" else _TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.getLogger("daemon.counted").setLevel(logging.INFO if counts else logging.WARNING)
    logging.getLogger("pymongo").setLevel(logging.WARNING)  # it logs every command at debug
