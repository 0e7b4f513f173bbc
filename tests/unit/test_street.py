"""The way of one event, from the socket to the row: no name twice, no import circle."""

from __future__ import annotations

import ast
from collections import Counter
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("ingest", "buffer", "flush", "rollups", "replica", "domain")


def trees(*rooms: str) -> dict[str, ast.Module]:
    """Module name → its syntax tree, of these rooms of `daemon`."""
    files = [file for room in rooms for file in sorted((ROOT / "daemon" / room).rglob("*.py"))]
    names = (".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for file in files)
    return {name: ast.parse(file.read_text()) for name, file in zip(names, files, strict=True)}


def test_no_class_name_is_defined_twice() -> None:
    names = Counter(
        node.name.lstrip("_")
        for tree in trees(*ROOMS).values()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    )
    assert [name for name, times in names.items() if times > 1] == []


def test_no_module_imports_one_that_imports_it() -> None:
    """Also not where only the types are wanted."""
    modules = trees(*ROOMS)
    imported: dict[str, set[str]] = {}
    for name, tree in modules.items():
        asked = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
        found = {f"{node.module}.{alias.name}" for node in asked for alias in node.names}
        imported[name] = (found | {str(node.module) for node in asked}) & modules.keys() - {name}
    assert len(list(TopologicalSorter(imported).static_order())) == len(modules)  # it raises CycleError
