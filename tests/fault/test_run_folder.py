"""What a daemon leaves on the disk when it is killed: no secret of its configuration."""

from __future__ import annotations

import signal
from pathlib import Path

from tests.kit.system import System, event, wait_until

READER, PRODUCER = "hush-key-of-readers", "hush-key-of-a-producer"


def files_that_tell(folder: Path) -> list[Path]:
    return [
        path for path in folder.rglob("*") if not path.is_symlink() and path.is_file() and b"hush" in path.read_bytes()
    ]


def test_a_killed_daemon_leaves_no_secret_behind(system: System, tmp_path: Path) -> None:
    run_folders = tmp_path / "run"
    run_folders.mkdir()
    secrets = {"READ__KEY": READER, "PRODUCERS__KEYS": f'{{"shop": "{PRODUCER}"}}'}
    mysql = system.env["TALLYD_MYSQL__URL"].replace("root@", "root:hush@")
    with system.ingest(TMPDIR=str(run_folders), MYSQL__URL=mysql, HTTP__WORKERS="2", **secrets) as ingest:
        [folder] = run_folders.iterdir()
        assert folder.stat().st_mode & 0o077 == 0
        assert ingest.post(event()).status_code == 202
        assert files_that_tell(run_folders) == []
        ingest.process.send_signal(signal.SIGHUP)
        ingest.says("Reloaded; changed: nothing.")
        assert files_that_tell(run_folders) == []
        workers = ingest.workers()
        ingest.send(signal.SIGKILL)
        ingest.process.wait(10)
        assert files_that_tell(run_folders) == []
        wait_until(lambda: not any(each.is_running() for each in workers), "the workers have ended")
    assert files_that_tell(run_folders) == []
    assert not (folder / "config.json").exists(), "the link leads nowhere"
