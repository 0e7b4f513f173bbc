"""All that `tallyd install --system` puts on a machine, in one list, and how it is written and taken away.

Each file is there whole or not at all. So an installation that was cut off at any step is finished by the next one.
Nothing starts here. A configuration and its secrets that are there already are never written again.
"""

from __future__ import annotations

import errno
import os
import pwd
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from daemon.config import SYSTEM_FILE
from daemon.errors import CheckFailed, ConfigError, TallydError
from daemon.files import replaced
from daemon.install import shipped
from daemon.install.answers import Answers, secret_name, toml
from daemon.spool.segment import usage

PREFIX = "/opt/tallyd"
"""Where the units look for tallyd. Installed elsewhere, they are written with that folder."""
USER = "tallyd"
CONFIG_FOLDER = SYSTEM_FILE.parent
CREDENTIALS = CONFIG_FOLDER / "credentials"
STATE = Path("/var/lib/tallyd")
UNITS = Path("/etc/systemd/system")
SYSUSERS = Path("/etc/sysusers.d/tallyd.conf")
RUNNING = Path("/run/systemd/system")
"""It exists while systemd runs this machine."""
HIDDEN = ("/home", "/root", "/run/user")
"""The units see nothing below these (ProtectHome=)."""
COMMAND_TIMEOUT_S = 120


class InstallError(TallydError):
    """A step failed. The message names it. Type the command again when the cause is gone."""


class Item(NamedTuple):
    """A file, or a folder if `content` is None. `kept`: if it is there, it stays as it is."""

    path: Path
    mode: int
    user: str = "root"
    group: str = "root"
    content: str | None = None
    kept: bool = False


def prefix_of_this_program() -> Path:
    """The folder whose `bin` holds the tallyd that runs now."""
    program = Path(sys.argv[0]).resolve()
    return program.parent.parent if program.name == "tallyd" else Path(sys.prefix)


def check_prefix(prefix: Path) -> None:
    """Raises ConfigError if the daemons could not run what lies there, or if others than root can change it: a reload
    runs it as root."""
    if any(prefix.is_relative_to(folder) for folder in HIDDEN):
        raise ConfigError(f"The units cannot see {prefix} (ProtectHome=). Install tallyd in {PREFIX}.")
    closed = [folder for folder in (prefix, *prefix.parents) if folder.exists() and not folder.stat().st_mode & 1]
    if closed:
        raise ConfigError(f"The user {USER} cannot enter {closed[-1]}: chmod a+rX {closed[-1]}")
    inner = [prefix / "bin/tallyd", prefix / "bin", prefix / "lib"]
    if loose := [path for path in (*inner, prefix, *prefix.parents) if path.exists() and _is_loose(path.stat())]:
        raise ConfigError(f"Others than root can change {loose[-1]}. A reload runs tallyd as root: see ls -ld.")


def user_item() -> Item:
    """The file of which systemd-sysusers makes the user."""
    return Item(SYSUSERS, 0o644, content=shipped.user())


def items(answers: Answers | None, prefix: Path) -> list[Item]:
    """All files and folders besides the user, in the order in which they are written. Without answers, the
    configuration is there already."""
    found = [
        Item(CONFIG_FOLDER, 0o755),
        Item(CREDENTIALS, 0o700),
        *(Item(folder, 0o750, USER, USER) for folder in (STATE, STATE / "spool", STATE / "reports")),
    ]
    if answers is not None:
        found += [
            Item(CREDENTIALS / secret_name(store), 0o600, content=f"{url}\n")
            for store, url in answers.addresses.items()
        ]
        # After the secrets that it names: a configuration that is there is a whole one.
        found.append(Item(SYSTEM_FILE, 0o640, group=USER, content=toml(answers, apart=True), kept=True))
    for name, text in shipped.units().items():
        path = UNITS / name
        if path.parent != UNITS:
            found.append(Item(path.parent, 0o755))
        found.append(Item(path, 0o644, content=text.replace(PREFIX, str(prefix))))
    return found


def install(answers: Answers | None, prefix: Path, root: Path, *, dry_run: bool) -> Iterator[str]:
    """Does each step, and yields what it did, or with `dry_run` would do. `root`: in place of `/`. Owners are set by
    root only. Raises InstallError."""
    yield from _write(user_item(), root, {}, dry_run=dry_run)
    yield from _run(["systemd-sysusers", f"--root={root}", SYSUSERS.name], dry_run=dry_run)
    owners = {} if dry_run or os.geteuid() != 0 else {"root": (0, 0), USER: _user(root)}
    for item in items(answers, prefix):
        yield from _write(item, root, owners, dry_run=dry_run)
    yield from _reload(root, dry_run=dry_run)


def check_spool(root: Path) -> None:
    """Raises CheckFailed if events wait in the spool: they were answered 202."""
    held = usage(_below(root, STATE / "spool"))
    if held.segments or held.strays or held.error:
        raise CheckFailed(f"The spool holds events: {held.error or 'send them to Redis with tallyd replay'}.")


