"""Checks of this machine: does the spool lie on a disk that keeps data, and may a daemon open enough files?

Each check reads its own facts: there are few. Changes nothing but a scratch file that never has a name.
"""

from __future__ import annotations

import os
import resource
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path

import psutil

from daemon.config import Config
from daemon.doctor.finding import Verdict, fatal, ok, unknown, warning
from daemon.spool.segment import list_contents, usage

DOUBTFUL_FILESYSTEMS = {
    ("tmpfs", "ramfs"): "A restart of the machine deletes the events in it, although they were answered 202.",
    ("nfs", "cifs", "smb", "9p", "afs", "ceph", "lustre", "gluster", "fuse."): (
        "The network may be away when Redis is. On such disks locks and fsync may not work as promised."
    ),
}
"""How their names begin → why. `fuse.` is sshfs, glusterfs, ceph: mostly something remote."""
FSYNC_WARN_S = 0.1
"""Every request waits for an fsync while events are spooled."""
FILES_SPARE = 256
"""Descriptors that a worker needs besides those of its clients: stores, logs, segments, libraries."""


def spool(config: Config) -> Verdict:
    if not config.spool.dir:
        return ok("off (spool.dir is empty): while Redis is away, events are answered 503")
    folder = Path(config.spool.dir)
    try:
        there = _nearest(folder)
        missing = "" if folder.exists() else " (not there yet; the daemon makes it)"
        with tempfile.TemporaryFile(dir=there) as scratch:
            scratch.write(b"tallyd doctor\n")
            scratch.flush()
            began_s = time.perf_counter()
            os.fsync(scratch.fileno())
            took_s = time.perf_counter() - began_s
    except OSError as error:
        return fatal(
            f"{folder}: {error.strerror}",
            "While Redis is away, events cannot be spooled: they are answered 503.",
            f"run doctor as the ingest daemon's user; or mkdir -p {folder} && chown USER {folder}; or set spool.dir",
        )
    found = f"{folder}, fsync in {took_s * 1000:.1f} ms{missing}"
    if took_s <= FSYNC_WARN_S:
        return ok(found)
    return warning(found, "While Redis is away, every request waits for an fsync.", "put spool.dir on a faster disk")


def filesystem(config: Config) -> Verdict:
    if not config.spool.dir:
        return ok("no spool")
    try:
        kind = _filesystem_of(_nearest(Path(config.spool.dir)))
    except OSError:  # `spool` says why
        kind = None
    if kind is None:
        return unknown("this machine does not tell", "A network disk may lose data.", f"findmnt -T {config.spool.dir}")
    for names, why in DOUBTFUL_FILESYSTEMS.items():
        if kind.startswith(names):
            fix = "put spool.dir on a local disk: TALLYD_SPOOL__DIR=/var/lib/tallyd/spool"
            return warning(f"{config.spool.dir} is on {kind}", why, fix)
    return ok(kind)


def disk(config: Config) -> Verdict:
    if not config.spool.dir:
        return ok("no spool")
    folder = Path(config.spool.dir)
    try:
        free, used = shutil.disk_usage(_nearest(folder)).free, list_contents(folder).bytes
    except OSError as error:
        return unknown(f"{folder}: {error.strerror}", "The free space is not known.", f"df -h {folder}")
    needed = max(0, config.spool.bytes_max - used)
    found = f"{free / 2**30:,.1f} GiB free; the spool may still take {needed / 2**30:,.1f} GiB (spool.bytes_max)"
    if free >= needed:
        return ok(found)
    return warning(
        found,
        "The disk can be full before the spool is. Events are then answered 503, and other programs cannot write.",
        f"make room, or TALLYD_SPOOL__BYTES_MAX={max(2**20, int(0.9 * (free + used)))}",
    )


def segments(config: Config) -> Verdict:
    if not config.spool.dir:
        return ok("no spool")
    found = usage(Path(config.spool.dir))
    if found.error:
        return unknown(found.error, "Events may wait in it.", "run it as the user of the ingest daemon")
    if not found.strays:
        return ok(f"{found.segments} segments")
    first = found.strays[0]
    return warning(
        f"{len(found.strays)} files are left as they are, the first of them {first.name}: {first.why}",
        "They are never replayed. Events in them, if there are any, are not counted.",
        f"`tallyd status` lists them: move them out of {config.spool.dir}, or make them readable for the ingest daemon",
    )


def files(config: Config) -> Verdict:
    allowed, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = config.http.requests_in_flight_max + FILES_SPARE
    found = f"{allowed} here (a service has a limit of its own); {needed} needed for http.requests_in_flight_max"
    if allowed == resource.RLIM_INFINITY or allowed >= needed:
        return ok(found)
    root = "" if most == resource.RLIM_INFINITY or most >= needed else ", as root,"
    return warning(
        found,
        "Above the limit a worker cannot accept connections: clients wait and give up.",
        f"in the shell that starts it{root} ulimit -n {needed}; under systemd LimitNOFILE={needed} in the unit",
    )


def package(_: Config) -> Verdict:
    others = sorted(set(metadata.packages_distributions().get("daemon", ())) - {"tallyd"})
    if not others:
        return ok("no other package here has the name daemon")
    return warning(
        f"{', '.join(others)} has a package daemon, too",
        "Each of the two overwrites files of the other: tallyd may start with code that is not its own.",
        "install tallyd in an environment of its own: python3 -m venv /opt/tallyd",
    )


CHECKS: Mapping[str, Callable[[Config], Verdict]] = {
    "machine.package": package,
    "machine.spool": spool,
    "machine.filesystem": filesystem,
    "machine.disk": disk,
    "machine.segments": segments,
    "machine.files": files,
}


def _nearest(folder: Path) -> Path:
    """The folder, or the closest folder above it that exists."""
    folder = folder.absolute()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder


def _filesystem_of(folder: Path) -> str | None:
    resolved = folder.resolve()
    mounts = [part for part in psutil.disk_partitions(all=True) if resolved.is_relative_to(part.mountpoint)]
    # Of two mounts on one place, the later one covers the other.
    found = max(enumerate(mounts), key=lambda each: (len(each[1].mountpoint), each[0]), default=None)
    return found[1].fstype if found else None
