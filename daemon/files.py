"""Files that are there whole or not at all: written under another name beside their place, then renamed into it."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from daemon.errors import TallydError


class FileError(TallydError):
    """A file could not be read or written; the message names it."""


def make_folder_of(path: Path) -> None:
    """Makes the folder that the file lies in, unless it is there. Raises FileError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"Cannot make the folder {path.parent}: {error.strerror}.") from None


@contextmanager
def replaced(path: Path) -> Iterator[IO[bytes]]:
    """A file to write to. It takes the place of `path`, fsynced, when the block ends; if it fails, `path` stays as it
    was. Its folder must exist. Raises FileError."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with draft.open("xb") as file:  # whom the umask lets read it
            try:
                yield file
                file.flush()
                os.fsync(file.fileno())
                draft.replace(path)
            except BaseException:
                with suppress(OSError):
                    draft.unlink()
                raise
    except OSError as error:
        raise FileError(f"Cannot write {path}: {error.strerror}.") from None
