"""Where each value of a configuration was given: the line of the file, or a variable. tomllib tells no lines.

Who calls it: `load`, when it reports problems. It never names a wrong line: it names one only if it has found the same
keys in the text as tomllib has.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from daemon.config.check import KeyPath

_BLANK = re.compile(r"(?:\s|#[^\n]*)*")
_PART = r"""(?:"(?:\\.|[^"\\\n])*"|'[^'\n]*'|[A-Za-z0-9_-]+)"""
_KEY = re.compile(rf"[ \t]*{_PART}(?:[ \t]*\.[ \t]*{_PART})*[ \t]*")
_SCALAR = re.compile(
    r'''"""(?:\\.|[^\\])*?"{3,5}|\'\'\'.*?'{3,5}|"(?:\\.|[^"\\])*"|'[^']*'|[^\s,\]}#][^,\]}#\n]*''', re.DOTALL
)


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
    """The line, from 1, of each key and list element of a TOML text; none at all if the text is not understood."""
    scan = _Scan(text)
    try:
        scan.document()
    except ValueError:
        return {}
    return scan.lines if scan.lines.keys() == set(_paths(tomllib.loads(text), ())) else {}


def _paths(value: Any, path: KeyPath) -> Iterator[KeyPath]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, inner in items:
        yield (*path, name)
        yield from _paths(inner, (*path, name))


class _Scan:
    """Reads a text that tomllib has accepted, and so need not find its mistakes."""

    def __init__(self, text: str) -> None:
        self.lines: dict[KeyPath, int] = {}
        self._text = text
        self._at = 0
        self._last: dict[KeyPath, int] = {}
        """Array of tables → index of its last table."""

    def document(self) -> None:
        table: KeyPath = ()
        while not self._ends():
            if self._took("[["):
                *names, name = self._key()
                path = (*self._table(names), name)
                self._last[path] = self._last.get(path, -1) + 1
                table = (*path, self._last[path])
                self._note(table)
                self._expect("]]")
            elif self._took("["):
                table = self._table(self._key())
                self._note(table)
                self._expect("]")
            else:
                self._pair(table)

    def _table(self, names: list[str]) -> KeyPath:
        """The path of these names. A name of an array of tables means its last table."""
        path: KeyPath = ()
        for name in names:
            path = (*path, name)
            if path in self._last:
                path = (*path, self._last[path])
        return path

    def _pair(self, table: KeyPath) -> None:
        path = (*table, *self._key())
        self._note(path)
        self._expect("=")
        self._value(path)

    def _value(self, path: KeyPath) -> None:
        if self._took("["):
            index = 0
            while not self._took("]"):
                self._note((*path, index))
                self._value((*path, index))
                self._took(",")
                index += 1
        elif self._took("{"):
            while not self._took("}"):
                self._pair(path)
                self._took(",")
        else:
            self._match(_SCALAR)

    def _key(self) -> list[str]:
        """The names of a dotted key, each as tomllib reads it."""
        inner: Any = tomllib.loads(f"{self._match(_KEY)} = 0")
        names = []
        while isinstance(inner, dict):
            ((name, inner),) = inner.items()
            names.append(name)
        return names

    def _note(self, path: KeyPath) -> None:
        line = self._text.count("\n", 0, self._at) + 1
        for length in range(1, len(path) + 1):
            self.lines.setdefault(path[:length], line)

    def _ends(self) -> bool:
        self._match(_BLANK)
        return self._at == len(self._text)

    def _took(self, token: str) -> bool:
        self._match(_BLANK)
        found = self._text.startswith(token, self._at)
        self._at += len(token) if found else 0
        return found

    def _expect(self, token: str) -> None:
        if not self._took(token):
            raise ValueError(token)

    def _match(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self._text, self._at)
        if match is None:
            raise ValueError(pattern.pattern)
        self._at = match.end()
        return match[0]
