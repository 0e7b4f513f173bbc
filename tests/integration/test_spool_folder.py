"""One spool for the daemon and every command, and a clear line for a user who may not look into it."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest

from daemon import config as configuration
from daemon.config.load import SYSTEM_CONFIG
from tests.kit.commands import ROOT, TALLYD, UNPRIVILEGED, inherited, run
from tests.kit.system import System

ENTER = 'cd "$0" && chmod 0 "$1" && shift && exec "$@"'
COMMANDS = ("doctor", "status", "replay", "audit")


def test_the_unit_and_a_command_with_its_configuration_have_one_spool() -> None:
    units = ROOT / "ops" / "systemd"
    lines = [
        line
        for name in ("tallyd-ingest.service", "tallyd-.service.d/10-tallyd.conf")
        for line in (units / name).read_text().splitlines()
    ]
    given = dict(line.removeprefix("Environment=").split("=", 1) for line in lines if line.startswith("Environment="))
    assert "TALLYD_SPOOL__DIR" not in given, "a command typed by hand does not have it"
    assert Path(given["TALLYD_CONFIG"]).is_relative_to(SYSTEM_CONFIG)


def test_a_configuration_below_etc_has_the_spool_of_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(import_module("daemon.config.load"), "SYSTEM_CONFIG", tmp_path)
    file = tmp_path / "tallyd.toml"
    file.write_text("")
    assert configuration.load(file, environ={}).spool.dir == "/var/lib/tallyd/spool"
    assert configuration.load(environ={"TALLYD_CONFIG": str(file)}).spool.dir == "/var/lib/tallyd/spool"
    file.write_text("[spool]\ndir = 'elsewhere'")
    assert configuration.load(file, environ={}).spool.dir == "elsewhere"
    assert configuration.load(file, environ={"TALLYD_SPOOL__DIR": "there"}).spool.dir == "there"


@pytest.mark.parametrize("where", ["the spool", "the folder above it", "the current folder"])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_user_who_may_not_look_gets_a_line_and_no_traceback(system: System, command: str, where: str) -> None:
    home = system.scratch / "home"
    spool = home / "state" / "spool"
    spool.mkdir(parents=True)
    closed = {"the spool": spool, "the folder above it": spool.parent, "the current folder": home}[where]
    relative = where == "the current folder"
    env = {
        **inherited(),
        **system.environ(SPOOL__DIR="state/spool" if relative else str(spool)),
        "PYTHONPATH": str(ROOT),
    }
    try:  # it enters the folder first: a user may be where he may not look
        done = run([*("sh", "-c", ENTER, home, closed), *UNPRIVILEGED, *TALLYD, command], env=env)
    finally:
        closed.chmod(0o700)
    said = done.stdout + done.stderr
    assert "Traceback" not in said, said
    assert "Permission denied" in said, said
    assert done.returncode == (0 if command in ("status", "audit") else 1), said
