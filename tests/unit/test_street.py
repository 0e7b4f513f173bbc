"""The way of one event, from the socket to the row: no class name stands for two things."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("ingest", "buffer", "flush", "rollups", "replica", "domain")


def test_no_class_name_is_defined_twice() -> None:
    names = Counter(
        node.name.lstrip("_")
        for room in ROOMS
        for file in (ROOT / "daemon" / room).rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.ClassDef)
    )
    assert [name for name, times in names.items() if times > 1] == []
