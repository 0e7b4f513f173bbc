"""Redis servers of a test's own: of a chosen version, with a chosen memory limit, stopped and started at will.

The session's shared stack is for tests that leave it as it is; whoever wants to hurt a Redis takes one of these.
"""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path

import pytest
import redis

from daemon.devstack import process, programs

START_TIMEOUT_S = 20.0
START_TRIES = 5


class RedisServer:
    """One private Redis, without persistence unless `options` say otherwise. Keeps its port when started again."""

    def __init__(self, program: Path, folder: Path, *options: str) -> None:
        self._program = program
        self._folder = folder
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None
        self.port = process.free_port()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def client(self) -> redis.Redis:
        return redis.Redis.from_url(self.url)

    def start(self) -> None:
        """Returns once it answers; nothing to do if it runs. A port that someone else took meanwhile is exchanged."""
        if self._process is not None:
            return
        for _ in range(START_TRIES):
            self._process = subprocess.Popen(
                [
                    str(self._program),
                    *("--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self._folder), "--save", ""),
                    *self._options,
                ],
                stdout=subprocess.DEVNULL,
            )
            if self._answers(self._process):
                return
            self._process = None
            self.port = process.free_port()
        raise AssertionError(f"{self._program} did not start")

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(10)
            self._process = None

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def _answers(self, started: subprocess.Popen[bytes]) -> bool:
        deadline_s = time.monotonic() + START_TIMEOUT_S
        with self.client() as client:
            while started.poll() is None:
                assert time.monotonic() < deadline_s, "Redis does not answer"
                try:
                    if client.info("server")["process_id"] == started.pid and client.ping():  # busy while it loads
                        return True
                except redis.ConnectionError:
                    pass
                time.sleep(0.01)
        return False


def redis_program(major: int, folder: Path) -> Path:
    """The redis-server of that major version: 6 is the wheel's, 7 the system's. A missing one ends the run."""
    if major == 6:
        found = programs._in_wheel(programs.REDIS_SERVER, folder)
    else:
        found = programs.on_path(programs.REDIS_SERVER.name)
    if found is None:
        pytest.exit(
            f"The tests need Redis {major}: run ./justw test, or {programs.REDIS_SERVER.install}.", returncode=1
        )
    return found
