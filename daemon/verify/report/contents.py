"""Reads the files of an untrusted folder or zip. Each file comes with its bytes, or with what is wrong.

Nothing of a zip is written to disk. No more is unpacked than the limits allow, whatever its entries claim.
"""

from __future__ import annotations

import io
import os
import stat
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from daemon.verify.report.archive import MANIFESTS

ARCHIVE_BYTES_MAX = 128 * 1_048_576
ENTRIES_MAX = 10_000
DIRECTORY_BYTES_MAX = 4 * 1_048_576
"""The list of entries at the end of a zip: for ENTRIES_MAX of them, with long names."""
FILE_BYTES_MAX = 32 * 1_048_576
TOTAL_BYTES_MAX = 1_024 * 1_048_576
"""Unpacked, all entries together."""
RATIO_MAX = 100
"""Unpacked to packed. Artifacts reach 30."""
RATIO_BYTES_MIN = 65_536
"""A smaller file does no harm at any ratio."""


class Problem(NamedTuple):
    """What is wrong with a file. `field`: "" if it is about the whole file."""

    file: str
    field: str
    message: str


Content = tuple[str, bytes] | Problem


def of_folder(folder: Path) -> Iterator[Content]:
    """The files of parity/ and rollback/, and the manifest, by name. Files being written (`.name…`) are left out."""
    paths = [
        *folder.glob("parity/*"),
        *folder.glob("rollback/*"),
        *(path for name in MANIFESTS for path in folder.glob(name)),
    ]
    for path in sorted(paths):
        name = path.relative_to(folder).as_posix()
        if path.name.startswith("."):
            continue
        if path.is_symlink() or not path.is_file():
            yield Problem(name, "", "is no regular file")
            continue
        try:
            if path.stat().st_size > FILE_BYTES_MAX:
                yield Problem(name, "", f"is larger than {FILE_BYTES_MAX:,} bytes")
            else:
                yield name, path.read_bytes()
        except OSError as error:
            yield Problem(name, "", f"cannot be read: {error.strerror}")


def of_archive(archive: Path) -> Iterator[Content]:
    """The files of a zip, by name."""
    try:
        if archive.stat().st_size > ARCHIVE_BYTES_MAX:
            yield Problem(archive.name, "", f"is larger than {ARCHIVE_BYTES_MAX:,} bytes")
            return
        with _Archive(archive) as file, zipfile.ZipFile(file) as opened:
            file.listed = True
            yield from _entries(opened, archive.name)
    except (OSError, zipfile.BadZipFile, NotImplementedError) as error:
        yield Problem(archive.name, "", f"cannot be read as a zip: {error}")


class _Archive(io.FileIO):
    """A zip whose list of entries is bounded: `zipfile` reads the whole list before anyone can count."""

    listed = False

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0:
            size = os.fstat(self.fileno()).st_size - self.tell()
        if not self.listed and size > DIRECTORY_BYTES_MAX:
            raise zipfile.BadZipFile(f"its list of entries is larger than {DIRECTORY_BYTES_MAX:,} bytes")
        return super().read(size) or b""


def _entries(opened: zipfile.ZipFile, name: str) -> Iterator[Content]:
    entries = opened.infolist()
    if len(entries) > ENTRIES_MAX:
        yield Problem(name, "", f"has more than {ENTRIES_MAX:,} entries")
        return
    if sum(entry.file_size for entry in entries) > TOTAL_BYTES_MAX:
        yield Problem(name, "", f"unpacks to more than {TOTAL_BYTES_MAX:,} bytes")
        return
    seen: set[str] = set()
    for entry in sorted(entries, key=lambda each: each.filename):
        wrong = _wrong(entry) or ("is there twice" if entry.filename in seen else None)
        seen.add(entry.filename)
        if wrong:
            yield Problem(entry.filename, "", wrong)
        elif not entry.is_dir():
            yield _unpacked(opened, entry)


def _wrong(entry: zipfile.ZipInfo) -> str | None:
    """Why an entry must not be unpacked."""
    # The stored name: `filename` ends at a NUL, and may have its backslashes replaced.
    path = PurePosixPath(entry.orig_filename)
    if path.is_absolute() or (path.parts and path.parts[0].endswith(":")):
        return "has an absolute path"
    if ".." in path.parts:
        return "has a path that climbs out"
    if "\\" in entry.orig_filename or "\0" in entry.orig_filename or not path.parts:
        return "has an invalid name"
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is a symbolic link or another special file"
    if entry.flag_bits & 0x1:
        return "is encrypted"
    if entry.file_size > FILE_BYTES_MAX:
        return f"unpacks to more than {FILE_BYTES_MAX:,} bytes"
    if entry.file_size > RATIO_BYTES_MIN and entry.file_size > RATIO_MAX * entry.compress_size:
        return f"unpacks to more than {RATIO_MAX} times its size"
    return None


def _unpacked(opened: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Content:
    try:
        with opened.open(entry) as file:
            content = file.read(FILE_BYTES_MAX)  # at most as much as the entry claims, which was checked
    except (OSError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        return Problem(entry.filename, "", f"cannot be unpacked: {error}")
    if len(content) != entry.file_size:
        return Problem(entry.filename, "", f"unpacks to {len(content):,} bytes, not to {entry.file_size:,}")
    return entry.filename, content
