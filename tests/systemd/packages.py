"""What is brought to the machine: the wheel of this checkout and of the version before, and all that they depend on."""

from __future__ import annotations

import hashlib
import io
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path

from tests.kit.commands import ROOT, run
from tests.systemd.image import CACHE, locked


def build(folder: Path) -> None:
    """What the page says to build, copied to where it is brought to."""
    run([ROOT / "justw", "wheel"], check=True)
    folder.mkdir(parents=True)
    for file in (*(ROOT / "dist").glob("tallyd-*.whl"), *(ROOT / "dist").glob("*.txt")):
        shutil.copy(file, folder)


def before(folder: Path) -> Path | None:
    """The checkout of the version before, with its wheel in `dist`. None: this clone has no history."""
    current = _version((ROOT / "pyproject.toml").read_text())
    commits = _git("log", "--format=%H", "--", "pyproject.toml").decode().split()
    versions = {commit: _version(_git("show", f"{commit}:pyproject.toml").decode()) for commit in commits}
    last = max((version for version in versions.values() if version < current), default=None)
    if last is None:
        return None
    release = [commit for commit in commits if versions[commit] == last][-1]  # it gave the version its number
    archive = _git("archive", release, "daemon", "lua", "ops", "pyproject.toml", "README.md", "LICENSE")
    with tarfile.open(fileobj=io.BytesIO(archive)) as packed:
        packed.extractall(folder, filter="data")
    run([sys.executable, "-m", "hatchling", "build", "--target", "wheel"], cwd=folder, check=True)
    return folder


def dependencies(folder: Path) -> None:
    """The wheels of all that tallyd depends on, for the machine's Python. Kept in /var/cache."""
    listed = ROOT / "ops" / "constraints.txt"
    kept = CACHE / f"wheels-{hashlib.sha256(listed.read_bytes()).hexdigest()[:12]}"
    with locked():
        if not kept.exists():
            draft = kept.with_suffix(".draft")
            shutil.rmtree(draft, ignore_errors=True)
            pip = (sys.executable, "-m", "pip", "download", "--quiet", "--require-hashes", "--only-binary=:all:")
            draft.mkdir()
            # pip reads markers for the Python that runs it, whose patch version may be another than the machine's.
            unmarked = draft / "constraints.txt"
            unmarked.write_text(re.sub(r" ; [^\\\n]*", " ", listed.read_text()))
            run([*pip, "--python-version", "3.11", "--no-deps", "--dest", draft, "-r", unmarked], check=True)
            draft.rename(kept)
    shutil.copytree(kept, folder)


def _version(text: str) -> tuple[int, ...]:
    major, minor, *_ = tomllib.loads(text)["project"]["version"].split(".")
    return int(major), int(minor)


def _git(*words: str) -> bytes:
    return subprocess.run(["git", *words], cwd=ROOT, check=True, capture_output=True).stdout
