"""The daemons under systemd: what they tell it, the socket they take from it, and the units that start them.

systemd itself need not run: the notify socket is a real one, of the test's.
"""

from __future__ import annotations

import configparser
import contextlib
import re
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from daemon.config import Config
from daemon.devstack import process
from daemon.ingest.process.handover import LINGER_S_MAX
from daemon.ingest.process.server import SILENCE_S_MAX
from tests.kit.commands import UNPRIVILEGED, run
from tests.kit.daemon import Daemon, Ingest, run_id_at
from tests.kit.kill import AT_FILE
from tests.kit.load import Load
from tests.kit.proxy import Gate
from tests.kit.servers import RedisServer
from tests.kit.system import ROOT, TALLYD, System, event, wait_until

UNITS = ROOT / "ops" / "systemd"
KINDS = (".service", ".socket", ".timer", ".target")
SERVICES = sorted(UNITS.glob("*.service"))
JOBS = ("audit", "parity", "report", "expire", "shadow-compare", "doctor")
EXPOSURE_MAX_TENTHS = 13
"""Of `systemd-analyze security`: 0 is the safest, 100 the most exposed."""
WATCHDOG_US = 400_000
INTERVAL_S = WATCHDOG_US / 1e6 / 2
SILENCE_INTERVALS = 6
ROOM_S = 5
"""What a busy machine may add to the time a stop takes."""


class Notifications:
    """The socket systemd would listen on, and the messages to it, in order."""

    def __init__(self, listening: socket.socket) -> None:
        self.messages: list[dict[str, str]] = []
        self._read = 0
        self._socket = listening

    def new(self) -> list[dict[str, str]]:
        """The messages since the last call."""
        with contextlib.suppress(BlockingIOError):
            while True:
                text = self._socket.recv(65_536).decode()
                self.messages.append(dict(line.split("=", 1) for line in text.split("\n")))
        new = self.messages[self._read :]
        self._read = len(self.messages)
        return new

    def wait_for(self, key: str, value: str = "", *, times: int = 1) -> dict[str, str]:
        """Waits for a new message in which the key's value contains `value`, or for several, and returns the last."""
        left = times

        def seen() -> bool:
            nonlocal left
            new = self.new()
            for n, message in enumerate(new):
                left -= key in message and value in message[key]
                if left == 0:
                    self._read -= len(new) - n - 1  # what came after it is still to be looked at
                    return True
            return False

        wait_until(seen, f"{times} times {key}={value}; there came {self.messages}")
        return self.messages[self._read - 1]


