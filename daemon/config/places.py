"""Where each value of a configuration was given: the line of the file, or a variable. tomllib tells no lines.

Who calls it: `load`, when it reports problems. It never names a wrong line: where it is in doubt, it names none.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from daemon.config.check import KeyPath


class Places:
    """The file and its text, and what was given elsewhere."""

    def __init__(self, file: Path, text: str) -> None:
        self._file = file
        self._text = text
        self._given: dict[KeyPath, str] = {}

    def given(self, path: KeyPath, place: str) -> None:
        """Notes that `place` gave the value at this path, and all below it, in place of the file."""
        self._given[path] = place

    def of(self, path: KeyPath) -> str:
        """How a message about this path begins: "tallyd.toml line 7: ", "TALLYD_HTTP__PORT: ", or "" if unknown.

        A key that was not given stands where its table does; but a default stands nowhere."""
        for length in range(len(path), 0, -1):
            if path[:length] in self._given:
                return f"{self._given[path[:length]]}: "
        if path in self._lines:
            return f"{self._file} line {self._lines[path]}: "
        for below, place in self._given.items():
            if below[: len(path)] == path:
                return f"{place}: "
        return self.of(path[:-1]) if len(path) > 2 else ""

    @cached_property
    def _lines(self) -> dict[KeyPath, int]:
        return lines_of(self._text)


def lines_of(text: str) -> dict[KeyPath, int]:
    """The line, from 1, of each key and list element of a valid TOML text, but not of elements that share lines.

    The text is read again up to each line. The lines that bring a new key are the ones that give it."""
    lines: dict[KeyPath, int] = {}
    seen: set[KeyPath] = set()
    so_far, first_line = "", 1
    for number, line in enumerate(text.split("\n"), 1):
        so_far += f"{line}\n"
        # A text that ends within a list can be read with the list closed. Within a longer value it cannot be read.
        parsed = _parsed(so_far)
        if parsed is None:
            parsed = _parsed(f"{so_far}]")
        if parsed is None:
            continue
        new = [path for path in _paths(parsed, ()) if path not in seen]
        seen.update(new)
        for path in new:
            # Of several lines, only what begins with the first one is certain. Elements of a list may begin later.
            begins, rest = path[: len(new[0])] == new[0], path[len(new[0]) :]
            if number == first_line or (begins and all(isinstance(name, str) for name in rest)):
                lines[path] = first_line
        first_line = number + 1
    return lines


def _parsed(text: str) -> dict[str, Any] | None:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return None


def _paths(value: Any, path: KeyPath) -> Iterator[KeyPath]:
    """Every path in a value, a table or list before its content."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, inner in items:
        yield (*path, name)
        yield from _paths(inner, (*path, name))
