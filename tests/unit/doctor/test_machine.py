"""The checks of this machine, on real folders."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from daemon import config as configuration
from daemon.config import Config
from daemon.doctor import machine
from daemon.doctor.finding import Finding, run_checks


def findings(spool: Path | str, **env: str) -> dict[str, Finding]:
    config: Config = configuration.load(environ={"TALLYD_SPOOL__DIR": str(spool), **env})
    return {each.check: each for each in run_checks(machine.CHECKS, config)}


def test_a_folder_that_is_there_is_written_to_and_left_as_it_was(tmp_path: Path) -> None:
    found = findings(tmp_path)
    assert found["machine.spool"].severity in ("ok", "warning"), "a slow disk is a warning"
    assert "fsync in" in found["machine.spool"].found
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_yet_is_not_made(tmp_path: Path) -> None:
    folder = tmp_path / "var" / "spool"
    assert "not there yet" in findings(folder)["machine.spool"].found
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_its_place_is_fatal(tmp_path: Path) -> None:
    (tmp_path / "spool").touch()
    found = findings(tmp_path / "spool")["machine.spool"]
    assert found.severity == "fatal"
    assert str(tmp_path / "spool") in found.fix


def test_without_a_spool_nothing_is_wrong() -> None:
    found = findings("")
    assert {found[name].severity for name in ("machine.spool", "machine.filesystem", "machine.disk")} == {"ok"}


def test_a_disk_smaller_than_the_spool_is_a_warning(tmp_path: Path) -> None:
    found = findings(tmp_path, TALLYD_SPOOL__BYTES_MAX=str(2**62))["machine.disk"]
    assert found.severity == "warning"
    assert "TALLYD_SPOOL__BYTES_MAX=" in found.fix


def test_memory_is_no_disk() -> None:
    shared = Path("/dev/shm")
    assert shared.is_dir(), "Linux has it"
    found = findings(shared)["machine.filesystem"]
    assert found.severity == "warning"
    assert "tmpfs" in found.found


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "fuse.sshfs"])
def test_a_network_disk_is_a_warning(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_filesystem_of", lambda _: kind)
    assert findings(tmp_path)["machine.filesystem"].severity == "warning"


def test_the_limit_of_open_files_is_held_against_the_requests() -> None:
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert findings("", TALLYD_HTTP__REQUESTS_IN_FLIGHT_MAX="1")["machine.files"].severity == "ok"
    found = findings("", TALLYD_HTTP__REQUESTS_IN_FLIGHT_MAX=str(min(allowed, 2**31 - 1)))["machine.files"]
    assert found.severity == ("ok" if allowed == resource.RLIM_INFINITY else "warning")


def test_another_package_of_our_name_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert findings(tmp_path)["machine.package"].severity == "ok"
    strange = tmp_path / "python_daemon-3.1.2.dist-info"
    strange.mkdir()
    (strange / "METADATA").write_text("Metadata-Version: 2.1\nName: python-daemon\nVersion: 3.1.2\n")
    (strange / "top_level.txt").write_text("daemon\n")
    monkeypatch.syspath_prepend(tmp_path)
    found = findings(tmp_path)["machine.package"]
    assert found.severity == "warning"
    assert "python-daemon has a package daemon, too" in found.found
