"""The system under load: stores of its own, a row for each entity, and the real daemons with their default settings."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from daemon.errors import ConfigError, StackError, TallydError
from daemon.spool.segment import usage
from loadtest.tally import DATABASE, UUID_PREFIX
from tests.kit.daemon import Daemon, Ingest
from tests.kit.servers import Stack
from tests.kit.system import System, wait_until

SPOOL_TIMEOUT_S = 120.0
RATE_LIMIT = "2147483647"
"""On: it counts every request, and limits none."""
PATIENT = {f"{store}__TIMEOUT_MS": "300000" for store in ("REDIS", "MONGO", "MYSQL")}
"""For the commands that settle the accounts: a slow machine makes no difference to a count."""
ADD_ROWS = f"INSERT INTO jav (uuid) SELECT CONCAT('{UUID_PREFIX}', LPAD(LOWER(HEX(seq)), 12, '0')) FROM seq_0_to_%d"


class Unfit(TallydError):  # noqa: N818  (says what the system is)
    """Something under the load is not as it must be: a daemon that ended, a spool that does not empty."""


class LoadedSystem(System):
    """Created by `raised`. `serving` is the daemon that answers now."""

    def __init__(self, stack: Stack, entities: int, stopping: threading.Event, cleanup: ExitStack) -> None:
        super().__init__(stack, stack.folder, database=DATABASE)
        self.env["TALLYD_RATE_LIMIT__PER_MINUTE"] = RATE_LIMIT
        self.stopping = stopping
        self.sql(ADD_ROWS % (entities - 1))
        self._cleanup = cleanup
        self.serving = self.start_ingest()
        self._flusher = cleanup.enter_context(Daemon(self, "flush"))

    def start_ingest(self, port: int = 0) -> Ingest:
        """One at this port, perhaps beside another. Returns once new connections reach it."""
        with unfit():
            return self._cleanup.enter_context(Ingest(self, port=port))

    def end(self, daemon: Daemon) -> None:
        """Asks it to stop. Raises Unfit if it had ended before, or does not end well."""
        with unfit():
            daemon.check()
            assert daemon.end() == 0, f"{daemon.name} did not stop well; see {daemon.log}"

    def settle(self) -> None:
        """Brings everything that was accepted out of the spool and out of Redis. The daemons end."""
        spool = Path(self.config().spool.dir)
        with unfit():
            wait_until(_while(self.serving, lambda: usage(spool).segments == 0), "the spool is empty", SPOOL_TIMEOUT_S)
            for daemon in (self.serving, self._flusher):
                self.end(daemon)
            self.tallyd("flush", "--once", check=True, **PATIENT)


def _while(daemon: Daemon, true: Callable[[], bool]) -> Callable[[], bool]:
    """`true`, as long as the daemon runs."""

    def check() -> bool:
        daemon.check()
        return true()

    return check


@contextmanager
def unfit() -> Iterator[None]:
    """Turns an AssertionError of the test kit into Unfit."""
    try:
        yield
    except AssertionError as error:
        raise Unfit(str(error)) from None


@contextmanager
def raised(data: Path, entities: int, stopping: threading.Event) -> Iterator[LoadedSystem]:
    """A system that is up, with this many rows in MySQL. The servers' data stays in `data` when it is left.

    `stopping`: set when the run is to end early; a fault under way is then cut short.
    Raises ConfigError without one of the servers.
    """
    try:
        stack = Stack(data)
    except StackError as error:
        raise ConfigError(str(error)) from None
    with stack, ExitStack() as cleanup:
        yield LoadedSystem(stack, entities, stopping, cleanup)
