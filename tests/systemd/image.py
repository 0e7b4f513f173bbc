"""The bare Debian 12 that the machine boots from: made once, kept in /var/cache.

`python -m tests.systemd.image` makes it if it is not there. The conftest starts that when the tests begin.
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.kit.commands import run

CACHE = Path("/var/cache/tallyd-tests")
SUITE = "bookworm"
PACKAGES = (
    *("systemd", "systemd-sysv", "dbus"),
    *("python3", "python3-venv"),
    *("redis-server", "mariadb-server"),
    "libcurl4",  # of mongod
    *("ca-certificates", "curl", "procps"),
)


def image() -> Path:
    """The folder of the image. Makes it, which takes a minute, or waits for the process that makes it."""
    digest = hashlib.sha256(" ".join((SUITE, *PACKAGES)).encode()).hexdigest()[:12]
    folder = CACHE / f"{SUITE}-{digest}"
    with locked():
        if not folder.exists():
            draft = folder.with_suffix(".draft")
            shutil.rmtree(draft, ignore_errors=True)
            include = f"--include={','.join(PACKAGES)}"
            run(["mmdebstrap", "--quiet", "--variant=minbase", include, SUITE, draft], check=True)
            draft.rename(folder)
    return folder


@contextmanager
def locked() -> Iterator[None]:
    """One process at a time makes what is kept in /var/cache."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    image()
