"""Several hosts, each with an address of its own: ingest behind nginx, flushers, Redis and MongoDB.

Two of them are parted, a line is slow, one is lost. Whatever happens, MongoDB has each event that was answered 202
once: none is lost, and none is doubled.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from daemon.devstack import programs
from daemon.devstack.process import dies_with_parent, free_port
from tests.kit.commands import TALLYD
from tests.kit.daemon import START_TIMEOUT_S, Daemon
from tests.kit.load import Load
from tests.kit.netns import Network, unread_bytes
from tests.kit.nginx import nginx_folder, nginx_of_hosts
from tests.kit.servers import MONGO, REDIS
from tests.kit.spools import make_silent
from tests.kit.stores import Stores
from tests.kit.system import Ingest, System, event, wait_until

DRAIN_TIMEOUT_S = 60.0
PAUSE_S = 0.02
"""After each event of a client: each is of an entity of its own, and the machine may be slow."""
QUICK = {"REDIS__TIMEOUT_MS": "1000", "REDIS__RECONNECT_MS": "50", "SPOOL__PROBE_MS": "50", "MONGO__TIMEOUT_MS": "2000"}
FLUSH = {**QUICK, "FLUSH__INTERVAL_S": "0.2", "FLUSH__LEASE_MS": "1000", "FLUSH__RETRY_MAX_MS": "500"}
LOOPBACK = "127.0.0.1"
CLAIM = "anl:{0}:claim"


class Site:
    """All hosts, and what runs on them. Ingest host b is started by each test: one of them loses it."""

    def __init__(self, network: Network, folder: Path) -> None:
        self.network = network
        self.folder = folder
        self.url = ""

    @contextlib.contextmanager
    def running(self) -> Iterator[Site]:
        with ExitStack() as stack:
            self.redis, self.mongo = (stack.enter_context(self._server(host)) for host in ("redis", "mongo"))
            self.mysql = ""
            self.system = System(self, self.folder)
            stack.callback(Stores.close, self.system)
            self.a, self.b = self.ingest("a"), self.ingest("b")
            stack.enter_context(self.a)
            self.flush1 = stack.enter_context(self.flusher("flush1"))
            ours = stack.enter_context(nginx_folder())
            ends = (ingest.url.removeprefix("http://") for ingest in (self.a, self.b))
            self.url = stack.enter_context(nginx_of_hosts(ours, *ends))
            yield self

    def ingest(self, host: str, port: int = 0) -> Ingest:
        env = {**QUICK, "SPOOL__DIR": str(self.spool(host))}
        address, command = self.network.address(host), self._tallyd(host)
        return Ingest(self.system, address=address, port=port, command=command, **env)

    def flusher(self, host: str) -> Daemon:
        return Daemon(self.system, "flush", name=host, command=self._tallyd(host), **FLUSH)

    def spool(self, host: str) -> Path:
        return self.folder / host

    def spools(self) -> bool:
        """Whether host b has events on its disk, and says so."""
        with contextlib.suppress(httpx.TransportError):
            return self.b.client.get("/readyz").json() == {"status": "spooling"}
        return False

    def counts_once(self, load: Load, *others: str) -> None:
        """Waits until MongoDB has each event that was answered 202 once, and nothing else."""
        load.resend(self.a.url)
        expected = {f"jav:movie:{id_}": {"view": 1} for id_ in (*load.labelled("acked"), *others)}

        def found() -> dict[str, dict[str, int]]:
            return {key: counters for key, counters in self.system.rollup("totals").items() if key in expected}

        try:
            wait_until(lambda: found() == expected, "all is counted once", DRAIN_TIMEOUT_S)
        except AssertionError as error:
            last = found()
            apart = {key: last.get(key) for key in expected if last.get(key) != expected[key]}
            raise AssertionError(f"{error}: {len(apart)} of {len(expected)} are not, and found so: {apart}") from None
        wait_until(lambda: self.system.audit()["exact"], "nothing moves", DRAIN_TIMEOUT_S)
        assert found() == expected
        assert not self.system.redis.exists("anl:{0}:dirty"), "nothing is on its way"

    def _tallyd(self, host: str) -> tuple[str, ...]:
        return (*self.network.command(host), *TALLYD)

    @contextlib.contextmanager
    def _server(self, host: str) -> Iterator[str]:
        """Redis or MongoDB on a host of its own, and its URL."""
        described, address, port = {"redis": REDIS, "mongo": MONGO}[host], self.network.address(host), free_port()
        program, data = programs.find(described.program), self.folder / host
        assert program is not None, f"no {described.program.name}: run ./justw test"
        described.initialise(program, data)
        words = [*described.command(program, data, port), *(("--protected-mode", "no") if host == "redis" else ())]
        command = [
            *dies_with_parent(),
            *self.network.command(host),
            *(word.replace(LOOPBACK, address) for word in words),
        ]
        url = described.url.format(port=port).replace(LOOPBACK, address)

        def answers() -> bool:
            with contextlib.suppress(Exception):  # each store has errors of its own
                asyncio.run(described.ping(url))
                return True
            return False

        with (
            (self.folder / f"{host}.log").open("wb") as log,
            subprocess.Popen(command, stdout=log, stderr=log) as server,
        ):
            try:
                wait_until(lambda: server.poll() is not None or answers(), f"{log.name} answers", START_TIMEOUT_S)
                yield url
            finally:
                server.terminate()


@pytest.fixture(scope="module")
def all_hosts(server_folder: Path) -> Iterator[Site]:
    folder = server_folder / "apart"
    folder.mkdir()
    network = Network("redis", "mongo", "a", "b", "flush1", "flush2")
    with network.up(), Site(network, folder).running() as site:
        yield site


@pytest.fixture
def without_b(all_hosts: Site) -> Iterator[Site]:
    """Ingest host b does not run."""
    yield all_hosts
    all_hosts.network.heal()


@pytest.fixture
def site(without_b: Site) -> Iterator[Site]:
    """With an ingest host b that has just begun."""
    shutil.rmtree(without_b.spool("b"), ignore_errors=True)
    without_b.b = without_b.ingest("b", without_b.b.port)
    with without_b.b:
        yield without_b


def test_a_host_is_lost_while_it_spools_and_its_folder_is_replayed_elsewhere(site: Site, tmp_path: Path) -> None:
    brought = tmp_path / "brought"
    shared = [event(entity_id=f"shared{n}") for n in range(5)]
    with Load(site.url, 4, spread=True, pause_s=PAUSE_S).running() as load:
        load.wait_for_more(20)
        site.network.part("b", "redis")
        wait_until(site.spools, "it spools")
        load.wait_for_more(20)
        for ingest in (site.b, site.a):  # their producer had no answer of b, as far as it knows
            for one in shared:
                assert ingest.post(one).status_code == 202
        site.b.freeze()
        wait_until(lambda: unread_bytes(site.b.pid), "it has a request that it will never answer")
        site.b.kill()
        load.wait_for_more(20)
    assert load.failures == [], "nginx sends to the other host what b did not answer"
    wait_until(lambda: site.a.client.get("/readyz").json() == {"status": "ready"}, "the other host counts")
    make_silent(site.system, str(site.spool("b")))
    for command in (("status",), ("audit",), ("spools", "list")):
        said = site.system.tallyd_here(*command, COLUMNS="300")[1]
        assert str(site.spool("b")) in said, command
        assert "silent" in said or "not reported" in said, command
    shutil.copytree(site.spool("b"), brought)
    assert "replayed" in site.system.tallyd("replay", "--from", str(brought)).stdout
    assert site.system.audit()["spools"] == []
    site.counts_once(load, *(one["entity_id"] for one in shared))


def test_a_host_that_is_parted_from_redis_counts_once_what_it_took_meanwhile(site: Site) -> None:
    with Load(site.url, 4, spread=True, pause_s=PAUSE_S).running() as load:
        load.wait_for_more(20)
        site.network.part("redis", "b", one_way=True)  # calls are carried out, and their replies are lost
        wait_until(site.spools, "it spools")
        site.network.part("b", "redis", one_way=True)
        load.wait_for_more(20)
        site.network.heal()
        wait_until(lambda: not site.spools(), "it counts again")
        load.wait_for_more(20)
    assert load.failures == []
    site.counts_once(load)


def test_a_flusher_that_is_parted_from_mongodb_in_the_middle_of_a_flush_doubles_nothing(
    without_b: Site,
) -> None:
    site = without_b
    redis, network = site.system.redis, site.network

    def failures() -> int:
        return site.flush1.text().count("Flushing shard 0 failed: MongoDB")

    def has_claim() -> bool:
        seq, owner = redis.hmget(CLAIM, "seq", "owner")
        return seq is not None and (owner or b"").startswith(b"flush1:")

    def is_stuck() -> bool:
        """Whether it was parted in the middle of a claim, and not just after it."""
        network.delay("flush1", "mongo", 50)
        wait_until(has_claim, "it has a claim")
        before = failures()
        network.part("flush1", "mongo")
        wait_until(lambda: failures() > before, "MongoDB is away for it")
        if not has_claim():
            network.heal()
        return has_claim()

    with Load(site.a.url, 2, spread=True, pause_s=PAUSE_S).running() as load:
        load.wait_for_more(20)
        wait_until(is_stuck, "it is parted in the middle of a claim", DRAIN_TIMEOUT_S)
        with site.flusher("flush2") as other:
            other.says("taken over from flush1:")
            load.wait_for_more(20)
            network.heal()
            load.stop()
            site.counts_once(load)
            assert other.end() == 0


def test_a_slow_line_between_a_host_and_redis_loses_and_doubles_nothing(site: Site) -> None:
    site.network.delay("b", "redis", 100)
    with Load(site.url, 4, spread=True, pause_s=PAUSE_S).running() as load:
        load.wait_for_more(40)
    assert site.network.delayed
    assert load.failures == []
    site.network.heal()
    site.counts_once(load)
