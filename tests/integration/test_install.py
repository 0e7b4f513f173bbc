"""tallyd is put on a server: what lies where, the first configuration, and the rights that real stores then grant.

`systemctl` does nothing here: everything goes below a folder. A live systemd is in another test.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import pty
import shlex
import stat
import subprocess
import tempfile
import termios
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from typer.testing import CliRunner

from daemon.cli import application, called
from daemon.config import load
from daemon.errors import CheckFailed, ConfigError, TallydError
from daemon.install import shipped
from daemon.install import system as machine
from daemon.install.answers import Answers
from tests.kit.commands import ROOT, TALLYD, inherited
from tests.kit.servers import RedisServer
from tests.kit.system import System, wait_until

ONE_SYSTEM = True

COUNTS = (*("--domain", "shop", "--type", "article"), *("--table", "jav", "--key", "uuid", "--column", "view=views"))
ADDRESSES = ("--redis-url", "redis://:hush@r", "--mongo-url", "mongodb://:hush@m/x", "--mysql-url", "mysql://:hush@s/x")
INSTALL = ("install", "--system", "--prefix", "/opt/tallyd", "--no-check")
ANSWERS = Answers(redis="redis://r", mongo="mongodb://m/x", domain="shop", types=("article",))


def tallyd(*args: str | Path, cwd: Path, code: int = 0, **env: str) -> str:
    """What the command says, run in this process, which saves its start. It has no terminal."""
    with contextlib.chdir(cwd):
        words = list(map(str, args))
        done = CliRunner().invoke(application(called(words)), words, env=env)
    expected = isinstance(done.exception, TallydError)
    found = done.exception.exit_code if isinstance(done.exception, TallydError) else done.exit_code
    said = done.output + (str(done.exception) if expected else "")
    assert found == code, said + repr(done.exception)
    return said


def content(root: Path) -> dict[str, tuple[str, str]]:
    """Each of our files and folders below the root: its mode and its text."""
    return {
        str(path.relative_to(root)): (stat.filemode(path.stat().st_mode), path.read_text() if path.is_file() else "")
        for path in root.rglob("*")
        if "tallyd" in str(path.relative_to(root))
    }


def test_an_installation_has_its_files_with_their_modes(tmp_path: Path) -> None:
    tallyd(*INSTALL, *ADDRESSES, *COUNTS, "--root", tmp_path, cwd=tmp_path)
    found = content(tmp_path)
    modes = {path: mode for path, (mode, _) in found.items()}
    assert modes["etc/tallyd"] == "drwxr-xr-x"
    assert modes["etc/tallyd/credentials"] == "drwx------"
    assert modes["etc/tallyd/credentials/mysql.url"] == "-rw-------"
    assert modes["etc/tallyd/tallyd.toml"] == "-rw-r-----"
    assert modes["var/lib/tallyd/spool"] == modes["var/lib/tallyd/reports"] == "drwxr-x---"
    assert {str(Path("etc/systemd/system") / name) for name in shipped.units()} <= modes.keys()
    assert "tallyd:" in (tmp_path / "etc/passwd").read_text()
    assert {path for path, (_, text) in found.items() if "hush" in text} == {
        f"etc/tallyd/credentials/{store}.url" for store in ("redis", "mongo", "mysql")
    }
    credentials = {"CREDENTIALS_DIRECTORY": str(tmp_path / "etc/tallyd/credentials")}
    config = load(tmp_path / "etc/tallyd/tallyd.toml", environ=credentials)
    assert (config.redis.url, config.mysql.url) == ("redis://:hush@r", "mysql://:hush@s/x")
    assert config.replica["shop"]["article"].columns == {"view": "views"}


def test_the_files_belong_to_whom_they_should(tmp_path: Path) -> None:
    list(machine.install(ANSWERS, Path("/opt/tallyd"), tmp_path, dry_run=False))
    [line] = [line for line in (tmp_path / "etc/passwd").read_text().splitlines() if line.startswith("tallyd:")]
    uid, gid = map(int, line.split(":")[2:4])
    for path, owner in {
        "etc/tallyd/credentials/redis.url": (0, 0),
        "etc/tallyd/tallyd.toml": (0, gid),
        "var/lib/tallyd/spool": (uid, gid),
    }.items():
        found = (tmp_path / path).stat()
        # Only root can give files away.
        assert (found.st_uid, found.st_gid) == (owner if os.geteuid() == 0 else (os.getuid(), os.getgid())), path


def test_a_link_in_the_place_of_a_folder_gives_nothing_away(tmp_path: Path) -> None:
    """The user tallyd may write to /var/lib/tallyd. An upgrade runs as root."""
    list(machine.install(ANSWERS, Path("/opt/tallyd"), tmp_path, dry_run=False))
    mine = tmp_path / "mine"
    mine.mkdir(mode=0o755)
    before = mine.stat()
    (tmp_path / "var/lib/tallyd/spool").rmdir()
    (tmp_path / "var/lib/tallyd/spool").symlink_to(mine)
    said = list(machine.install(None, Path("/opt/tallyd"), tmp_path, dry_run=False))
    assert "keep  /var/lib/tallyd/spool: it is a link" in said
    assert (mine.stat().st_mode, mine.stat().st_uid) == (before.st_mode, before.st_uid)


def test_a_unit_that_the_operator_masked_stays_masked(tmp_path: Path) -> None:
    list(machine.install(ANSWERS, Path("/opt/tallyd"), tmp_path, dry_run=False))
    unit = tmp_path / "etc/systemd/system/tallyd-ingest.service"
    unit.unlink()
    unit.symlink_to("/dev/null")
    said = list(machine.install(None, Path("/opt/tallyd"), tmp_path, dry_run=False))
    assert "keep  /etc/systemd/system/tallyd-ingest.service: it is a link" in said
    assert unit.readlink() == Path("/dev/null")


def test_root_runs_no_program_that_others_can_change() -> None:
    with tempfile.TemporaryDirectory() as folder:  # which has no parent that only its owner may enter
        place = Path(folder)
        place.chmod(0o755)
        (place / "bin").mkdir(mode=0o755)
        program = place / "bin/tallyd"
        program.touch()
        if os.geteuid() == 0:
            machine.check_prefix(place)
        (place / "bin").chmod(0o777)
        with pytest.raises(ConfigError, match="Others than root can change"):
            machine.check_prefix(place)
        (place / "bin").chmod(0o755)
        if os.geteuid() == 0:
            os.chown(program, 65534, 0)
            with pytest.raises(ConfigError, match=f"Others than root can change {program}"):
                machine.check_prefix(place)


def test_the_units_have_a_whole_path(tmp_path: Path) -> None:
    tallyd(
        "install", "--system", "--prefix", "here", *ADDRESSES, "--no-check", *COUNTS, "--root", tmp_path, cwd=tmp_path
    )
    shared = tmp_path / "etc/systemd/system/tallyd-.service.d/10-tallyd.conf"
    assert f"PATH={tmp_path}/here/bin:" in shared.read_text()


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    said = tallyd(*INSTALL, *ADDRESSES, *COUNTS, "--root", tmp_path, "--dry-run", cwd=ROOT)
    assert "write /etc/tallyd/credentials/redis.url (0600 root:root)" in said
    assert "run systemd-sysusers" in said
    assert "hush" not in said
    assert list(tmp_path.iterdir()) == []


def test_a_second_installation_keeps_what_the_operator_changed_and_brings_new_units(tmp_path: Path) -> None:
    tallyd(*INSTALL, *ADDRESSES, *COUNTS, "--root", tmp_path, cwd=tmp_path)
    changed = {"etc/tallyd/tallyd.toml": "# mine", "etc/tallyd/credentials/redis.url": "redis://new"}
    for path, text in changed.items():
        (tmp_path / path).write_text(text)
    (tmp_path / "etc/systemd/system/tallyd-flush.service").write_text("of an older version")
    said = tallyd("install", "--system", "--prefix", "/srv/t", "--root", tmp_path, cwd=tmp_path)
    assert {path: (tmp_path / path).read_text() for path in changed} == changed
    assert "write /etc/systemd/system/tallyd-flush.service" in said
    units = {name: (tmp_path / "etc/systemd/system" / name).read_text() for name in shipped.units()}
    assert not [name for name, text in units.items() if "/opt/tallyd" in text]
    assert "/srv/t/bin" in "".join(units.values()), "the units look where this tallyd is installed"
    again = tallyd("install", "--system", "--prefix", "/srv/t", "--root", tmp_path, cwd=tmp_path)
    assert "write " not in again


def test_an_installation_that_was_cut_off_at_any_step_is_finished_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = dict(itertools.islice(shipped.units().items(), 2))  # each file costs an fsync, and all units are alike
    monkeypatch.setattr(shipped, "units", lambda: few)
    place = Path("/opt/tallyd")
    whole = tmp_path / "whole"
    whole.mkdir()
    steps = len(list(machine.install(ANSWERS, place, whole, dry_run=False)))
    for cut in range(steps):
        root = tmp_path / str(cut)
        root.mkdir()
        list(itertools.islice(machine.install(ANSWERS, place, root, dry_run=False), cut))
        # As the command does it: the configuration is the last of the answers that is written.
        there = (root / "etc/tallyd/tallyd.toml").exists()
        list(machine.install(None if there else ANSWERS, place, root, dry_run=False))
        assert content(root) == content(whole), cut


@pytest.mark.parametrize("given", [(), COUNTS[:4], (*ADDRESSES, *COUNTS[:2]), (*ADDRESSES, *COUNTS[:6])])
def test_without_a_terminal_all_answers_must_be_given(tmp_path: Path, given: tuple[str, ...]) -> None:
    assert "Missing: --" in tallyd(*INSTALL, *given, "--root", tmp_path, cwd=tmp_path, code=2)
    assert list(tmp_path.iterdir()) == []


def test_the_units_could_not_run_what_lies_below_home(tmp_path: Path) -> None:
    said = tallyd(*("install", "--system", "--prefix", "/home/me/tallyd", "--dry-run"), cwd=tmp_path, code=2)
    assert "ProtectHome=" in said


def test_uninstall_keeps_configuration_and_spool_and_purge_takes_them(tmp_path: Path) -> None:
    tallyd(*INSTALL, *ADDRESSES, *COUNTS, "--root", tmp_path, cwd=tmp_path)
    own = tmp_path / "etc/systemd/system/tallyd-.service.d/mine.conf"
    own.parent.mkdir(exist_ok=True)
    own.write_text("[Service]\n")
    before = content(tmp_path)
    assert "remove " in tallyd("uninstall", "--root", tmp_path, "--dry-run", cwd=tmp_path)
    assert content(tmp_path) == before
    tallyd("uninstall", "--root", tmp_path, cwd=tmp_path)
    left = content(tmp_path)
    assert "etc/tallyd/tallyd.toml" in left
    assert "var/lib/tallyd/spool" in left
    assert [path for path in left if "systemd" in path] == [
        "etc/systemd/system/tallyd-.service.d", "etc/systemd/system/tallyd-.service.d/mine.conf"
    ]  # fmt: skip

    segment = tmp_path / "var/lib/tallyd/spool/1-1-x.seg"
    segment.write_text("events")
    assert "The spool holds events" in tallyd("uninstall", "--purge", "--root", tmp_path, cwd=tmp_path, code=1)
    assert segment.exists()
    segment.unlink()
    if os.geteuid() == 0:  # userdel works for root only
        tallyd("uninstall", "--purge", "--root", tmp_path, cwd=tmp_path)
        assert {path for path in content(tmp_path) if "systemd" not in path} == set()
        assert "tallyd:" not in (tmp_path / "etc/passwd").read_text()


def test_purge_looks_into_the_spool_again_when_the_daemons_have_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    list(machine.install(ANSWERS, Path("/opt/tallyd"), tmp_path, dry_run=False))
    segment = tmp_path / "var/lib/tallyd/spool/1-1-x.seg"

    def stopped(command: list[str], *, dry_run: bool) -> Iterator[str]:
        segment.write_text("events")
        yield f"run {' '.join(command)}"

    monkeypatch.setattr(machine, "_is_this_machine", lambda _: True)
    monkeypatch.setattr(machine, "_run", stopped)
    machine.check_spool(tmp_path)
    with pytest.raises(CheckFailed, match="The spool holds events"):
        list(machine.uninstall(tmp_path, purge=True, dry_run=False))
    assert segment.exists()


# The rights of each store's user, typed into the store --------------------------------------------------------------


def addresses(system: System, redis: str) -> dict[str, str]:
    """Those of a user `tallyd` on the tests' stores."""
    mongo, mysql = (urlsplit(system.env[f"TALLYD_{store}__URL"]) for store in ("MONGO", "MYSQL"))
    user = f"t{system.database}"
    return {
        "TALLYD_REDIS__URL": f"redis://{user}:p%40ss@{urlsplit(redis).netloc}/0",
        "TALLYD_MONGO__URL": f"mongodb://{user}:p%40ss@{mongo.netloc.rpartition('@')[2]}{mongo.path}",
        "TALLYD_MYSQL__URL": f"mysql://{user}:it%27s@127.0.0.1:{mysql.port}{mysql.path}",
    }


