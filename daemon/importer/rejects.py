"""The file of rejected lines: NDJSON, one `{file, line, reason, errors?, text}` each. Created with the first of them.

It is appended to, so a resumed import ends with the whole list.
"""

from __future__ import annotations

from pathlib import Path
from typing import IO

import msgspec

from daemon.errors import TallydError
from daemon.importer.outcome import Refusal

TEXT_BYTES_MAX = 4_096
"""So much of a line is kept."""


class Rejects:
    """Raises TallydError when the file cannot be written: the run stops before a checkpoint passes the lost line."""

    def __init__(self, path: Path | None) -> None:
        """`path` None: rejected lines are only counted."""
        self._path = path
        self._file: IO[bytes] | None = None

    @property
    def written_to(self) -> Path | None:
        """The file, if anything was rejected."""
        return self._path if self._file is not None else None

    def add(self, file: str, number: int, refusal: Refusal, line: bytes) -> None:
        if self._path is None:
            return
        text = line[:TEXT_BYTES_MAX].decode(errors="backslashreplace")
        reject = {"file": file, "line": number, "reason": refusal.reason.value, "text": text}
        errors = {"errors": refusal.errors} if refusal.errors else {}
        try:
            if self._file is None:
                self._file = self._path.open("ab")
            self._file.write(msgspec.json.encode(reject | errors) + b"\n")
        except OSError as error:
            raise self._failure(error) from None

    def flush(self) -> None:
        """Called before each checkpoint: lines before a checkpoint are never read again."""
        try:
            if self._file is not None:
                self._file.flush()
        except OSError as error:
            raise self._failure(error) from None

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def _failure(self, error: OSError) -> TallydError:
        return TallydError(f"Cannot write rejected lines to {self._path}: {error.strerror}.")