@contextmanager
def told(*, abstract: bool = False) -> Iterator[tuple[Notifications, dict[str, str]]]:
    """The notify socket, and the environment that names it."""
    # A folder of its own: pytest's are too deep for a socket's address.
    with (
        tempfile.TemporaryDirectory(prefix="tallyd-") as folder,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening,
    ):
        address = f"@tallyd-test-{secrets.token_hex(8)}" if abstract else f"{folder}/notify"
        listening.bind(address.replace("@", "\0", 1))
        listening.setblocking(False)
        yield Notifications(listening), {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": str(WATCHDOG_US)}


def assert_falls_silent(systemd: Notifications) -> None:
    fed_at_s = time.monotonic()

    def silent() -> bool:
        nonlocal fed_at_s
        if any("WATCHDOG" in message for message in systemd.new()):
            fed_at_s = time.monotonic()
        return time.monotonic() - fed_at_s > SILENCE_INTERVALS * INTERVAL_S

    wait_until(silent, "the watchdog is no longer fed")


# What they tell it ------------------------------------------------------------------------------------------------


def test_ingest_tells_systemd_how_it_is(system: System) -> None:
    url = f"http://127.0.0.1:{process.free_port()}"
    file = system.scratch / "tallyd.toml"
    file.write_text("")
    with told() as (systemd, env):
        arguments = ("ingest", "--port", url.rpartition(":")[2], "--workers", "2")
        with Daemon(system, *arguments, CONFIG=str(file), **env) as daemon:
            ready = systemd.wait_for("READY")
            assert run_id_at(url) == daemon.run_id, "it is ready when it says so"
            assert "2 workers" in ready["STATUS"]
            systemd.wait_for("WATCHDOG", times=3)

            frozen = daemon.workers()[1]
            frozen.suspend()
            assert_falls_silent(systemd)
            frozen.resume()
            systemd.wait_for("WATCHDOG", times=2)

            for text, status in (("enabled = false", "2 workers"), ("enabled = maybe", "the old one stays")):
                file.write_text(text)
                before_us = time.monotonic_ns() // 1000
                daemon.send(signal.SIGHUP)
                assert int(systemd.wait_for("RELOADING")["MONOTONIC_USEC"]) >= before_us
                assert status in systemd.wait_for("READY")["STATUS"]
            systemd.wait_for("WATCHDOG", times=2)

            assert not any("STOPPING" in message for message in systemd.messages)
            assert daemon.end() == 0
            systemd.wait_for("STOPPING")


def test_a_stuck_call_is_not_fed_until_it_moves(system: System) -> None:
    reached = system.scratch / "reached"
    hold = {"PYTHONPATH": str(AT_FILE), "HOLD": "before 2 fsync .open", "REACHED": str(reached)}
    away = f"redis://127.0.0.1:{process.free_port()}/0"
    port = process.free_port()
    with (
        told() as (systemd, env),
        Ingest(system, port=port, REDIS__URL=away, SPOOL__TIMEOUT_MS="200", **hold, **env) as ingest,
    ):
        systemd.wait_for("WATCHDOG", times=2)
        assert ingest.post(event()).status_code == 503
        assert reached.exists()
        assert_falls_silent(systemd)
        ingest.says("hangs: its event loop, or a call")
        reached.unlink()
        systemd.wait_for("WATCHDOG", times=2)


def test_flush_tells_systemd_how_it_is(system: System) -> None:
    with (
        RedisServer(7, system.scratch) as server,
        Gate(system.env["TALLYD_MONGO__URL"], b"createIndexes").running() as gate,
        told(abstract=True) as (systemd, env),
        Daemon(
            system, "flush", MONGO__URL=gate.url(), REDIS__URL=server.url, FLUSH__INTERVAL_S="0.1",
            FLUSH__RETRY_MAX_MS="500", **env,
        ) as daemon,
    ):  # fmt: skip
        assert gate.tripped.wait(20)
        time.sleep(2 * INTERVAL_S)
        assert not any("READY" in message for message in systemd.new()), "MongoDB has not answered yet"
        gate.release()
        assert "Flushing every 0.1 s" in systemd.wait_for("READY")["STATUS"]
        systemd.wait_for("WATCHDOG", times=3)

        server.stop()
        systemd.wait_for("STATUS", "cannot be reached")
        systemd.wait_for("WATCHDOG", times=3)
        server.start()
        systemd.wait_for("STATUS", "Flushing every")

        daemon.send(signal.SIGSTOP)
        assert_falls_silent(systemd)
        daemon.send(signal.SIGCONT)
        systemd.wait_for("WATCHDOG", times=2)

        daemon.send(signal.SIGHUP)
        systemd.wait_for("RELOADING")
        systemd.wait_for("READY")
        assert daemon.end() == 0
        systemd.wait_for("STOPPING")


def test_a_notify_socket_that_is_gone_harms_nobody(system: System) -> None:
    with Daemon(system, "flush", NOTIFY_SOCKET=str(system.scratch / "gone")) as daemon:
        daemon.says("Flushing every")
        assert daemon.end() == 0


# The socket they take from it -------------------------------------------------------------------------------------

ACTIVATED = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1", "LISTEN_FDNAMES": "tallyd-ingest.socket"}
os.execv(sys.argv[2], sys.argv[2:])
"""
"""What systemd does between fork and exec of a service that has a socket unit."""


@pytest.mark.parametrize("prefix", [UNPRIVILEGED, ()], ids=["the unit's user", "root"])
def test_a_restart_fails_no_request_when_systemd_holds_the_socket(system: System, prefix: tuple[str, ...]) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=4_096) as held:
        url = f"http://127.0.0.1:{held.getsockname()[1]}"
        command = (*prefix, sys.executable, "-c", ACTIVATED, str(held.fileno()), *TALLYD)
        with Load(url).running() as load:
            with Daemon(
                system, "ingest", "--workers", "2", command=command, fds=[held.fileno()], HTTP__PORT="1"
            ) as daemon:
                daemon.says("Ready: ")
                load.wait_for_more()
                assert daemon.end() == 0
            with Daemon(system, "ingest", command=command, fds=[held.fileno()], HTTP__PORT="1"):
                load.wait_for_more()
                load.stop()
        assert load.failures == []
        assert system.ledger()["accepted:view"] == load.count("acked") == len(load.labels)


def test_a_socket_unit_that_passes_anything_else_is_wrong_configuration(system: System) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        command = (sys.executable, "-c", ACTIVATED, str(datagrams.fileno()), *TALLYD)
        with Daemon(system, "ingest", command=command, fds=[datagrams.fileno()]) as daemon:
            assert daemon.process.wait(20) == 2
            assert "ListenStream" in daemon.text()


# The units --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def units() -> dict[str, configparser.ConfigParser]:
    found = {}
    for path in UNITS.glob("tallyd*.*"):
        if path.suffix in KINDS:
            found[path.name] = configparser.ConfigParser(strict=False, interpolation=None)
            found[path.name].optionxform = str  # type: ignore[assignment,method-assign]
            found[path.name].read(path)
    return found


@pytest.fixture(scope="module")
def analyze() -> str:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.exit("The tests need systemd-analyze: run ./justw test, or apt-get install systemd.", returncode=1)
    return program


def test_systemd_has_nothing_to_say_against_the_units(analyze: str) -> None:
    units = sorted(str(path) for path in UNITS.iterdir() if path.suffix in KINDS)
    assert len(units) == 4 + 2 * len(JOBS)
    done = run([analyze, "verify", *units])
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.parametrize("service", SERVICES, ids=lambda path: path.stem)
def test_a_service_is_hardly_exposed(service: Path, analyze: str) -> None:
    done = run([analyze, "security", "--offline=true", f"--threshold={EXPOSURE_MAX_TENTHS}", service])
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("service", SERVICES, ids=lambda path: path.stem)
def test_a_service_has_limits(service: Path, units: dict[str, configparser.ConfigParser]) -> None:
    assert {"MemoryMax", "TasksMax"} <= units[service.name]["Service"].keys()
    shared = (UNITS / "tallyd-.service.d/10-tallyd.conf").read_text()
    assert "\nOOMScoreAdjust=" in shared
    assert "\nSystemCallFilter=~@privileged @resources\n" in shared


@pytest.mark.parametrize("job", JOBS)
def test_a_timer_runs_a_command_that_keeps_its_result(job: str, units: dict[str, configparser.ConfigParser]) -> None:
    words = units[f"tallyd-{job}.service"]["Service"]["ExecStart"].split()
    assert words[:2] == ["/usr/bin/env", "tallyd"]
    assert words[-1] == "--record"
    timer = units[f"tallyd-{job}.timer"]
    assert timer["Timer"]["Persistent"] == "yes"
    assert timer["Install"]["WantedBy"] == timer["Unit"]["PartOf"] == "tallyd.target"


def test_a_reload_tells_the_daemon_and_fails_if_the_file_is_wrong(
    tmp_path: Path, units: dict[str, configparser.ConfigParser]
) -> None:
    file = tmp_path / "tallyd.toml"
    for service in ("tallyd-ingest.service", "tallyd-flush.service"):
        lines = re.findall(r"^ExecReload=(.*)$", (UNITS / service).read_text(), re.MULTILINE)
        # In this order: a daemon that is not told of a wrong file never says in its metrics that it refused one.
        assert [line.rpartition("tallyd ")[2] for line in lines] == ["/bin/kill -HUP $MAINPID", "config --check"]
        assert units[service]["Service"]["Restart"] == "always"
    for text, code in (("enabled = false", 0), ("enabled = maybe", 2)):
        file.write_text(text)
        done = run([*TALLYD, "config", "--check", "--config", file])
        assert done.returncode == code, done.stderr
        assert (done.stdout == "The configuration is right.\n") == (code == 0)


def test_systemd_waits_longer_than_a_stop_may_take(units: dict[str, configparser.ConfigParser]) -> None:
    config = Config()
    stops = {
        "tallyd-ingest.service": config.http.closing_ms / 1000
        + LINGER_S_MAX
        + SILENCE_S_MAX
        + config.http.drain_timeout_s,
        "tallyd-flush.service": config.flush.stop_timeout_s + 3 * 2,
    }
    for name, stop_s in stops.items():
        assert int(units[name]["Service"]["TimeoutStopSec"]) >= stop_s + ROOM_S
    assert int(units["tallyd-ingest.service"]["Service"]["LimitNOFILE"]) > 2 * 65_536


def test_the_socket_unit_is_where_the_daemon_would_listen(units: dict[str, configparser.ConfigParser]) -> None:
    http = Config().http
    assert units["tallyd-ingest.socket"]["Socket"]["ListenStream"] == f"{http.host}:{http.port}"