def test_with_the_rights_that_it_prints_each_store_is_fit(system: System, tmp_path: Path) -> None:
    acl = tmp_path / "users.acl"
    acl.touch()
    with RedisServer(7, tmp_path, "--aclfile", str(acl), "--appendonly", "yes") as server, server.client() as admin:
        env = addresses(system, server.url)
        refused = tallyd("init", *COUNTS, cwd=tmp_path, code=1, **env)
        assert "ACL SETUSER" in refused
        assert not (tmp_path / "tallyd.toml").exists(), "nothing is written while a store is not fit"

        for line in tallyd("init", "--grants", "redis", *COUNTS, cwd=tmp_path, **env).splitlines():
            admin.execute_command(*shlex.split(line))  # type: ignore[no-untyped-call]
        assert f"user t{system.database} on" in acl.read_text()
        [mongo] = tallyd("init", "--grants", "mongo", *COUNTS, cwd=tmp_path, **env).splitlines()
        user = json.loads(mongo.partition(".createUser(")[2].removesuffix(")"))
        system.mongo.command("createUser", user["user"], pwd=user["pwd"], roles=user["roles"])
        refused = tallyd("init", *COUNTS, cwd=tmp_path, code=1, **env)
        assert "`tallyd init --grants mysql`" in refused
        assert "it's" not in refused.replace("''", "'"), "what is no terminal may be a log"
        for statement in tallyd("init", "--grants", "mysql", *COUNTS, cwd=tmp_path, **env).splitlines():
            system.sql(statement.removesuffix(";"), database="")
        try:
            said = tallyd("init", *COUNTS, cwd=tmp_path, **env)
            assert [f"{name} is fit." in said for name in ("Redis", "MongoDB", "MySQL or MariaDB")] == [True] * 3
            file = tmp_path / "tallyd.toml"
            assert stat.S_IMODE(file.stat().st_mode) == 0o600
            assert load(file, environ={}).mysql.url == env["TALLYD_MYSQL__URL"]
            findings = json.loads(tallyd("doctor", "--config", file, "--json", cwd=tmp_path))
            assert [each for each in findings if each["severity"] in ("fatal", "unknown")] == []
            assert "is there already" in tallyd("init", *COUNTS, cwd=tmp_path, code=2, **env)
        finally:
            system.mongo.command("dropUser", user["user"])
            system.sql(f"DROP USER 't{system.database}'@'127.0.0.1'", database="")


