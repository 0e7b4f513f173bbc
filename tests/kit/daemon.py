"""One tallyd daemon as a supervisor runs it."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import secrets
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, Self

import httpx
import psutil

from daemon.devstack import process
from tests.kit.commands import TALLYD, inherited
from tests.kit.events import EVENTS
from tests.kit.wait import WAIT_TIMEOUT_S, wait_until

START_TIMEOUT_S = 60.0
END_TIMEOUT_S = 60.0


class Home(Protocol):
    """Where a daemon belongs: its folder, and the environment that tells it where the stores are."""

    scratch: Path

    def environ(self, **env: str) -> dict[str, str]: ...


class Daemon:
    """One process of `tallyd COMMAND` with its workers, in a session of its own. Leaving the context kills them.

    It gets SIGTERM when the thread that started it ends. `run_id` is the one it names under /healthz.
    """

    def __init__(
        self,
        home: Home,
        *arguments: str,
        name: str = "",
        command: Sequence[str] = TALLYD,
        fds: Sequence[int] = (),
        **env: str,
    ) -> None:
        """`env`: as for `System.environ`. `command`: another program, of which only /healthz is expected."""
        self.name = name or arguments[0]
        self.run_id = secrets.token_hex(8)
        self.log = home.scratch / f"{self.name}-{self.run_id}.log"
        self.url = ""
        self._command = [*process.dies_with_parent(), *command, *arguments]
        self._env = {**inherited(), **home.environ(**env), "TALLYD_RUN_ID": self.run_id}
        self._cwd = home.scratch
        self._fds = fds
        self._process: subprocess.Popen[bytes] | None = None
        self._may_end = False

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    # Start and end ----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Returns at once. Nothing to do if it runs."""
        if self.running:
            return
        self.check()
        self._may_end = False
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                cwd=self._cwd,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=self._fds,
                start_new_session=True,
            )

    def wait_up(self, url: str = "") -> None:
        """Waits until it, and not another on the port, answers a new connection."""
        at = url or self.url
        wait_until(lambda: not self.running or run_id_at(at) == self.run_id, f"{self.log} answers", START_TIMEOUT_S)
        assert self.running, self.text()

    def check(self) -> None:
        """Raises AssertionError if it has ended by itself."""
        if self._process is not None and not self.running and not self._may_end:
            raise AssertionError(f"{self.name} ended by itself with {self._process.returncode}:\n{self.text()[-3000:]}")

    def send(self, number: signal.Signals) -> None:
        """To the main process alone."""
        self._may_end = True
        self.process.send_signal(number)

    def end(self, timeout_s: float = END_TIMEOUT_S) -> int:
        """Asks it to stop and returns its exit code; it has to have ended within `timeout_s`."""
        self.send(signal.SIGTERM)
        return self.process.wait(timeout_s)

    def kill(self) -> None:
        """SIGKILL to all its processes at once, also to workers that outlived their main process."""
        self._may_end = True
        self._send_all(signal.SIGKILL)
        if self._process is not None:
            self._process.wait(10)

    def kill_worker(self) -> None:
        """SIGKILL to one worker; the main process ends then by itself."""
        self._may_end = True
        self.workers()[-1].kill()

    def freeze(self) -> None:
        self._send_all(signal.SIGSTOP)

    def thaw(self) -> None:
        self._send_all(signal.SIGCONT)

    # Its state --------------------------------------------------------------------------------------------------

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, f"{self.name} was never started"
        return self._process

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def processes(self) -> list[psutil.Process]:
        """The main process and its workers, without Python's resource tracker."""
        if not self.running:
            return []
        try:
            main = psutil.Process(self.pid)
            children = main.children(recursive=True)
            return [main, *(each for each in children if "resource_tracker" not in " ".join(each.cmdline()))]
        except psutil.NoSuchProcess:
            return []

    def workers(self) -> list[psutil.Process]:
        return self.processes()[1:]

    def text(self) -> str:
        """Its output so far."""
        return self.log.read_text(errors="replace")

    def says(self, text: str, timeout_s: float = WAIT_TIMEOUT_S) -> None:
        """Waits for a line of the log."""
        wait_until(lambda: text in self.text() or not self.running, f"{text!r} in {self.log}", timeout_s)
        assert text in self.text(), self.text()

    def _send_all(self, number: signal.Signals) -> None:
        if self.running:
            os.killpg(self.pid, number)
        elif self._process is not None:
            # Workers that outlived it. By now the number of their session may be that of others.
            for each in psutil.process_iter():
                with contextlib.suppress(psutil.Error, OSError):
                    if os.getsid(each.pid) == self.pid and each.environ().get("TALLYD_RUN_ID") == self.run_id:
                        each.send_signal(number)


class Ingest(Daemon):
    """A `tallyd ingest` and a client of it. It answers once the context is entered."""

    def __init__(self, home: Home, *, address: str = "127.0.0.1", port: int = 0, **options: Any) -> None:
        self.port = port or process.free_port()
        super().__init__(home, "ingest", "--host", address, "--port", str(self.port), **options)
        self.url = f"http://{address}:{self.port}"
        self.client = httpx.Client(base_url=self.url, timeout=10)

    def __enter__(self) -> Self:
        try:
            self.start()
            self.wait_up()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        self.kill()

    def post(self, body: Any, path: str = EVENTS, **options: Any) -> httpx.Response:
        """Sends JSON, or bytes as they are with content type JSON unless `headers` say otherwise."""
        if isinstance(body, bytes):
            headers = {"content-type": "application/json", **options.pop("headers", {})}
            return self.client.post(path, content=body, headers=headers, **options)
        return self.client.post(path, json=body, **options)


def run_id_at(url: str) -> str | None:
    """Of the server that answers a new connection; None if none does."""
    return answer_of(url, "/healthz").get("run_id")


def answer_of(url: str, path: str) -> dict[str, Any]:
    """The answer to a new connection; empty if there is none in JSON."""
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=2)
    try:
        connection.request("GET", path, headers={"connection": "close"})
        return dict(json.loads(connection.getresponse().read()))
    except (OSError, http.client.HTTPException, ValueError):
        return {}
    finally:
        connection.close()
