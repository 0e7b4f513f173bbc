"""Ingest on a unix socket: taken over from a daemon that was killed, and from one that still runs."""

from __future__ import annotations

import shutil
import socket
import stat
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import httpx
import pytest

from tests.integration.test_systemd import ACTIVATED
from tests.kit.daemon import Daemon
from tests.kit.system import EVENTS, TALLYD, System, event, wait_until


@pytest.fixture
def path() -> Iterator[Path]:
    # A folder of its own: pytest's are too deep for a socket's address.
    folder = Path(tempfile.mkdtemp(prefix="tallyd-"))
    yield folder / "ingest.sock"
    shutil.rmtree(folder)


@contextmanager
def ingest(system: System, path: Path, **env: str) -> Iterator[Daemon]:
    with Daemon(system, "ingest", HTTP__UNIX_SOCKET=str(path), **env) as daemon:
        daemon.says(f"Ready: {env.get('HTTP__WORKERS', '1')} worker")
        yield daemon


def client(path: Path) -> httpx.Client:
    return httpx.Client(base_url="http://tallyd", transport=httpx.HTTPTransport(uds=str(path)), timeout=60)


class Sender:
    """Sends events one after the other, each second one over a new connection, until the block ends."""

    def __init__(self, path: Path) -> None:
        self.answers: list[int | str] = []
        self._path = path
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()

    def wait_for_more(self) -> None:
        wanted = len(self.answers) + 50
        wait_until(lambda: len(self.answers) >= wanted, "more answers")

    def _run(self) -> None:
        while not self._stopped.is_set():
            with client(self._path) as connected:
                for _ in range(2):
                    try:
                        self.answers.append(connected.post(EVENTS, json=event()).status_code)
                    except httpx.HTTPError as error:
                        self.answers.append(repr(error))


@pytest.mark.parametrize("interface", ["rsgi", "asgi"])
def test_events_come_by_a_unix_socket_that_user_and_group_may_use(system: System, path: Path, interface: str) -> None:
    with ingest(system, path, HTTP__INTERFACE=interface, HTTP__WORKERS="2", RATE_LIMIT__PER_MINUTE="3") as daemon:
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        assert [each.name for each in path.parent.iterdir()] == [path.name]
        with client(path) as connected:
            assert [connected.post(EVENTS, json=event()).status_code for _ in range(4)] == [202] * 3 + [429]
            assert connected.get("/readyz").status_code == 200
        assert list(system.redis.scan_iter("anl:{0}:rate:*")) == [b"anl:{0}:rate:unix"]
        assert daemon.end() == 0
    assert system.ledger() == {"accepted:view": 3}
    assert not path.exists()


@pytest.mark.parametrize("interface", ["rsgi", "asgi"])
def test_clients_behind_a_proxy_on_the_unix_socket_have_a_limit_each(
    system: System, path: Path, interface: str
) -> None:
    env = {"HTTP__INTERFACE": interface, "HTTP__TRUSTED_PROXIES": '["unix"]', "RATE_LIMIT__PER_MINUTE": "1"}
    with ingest(system, path, **env), client(path) as connected:
        for expected in (202, 429):
            answers = [
                connected.post(EVENTS, json=event(), headers={"x-forwarded-for": f"203.0.113.{number}"}).status_code
                for number in range(5)
            ]
            assert answers == [expected] * 5


def test_the_socket_of_a_daemon_that_was_killed_is_taken_over(system: System, path: Path) -> None:
    with ingest(system, path) as daemon:
        daemon.kill()
    assert path.exists()
    with ingest(system, path), client(path) as connected:
        assert connected.post(EVENTS, json=event()).status_code == 202


def test_a_rolling_restart_on_a_unix_socket_fails_no_request(system: System, path: Path) -> None:
    with ingest(system, path, HTTP__WORKERS="2") as first, Sender(path) as sender:
        sender.wait_for_more()
        with ingest(system, path) as second:
            sender.wait_for_more()
            assert first.end() == 0
            assert path.exists(), "it is the second one's by now"
            sender.wait_for_more()
            sender.stop()
            assert set(sender.answers) == {202}
            assert second.end() == 0
    assert system.views() == len(sender.answers)


def test_a_file_that_is_no_socket_is_left_alone(system: System, path: Path) -> None:
    path.write_text("mine")
    with Daemon(system, "ingest", HTTP__UNIX_SOCKET=str(path)) as daemon:
        assert daemon.process.wait(30) == 2
        assert "http.unix_socket" in daemon.text()
    assert path.read_text() == "mine"


def test_systemd_may_hold_the_unix_socket(system: System, path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as held:
        held.bind(str(path))
        held.listen(4_096)
        command = (sys.executable, "-c", ACTIVATED, str(held.fileno()), *TALLYD)
        with Sender(path) as sender:
            for _ in range(2):
                with Daemon(system, "ingest", "--workers", "2", command=command, fds=[held.fileno()]) as daemon:
                    daemon.says(f"at unix:{path}")
                    sender.wait_for_more()
                    assert daemon.end() == 0
                    assert path.exists()
            with Daemon(system, "ingest", command=command, fds=[held.fileno()]) as daemon:
                sender.wait_for_more()
                sender.stop()
                assert daemon.end() == 0
    assert set(sender.answers) == {202}
    assert system.views() == len(sender.answers)
