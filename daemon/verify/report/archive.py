"""The files of a report: the artifacts, the manifest of their SHA-256 sums, and a zip of all."""

from __future__ import annotations

import datetime as dt
import hashlib
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import msgspec
from msgspec import Struct

from daemon.files import FileError, make_folder_of, replaced
from daemon.verify.report.artifact import SCHEMA_VERSION, FileSum, Manifest, encode, instant

MANIFEST = "manifest.sums"
"""JSON. It is not named so, because the verifier of the replaced application takes each `.json` for an artifact."""
MANIFEST_BEFORE = "manifest.json"
"""Its name up to 0.4.0."""
MANIFESTS = (MANIFEST_BEFORE, MANIFEST)


def write(folder: Path, name: str, artifact: Struct) -> FileSum:
    """Writes one artifact. Raises FileError."""
    path, content = folder / name, encode(artifact)
    make_folder_of(path)
    with replaced(path) as file:
        file.write(content)
    return sum_of(content)


def update_manifest(folder: Path, written: Mapping[str, FileSum], now: dt.datetime) -> Mapping[str, FileSum]:
    """Adds these files to the folder's manifest. Its other entries stay: those files may have been changed. Returns all
    of them. Raises FileError."""
    files: dict[str, FileSum] = {}
    for name in MANIFESTS:
        with suppress(FileNotFoundError, msgspec.MsgspecError):  # there is none, or not ours: this one replaces it
            files |= msgspec.json.decode(_read(folder / name), type=Manifest).files
    files |= written
    write(folder, MANIFEST, _manifest(files, now))
    (folder / MANIFEST_BEFORE).unlink(missing_ok=True)
    return files


def pack(folder: Path, files: Mapping[str, FileSum], now: dt.datetime) -> str:
    """Makes archive/evidence-YYYYMMDD_HHMMSS.zip of these files and a manifest of just them. Returns its name. Raises
    FileError."""
    name = f"archive/evidence-{now:%Y%m%d_%H%M%S}.zip"
    make_folder_of(folder / name)
    with replaced(folder / name) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as packed:
        for path in sorted(files):
            packed.writestr(_entry(path, now), (folder / path).read_bytes())
        packed.writestr(_entry(MANIFEST, now), encode(_manifest(files, now)))
    return name


def _read(path: Path) -> bytes:
    """Raises FileNotFoundError, and FileError if it is there and cannot be read: its sums must not be lost."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise FileError(f"Cannot read {path}: {error.strerror}.") from None


def sum_of(content: bytes) -> FileSum:
    return FileSum(len(content), hashlib.sha256(content).hexdigest())


def _entry(path: str, now: dt.datetime) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(path, now.timetuple()[:6])
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.external_attr = 0o644 << 16
    return entry


def _manifest(files: Mapping[str, FileSum], now: dt.datetime) -> Manifest:
    return Manifest(
        schema_version=SCHEMA_VERSION,
        artifact_type="manifest",
        generated_at=instant(now),
        files=dict(sorted(files.items())),
    )