def uninstall(root: Path, *, purge: bool, dry_run: bool) -> Iterator[str]:
    """Stops the units and removes them. With `purge` also configuration, secrets, spool, reports and the user. Yields
    and raises like `install`."""
    units = [UNITS / name for name in shipped.units()]
    folders = dict.fromkeys(unit.parent for unit in units if unit.parent != UNITS)
    names = [unit.name for unit in units if unit.parent == UNITS and _exists(_below(root, unit))]
    if names and _is_this_machine(root):
        yield from _run(["systemctl", "disable", "--now", *names], dry_run=dry_run)
        if purge and not dry_run:
            check_spool(root)  # again: what was on its way when the daemons stopped may lie there now
    for path in (*units, SYSUSERS, *folders, *((CONFIG_FOLDER, STATE) if purge else ())):
        yield from _remove(_below(root, path), whole=path in (CONFIG_FOLDER, STATE), dry_run=dry_run)
    yield from _reload(root, dry_run=dry_run)
    if purge and f"{USER}:" in _text(root / "etc/passwd"):
        yield from _run(["userdel", *([] if root == Path("/") else ["--root", str(root)]), USER], dry_run=dry_run)


# Steps ----------------------------------------------------------------------------------------------------------------


def _is_loose(found: os.stat_result) -> bool:
    """Whether others than root may write it, or exchange what lies in it."""
    by_anybody = found.st_mode & stat.S_IWOTH and not found.st_mode & stat.S_ISVTX
    return found.st_uid != 0 or bool(by_anybody)


def _below(root: Path, path: Path) -> Path:
    return root / path.relative_to("/")


def _is_this_machine(root: Path) -> bool:
    return root == Path("/") and RUNNING.exists()


def _reload(root: Path, *, dry_run: bool) -> Iterator[str]:
    if _is_this_machine(root):
        yield from _run(["systemctl", "daemon-reload"], dry_run=dry_run)


def _run(command: list[str], *, dry_run: bool) -> Iterator[str]:
    if not dry_run:
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise InstallError(f"{command[0]} cannot run: {error}. tallyd is installed under systemd.") from None
        if done.returncode:
            raise InstallError(f"`{' '.join(command)}` failed: {(done.stderr or done.stdout).strip()}")
    yield f"run {' '.join(command)}"


def _write(item: Item, root: Path, owners: Mapping[str, tuple[int, int]], *, dry_run: bool) -> Iterator[str]:
    path = _below(root, item.path)
    said = f"{item.path} ({item.mode:04o} {item.user}:{item.group})"
    there = _exists(path)
    if there and path.is_symlink() and (item.content is None or item.path.is_relative_to(UNITS)):
        # Of the operator (`systemctl mask`), or of the daemons' user, who would be given what root owns.
        yield f"keep  {item.path}: it is a link"
        return
    if there and (item.kept or (item.content is not None and _text(path) == item.content)):
        yield f"keep  {said}"
        if item.kept:
            return
    elif not (there and item.content is None):
        yield f"write {said}" if item.content is not None else f"make  {said}"
    if dry_run:
        return
    uid, gid = (owners[item.user][0], owners[item.group][1]) if owners else (-1, -1)
    try:
        if item.content is None:
            path.mkdir(parents=True, exist_ok=True)
        elif not there or _text(path) != item.content:
            path.parent.mkdir(parents=True, exist_ok=True)
            with replaced(path) as file:
                os.fchmod(file.fileno(), item.mode)  # before a secret is in it
                file.write(item.content.encode())
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            os.fchown(fd, uid, gid)
            os.fchmod(fd, item.mode)
        finally:
            os.close(fd)
    except OSError as error:
        raise InstallError(f"Cannot write {path}: {error.strerror}. Type the command as root.") from None


def _remove(path: Path, *, whole: bool, dry_run: bool) -> Iterator[str]:
    """`whole`: a folder with all that is in it. Else one that holds files of others stays."""
    if not _exists(path):
        return
    try:
        folder = stat.S_ISDIR(path.lstat().st_mode)
        if not dry_run and whole and folder:
            shutil.rmtree(path)
        elif not dry_run and folder:
            path.rmdir()
        elif not dry_run:
            path.unlink()
    except OSError as error:
        if error.errno == errno.ENOTEMPTY:
            yield f"keep   {path}: it holds other files"
            return
        raise InstallError(f"Cannot remove {path}: {error.strerror}. Type the command as root.") from None
    yield f"remove {path}"


def _exists(path: Path) -> bool:
    try:
        path.lstat()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise InstallError(f"Cannot look at {path}: {error.strerror}. Type the command as root.") from None
    return True


def _text(path: Path) -> str:
    with suppress(OSError, UnicodeDecodeError):
        return path.read_text()
    return ""


def _user(root: Path) -> tuple[int, int]:
    """The numbers of the user and of its group. Below another root, that root's own file has them."""
    try:
        if root == Path("/"):
            found = pwd.getpwnam(USER)
            return found.pw_uid, found.pw_gid
        lines = [line.split(":") for line in _text(root / "etc/passwd").splitlines()]
        return next((int(uid), int(gid)) for name, _, uid, gid, *_ in lines if name == USER)
    except (KeyError, StopIteration):
        raise InstallError(f"systemd-sysusers made no user {USER}.") from None
