"""The Lua scripts, read once. One file a script in `lua/`; its header says what it does."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent.parent
LUA_DIR = _PACKAGE / "lua" if (_PACKAGE / "lua").is_dir() else _PACKAGE.parent / "lua"
"""Inside the package in a wheel, beside it in a checkout."""


@dataclass(frozen=True)
class Script:
    name: str
    source: str = field(repr=False)
    sha: str


def _read(name: str) -> Script:
    source = (LUA_DIR / f"{name}.lua").read_text(encoding="utf-8")
    return Script(name, source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())


INGEST = _read("ingest")
CLAIM = _read("claim")
UNFOLD = _read("unfold")
ACK = _read("ack")
AMEND = _read("amend")
BEGIN_SYNC = _read("begin_sync")
SETTLE = _read("settle")
PENDING = _read("pending")
LAYOUT = _read("layout")
MARK = _read("mark")
EPOCH = _read("epoch")
SET_ASIDE = _read("set_aside")

ALL = (INGEST, CLAIM, UNFOLD, ACK, AMEND, BEGIN_SYNC, SETTLE, PENDING, LAYOUT, MARK, EPOCH, SET_ASIDE)