def test_on_a_terminal_it_asks_and_asks_again_until_the_store_is_fit(system: System, tmp_path: Path) -> None:
    dialogue = {
        "A name such as shop": "shop",
        "Names such as article": "article, author",
        "Which table": "jav",
        "with the id of the article": "uuid",
        "for the views": "views",
        "Redis, as": "redis://127.0.0.1:1/0",
        "Again?": "y",
        "Redis, as ": system.env["TALLYD_REDIS__URL"],
        "MongoDB, as": system.env["TALLYD_MONGO__URL"],
        "MySQL or MariaDB, as": system.env["TALLYD_MYSQL__URL"],
    }
    assert "tallyd.toml is written" in answered([*TALLYD, "init"], dialogue, cwd=tmp_path)
    config = load(tmp_path / "tallyd.toml", environ={})
    assert config.domains["shop"].entity_types == ("article", "author")
    assert config.replica["shop"]["article"].columns == {"view": "views"}
    assert config.redis.url == system.env["TALLYD_REDIS__URL"]


def answered(command: list[str], dialogue: Mapping[str, str], *, cwd: Path) -> str:
    """What the command says on a terminal, where each question gets its answer. It must end well."""
    ours, its = pty.openpty()
    os.set_blocking(ours, False)
    env = {**inherited(), "PYTHONPATH": str(ROOT), "COLUMNS": "500"}
    told, new = b"", b""

    def hears(text: str) -> bool:
        nonlocal new
        with contextlib.suppress(OSError):  # nothing more yet; or its other end is closed
            while read := os.read(ours, 65_536):
                new += read
        return text.encode() in new

    terminal = {"stdin": its, "stdout": its, "stderr": its}
    with subprocess.Popen(command, cwd=cwd, env=env, start_new_session=True, **terminal) as asked:
        os.close(its)
        try:
            for question, answer in dialogue.items():
                wait_until(lambda question=question: hears(question), f"{question}, after {told!r}")
                told, new = told + new, b""
                # What is typed before the terminal hides it is thrown away.
                wait_until(lambda: hides(ours) == (", as" in question), f"{question}: hidden or not")  # noqa: B023
                os.write(ours, f"{answer}\n".encode())
            wait_until(lambda: asked.poll() is not None or hears("\0"), f"its end, after {told!r}")
        finally:
            asked.kill()
    hears("")
    os.close(ours)
    assert asked.returncode == 0, told + new
    return (told + new).decode()


def hides(terminal: int) -> bool:
    """Whether what is typed is not shown."""
    return not termios.tcgetattr(terminal)[3] & termios.ECHO
