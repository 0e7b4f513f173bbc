"""tallyd's daemons as a supervisor runs them: signals go to the main process alone, and what it does is watched.

`System.ingest` and `System.flusher` are for tests that only need one running.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import secrets
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import psutil

from tests.kit.system import START_TIMEOUT_S, TALLYD, System, wait_until

END_TIMEOUT_S = 30.0


class Daemon:
    """One process of `tallyd COMMAND` with the workers it starts. Leaving the context kills what is left of it."""

    def __init__(
        self, system: System, *arguments: str, command: Sequence[str] = TALLYD, fds: Sequence[int] = (), **env: str
    ) -> None:
        """`env`: as for `System.environ`, except names in capitals without `__`, which are taken as they are."""
        self.run_id = secrets.token_hex(8)
        self.log = system.scratch / f"{arguments[0]}-{self.run_id}.log"
        plain = {name: value for name, value in env.items() if "__" not in name and name != "CONFIG"}
        tallyd = {name: value for name, value in env.items() if name not in plain}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*command, *arguments],
                cwd=system.scratch,
                env={**os.environ, **system.environ(**tallyd), "TALLYD_RUN_ID": self.run_id, **plain},
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=fds,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        left = self.workers()
        for each in left:
            each.kill()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def says(self, text: str) -> None:
        """Waits for a line of the log."""
        wait_until(lambda: text in self.text() or self.process.poll() is not None, f"{text!r} in {self.log}")
        assert text in self.text(), self.text()

    def workers(self) -> list[psutil.Process]:
        try:
            return psutil.Process(self.process.pid).children()
        except psutil.NoSuchProcess:
            return []

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def end(self, timeout_s: float = END_TIMEOUT_S) -> int:
        """Asks it to stop and returns its exit code; it has to have ended within `timeout_s`."""
        self.send(signal.SIGTERM)
        return self.process.wait(timeout_s)

    def wait_up(self, url: str) -> None:
        """Waits until it, and not another on the port, answers."""
        wait_until(
            lambda: self.process.poll() is not None or run_id_at(url) == self.run_id, self.text(), START_TIMEOUT_S
        )
        assert self.process.poll() is None, self.text()


def run_id_at(url: str) -> str | None:
    """Of whoever answers a new connection."""
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=2)
    try:
        connection.request("GET", "/healthz", headers={"connection": "close"})
        return str(json.loads(connection.getresponse().read())["run_id"])
    except (OSError, http.client.HTTPException, ValueError, KeyError):
        return None
    finally:
        connection.close()


class Notifications:
    """The socket systemd would listen on, and what was told to it, in order."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.messages: list[dict[str, str]] = []
        self._read = 0
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(address.replace("@", "\0", 1))
        self._socket.setblocking(False)

    def new(self) -> list[dict[str, str]]:
        """The messages nobody has looked at yet."""
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

    def close(self) -> None:
        self._socket.close()


@contextmanager
def notifications(*, abstract: bool = False) -> Iterator[Notifications]:
    # A folder of its own: pytest's are too deep for a socket's address.
    with tempfile.TemporaryDirectory(prefix="tallyd-") as folder:
        address = f"@tallyd-test-{secrets.token_hex(8)}" if abstract else str(Path(folder) / "notify")
        listening = Notifications(address)
        try:
            yield listening
        finally:
            listening.close()
