"""The system under load: an embedded stack of its own, a table with a row an entity, and the real daemons as processes.

All that is started here is stopped here, in order, whatever happened.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncmy

from daemon import config as configuration
from daemon.config import Config
from daemon.devstack import demo, process, stack
from daemon.devstack.stack import StackInfo
from daemon.errors import ConfigError, TallydError
from daemon.spool.segment import usage
from loadtest.tally import UUID_PREFIX

ROOT = Path(__file__).resolve().parent.parent
START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 60.0
SPOOL_TIMEOUT_S = 120.0
COMMAND_TIMEOUT_S = 600.0
STORES = ("REDIS", "MONGO", "MYSQL")
PATIENCE_MS = "300000"
"""Time-out of the commands that settle the accounts: a machine that is slow is no difference."""
POLL_S = 0.05
CONFIG = "tallyd.toml"
CONFIG_TEXT = """
[rate_limit]
per_minute = 2_147_483_647  # on: it counts every request, and limits none
"""
ADD_ROWS = f"""
INSERT INTO jav (uuid, code, title)
SELECT CONCAT('{UUID_PREFIX}', LPAD(LOWER(HEX(seq)), 12, '0')), CONCAT('LOAD-', seq), ''
FROM seq_0_to_%d
"""


class Unfit(TallydError):  # noqa: N818  (says what the system is)
    """Something under the load is not as it must be: a daemon that ended, a spool that does not empty."""


class Daemon:
    """A running `tallyd COMMAND`. Never outlives this process."""

    def __init__(self, data: Path, *arguments: str) -> None:
        self.name = arguments[0]
        self.run_id = secrets.token_hex(8)
        self.log = data / "log" / f"{self.name}-{self.run_id}.log"
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                [*process.dies_with_parent(), *_command(data, *arguments)],
                env={**environment(), "TALLYD_RUN_ID": self.run_id},
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for us alone: we know the order
            )

    def check(self) -> None:
        """Raises Unfit if it has ended."""
        if self.process.poll() is not None:
            raise Unfit(
                f"{self.name} ended by itself. The end of {self.log}:\n{process.log_tail(self.log, since_byte=0)}"
            )

    def stop(self) -> None:
        """Ends it in order. Raises Unfit if it had ended before, or does not end well."""
        self.check()
        self.process.terminate()
        try:
            code = self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            raise Unfit(f"{self.name} did not stop within {STOP_TIMEOUT_S:g} s; see {self.log}") from None
        if code != 0:
            raise Unfit(f"{self.name} stopped with exit code {code}; see {self.log}")

    def kill(self) -> None:
        """Whatever is left of it; its workers end by themselves."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


class System:
    """Created by `raised`. `ingest` is the daemon that answers now."""

    def __init__(self, data: Path, info: StackInfo, cleanup: ExitStack, stopping: threading.Event) -> None:
        self.data = data
        self.info = info
        self.stopping = stopping
        self._cleanup = cleanup
        self.port = process.free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.ingest = self.start_ingest()
        self._flush = self._start("flush")

    def config(self) -> Config:
        """What all commands here run with."""
        return configuration.load(self.data / CONFIG, data=self.data, environ={})

    def start_ingest(self) -> Daemon:
        """Another one on the same port, perhaps beside the one there is. Returns once new connections reach it."""
        daemon = self._start("ingest", "--port", str(self.port))
        self._wait(lambda: _run_id_at(self.port) == daemon.run_id, "ingest answers", START_TIMEOUT_S, daemon)
        return daemon

    def settle(self) -> None:
        """Brings everything that was accepted to where it belongs: out of the spool, out of Redis. The daemons end."""
        spool = Path(self.config().spool.dir)
        self._wait(lambda: usage(spool).segments == 0, "the spool is replayed", SPOOL_TIMEOUT_S, self.ingest)
        self.ingest.stop()
        self._flush.stop()
        self._tallyd("flush", "--once")

    def audit(self) -> dict[str, Any]:
        """`tallyd audit --deep --json`, whether or not it holds."""
        report: dict[str, Any] = json.loads(self._tallyd("audit", "--deep", "--json", codes=(0, 1)))
        return report

    def _tallyd(self, *arguments: str, codes: tuple[int, ...] = (0,)) -> str:
        """Runs a command to its end and returns what it printed.

        Raises Unfit if it printed nothing, ended with another exit code than these, or not in time.
        """
        try:
            done = subprocess.run(
                _command(self.data, *arguments),
                env={**environment(), **{f"TALLYD_{store}__TIMEOUT_MS": PATIENCE_MS for store in STORES}},
                cwd=ROOT,
                capture_output=True,
                text=True,
                timeout=COMMAND_TIMEOUT_S,
                check=False,
                start_new_session=True,
            )
        except subprocess.TimeoutExpired:
            raise Unfit(f"tallyd {' '.join(arguments)} did not end within {COMMAND_TIMEOUT_S:g} s") from None
        if done.returncode not in codes or not done.stdout:
            raise Unfit(f"tallyd {' '.join(arguments)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
        return done.stdout

    def _start(self, *arguments: str) -> Daemon:
        daemon = Daemon(self.data, *arguments)
        self._cleanup.callback(daemon.kill)
        return daemon

    def _wait(self, true: Callable[[], bool], what: str, timeout_s: float, daemon: Daemon) -> None:
        deadline_s = time.monotonic() + timeout_s
        while not true():
            daemon.check()
            if time.monotonic() > deadline_s:
                raise Unfit(f"Not within {timeout_s:g} s: {what}. See the logs in {self.data / 'log'}")
            time.sleep(POLL_S)


@contextmanager
def raised(data: Path, entities: int, stopping: threading.Event) -> Iterator[System]:
    """A system that is up, with this many rows in MySQL. The servers' data stays in `data` when it is left.

    `stopping`: set when the run is to end early; a fault under way is then cut short.

    Raises ConfigError without MariaDB.
    """
    with ExitStack() as cleanup:
        info = asyncio.run(stack.bring_up(data, die_with_parent=True)).info
        cleanup.callback(stack.down, data)
        if not info.mysql:
            raise ConfigError("The accounts are settled in MySQL, too; as root type: apt-get install mariadb-server")
        asyncio.run(_add_rows(info.mysql, entities))
        (data / CONFIG).write_text(CONFIG_TEXT)
        yield System(data, info, cleanup, stopping)


def environment() -> dict[str, str]:
    """Ours, without what would configure tallyd."""
    return {name: text for name, text in os.environ.items() if not name.startswith("TALLYD_") or "_STACK_" in name}


def _command(data: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "daemon.cli", *arguments, "--config", str(data / CONFIG), "--data", str(data)]


async def _add_rows(mysql_url: str, entities: int) -> None:
    parts = urlsplit(mysql_url)
    connection = await asyncmy.connect(
        host=parts.hostname, port=parts.port, user=parts.username, db=parts.path.removeprefix("/"), autocommit=True
    )
    try:
        async with connection.cursor() as cursor:
            await cursor.execute(demo.CREATE_TABLE)
            await cursor.execute(ADD_ROWS % (entities - 1))
    finally:
        await connection.ensure_closed()


def _run_id_at(port: int) -> str | None:
    """Of whoever answers a new connection."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2.0)
    try:
        connection.request("GET", "/healthz", headers={"connection": "close"})
        return str(json.loads(connection.getresponse().read())["run_id"])
    except (OSError, http.client.HTTPException, ValueError, KeyError):
        return None
    finally:
        connection.close()
