"""The road from a producer to the counts: a faulty proxy, the real daemon, and the stores behind it.

def test_a_fact(road: Road) -> None:
    road.faulty(seed=1)                                  # 10 % of the replies lost, 10 % of the connections refused
    ...                                                  # the producer sends to `road.url`
    road.restart()                                       # the daemon, on its port
    road.counted({("a-movie", "view"): 3}, resent=True)  # flushed, and equal in every store
"""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.clients.php_kit import nowhere, php  # noqa: F401  (fixtures)
from tests.clients.python_kit import folder, soon  # noqa: F401  (fixtures)
from tests.kit.proxy import Proxy
from tests.kit.system import BATCH, EVENTS, ROLLUPS, Ingest, System

EVENTS_EACH = int(os.environ.get("CLIENT_EVENTS", "1500"))
"""Events of a producer in the long test. `just clients` sends 10,000."""
FAULTY_SHARE = 0.1
ENTITY = "jav:movie:"

Expected = Mapping[tuple[str, str], int]
"""(entity id, action) → amount. The domain is jav, the entity type movie; the actions are view and download."""


class Road:
    """One daemon behind one proxy. The producer is told `url`, or `events_url`."""

    def __init__(self, system: System, daemon: Ingest, proxy: Proxy) -> None:
        self.system = system
        self.daemon = daemon
        self.proxy = proxy
        self._is_away = False

    @property
    def url(self) -> str:
        """Of the daemon, by way of the proxy; without a path."""
        return self.proxy.url()

    @property
    def events_url(self) -> str:
        """Takes single events."""
        return self.url + EVENTS

    @property
    def batch_url(self) -> str:
        return self.url + BATCH

    # Faults -----------------------------------------------------------------------------------------------------

    def faulty(self, seed: int, *, lost: float = FAULTY_SHARE, refused: float = FAULTY_SHARE) -> None:
        """Loses this share of the replies, and refuses this share of the connections, until `healed`.

        Half of the lost replies never come, so a client waits for its time-out. The others end with the connection.
        """
        self.proxy.lossy(lost, seed, refused=refused)

    def away(self) -> None:
        """Nothing gets through until `healed`."""
        self.proxy.cut()
        self._is_away = True

    def healed(self) -> None:
        """No fault any more. A connection from before that nobody has accepted yet is ended, too."""
        if self._is_away:
            with socket.create_connection(("127.0.0.1", urlsplit(self.url).port or 0)) as last:
                last.recv(1)
            self._is_away = False
        self.proxy.restore()

    def restart(self, *, kill: bool = False) -> None:
        """Stops the daemon, and starts it on the same port. `kill`: by SIGKILL, so that it leaves requests unanswered.

        Returns once it answers. Call it in a thread that outlives the test: a daemon ends with the thread that started
        it.
        """
        if kill:
            self.daemon.kill()
        else:
            assert self.daemon.end() in (0, -signal.SIGTERM), self.daemon.text()
        self.daemon.start()
        self.daemon.wait_up()

    # The end of every test --------------------------------------------------------------------------------------

    def counted(self, expected: Expected, *, resent: bool = False) -> None:
        """Flushes, and compares every store with what was tracked. `resent`: some event must have come twice.

        MySQL gets its rows here. The five rollups, summed over time, and the columns must equal `expected`. The audit
        must find nothing.
        """
        wanted: dict[str, dict[str, int]] = {}
        for (entity_id, action), amount in expected.items():
            if amount:
                wanted.setdefault(entity_id, {})[action] = amount
        self.system.add_movies(*wanted.keys() - self.system.replica().keys())
        assert self.system.flush().replica_error is None
        for name in ROLLUPS:
            assert self._sums(name) == wanted, name
        rows = {id_: (each.get("view", 0), each.get("download", 0)) for id_, each in wanted.items()}
        assert self.system.replica() == rows
        exit_code, report = self.system.tallyd_here("audit", "--deep", "--json")
        assert exit_code == 0, report
        assert json.loads(report)["exact"], report
        assert not resent or self.duplicates() > 0

    def duplicates(self) -> int:
        """Events that came again, and were not counted again."""
        return sum(amount for field, amount in self.system.ledger().items() if field.startswith("duplicate:"))

    def accepted(self) -> int:
        """Amount that was counted, of all counters."""
        return sum(amount for field, amount in self.system.ledger().items() if field.startswith("accepted:"))

    def _sums(self, rollup: str) -> dict[str, dict[str, int]]:
        sums: dict[str, dict[str, int]] = {}
        for document in self.system.mongo[f"analytics_entity_{rollup}"].find():
            assert document["_id"].startswith(ENTITY)
            counters = sums.setdefault(document["entity_id"], {})
            for action in ("view", "download"):
                if document[action]:
                    counters[action] = counters.get(action, 0) + document[action]
        return sums


@contextmanager
def laid(system: System, **env: str) -> Iterator[Road]:
    """A road to a daemon with this environment (as of `System.environ`)."""
    with system.ingest(**env) as daemon, Proxy(daemon.url).running() as proxy:
        yield Road(system, daemon, proxy)


@pytest.fixture(scope="module")
def shared_road(shared_system: System, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Road]:
    shared_system.empty(tmp_path_factory.mktemp("road"))  # the folder of a test would go with the test
    with laid(shared_system) as road:
        yield road


@pytest.fixture
def road(shared_road: Road, tmp_path: Path) -> Iterator[Road]:
    """The module's road, without a fault, with empty stores behind a daemon that runs."""
    shared_road.away()  # what another test left on it must not arrive in this one
    shared_road.healed()
    if not shared_road.daemon.running:
        shared_road.daemon.start()
        shared_road.daemon.wait_up()
    shared_road.system.empty(tmp_path)
    yield shared_road
    shared_road.healed()
