"""Redis killed again and again under load. It comes back older: its replica, or its file, lacks the last part.

`python -m tests.chaos.failover --rounds 200 --seed 7` runs it for minutes (`just chaos-cluster`), a test runs a few
rounds. Two flushers, one ingest daemon, single events. Maybe the ingest daemon is killed in the same moment, and maybe
its host loses what it did not sync.
"""

from __future__ import annotations

import json
import random
import secrets
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any, Protocol, Self

import redis
import typer

from daemon.buffer import scripts
from daemon.domain.rollup import COMPLETE, DOMAIN_DAILY
from daemon.rollups.collections import FLOORS, JOURNAL
from tests.kit.cluster import Cluster
from tests.kit.daemon import Daemon, Ingest
from tests.kit.events import event
from tests.kit.kill import Stop
from tests.kit.load import Load
from tests.kit.oracle import ROLLUPS
from tests.kit.pair import CutBack, Pair
from tests.kit.proxy import Fault, Proxy, command_of, update_of
from tests.kit.servers import Stack
from tests.kit.system import System
from tests.kit.wait import wait_until

KINDS = ("failover", "power", "cluster")
STAYS, KILLED, NO_POWER = "", "ingest killed", "ingest host without power"
"""What becomes of the ingest daemon in the same moment. Without power, what is not synced is gone."""
HOSTS = (STAYS, KILLED, NO_POWER)
ENTITIES = 16
FLUSHERS = 2
STEP_TIMEOUT_S = 120.0
AMENDED = 3
"""So many claims at least are forgotten if a flusher is to be stopped between two amends."""
AMEND = "amend"
OUTAGE = "an outage of MongoDB"
"""No step: it comes before the fault. What was live all the while is flushed in the moments that Redis forgets."""
STEPS = {
    "floor": Stop("mongo", command_of("find", FLOORS)),
    "freeze": Stop("redis", scripts.CLAIM.sha.encode(), nth=2),
    "confirm": Stop("redis", b"$4\r\nWAIT\r\n"),
    "journal": Stop("mongo", command_of("insert", JOURNAL)),
    "advance": Stop("mongo", command_of("findAndModify", FLOORS)),
    **{f"write {kind.collection}": Stop("mongo", update_of(kind.collection)) for kind in (*COMPLETE, DOMAIN_DAILY)},
    "ack": Stop("redis", scripts.ACK.sha.encode()),
    AMEND: Stop("redis", scripts.AMEND.sha.encode(), nth=2),
}
"""Requests of a flush that one flusher is stopped at, as of `daemon.flush.drain.STEPS`. At `confirm` its claim is
sealed. At the second `amend`, Redis falls back once more. Not in a cluster."""
CLIENTS = 4
ANSWER_TIMEOUT_S = 60.0
OUTAGE_EVENTS = 500
CLUSTER_SHARDS = 4
"""They lie on three nodes."""
LACKS_S_MAX = 2.0
"""What everysec may lose, and more than a replica lacks in ordinary times."""
LENGTH_INTERVAL_S = 0.02
DRAIN_TIMEOUT_S = 180.0
QUICK = {
    "REDIS__RECONNECT_MS": "20",
    "SPOOL__PROBE_MS": "50",
    "FLUSH__JOURNAL_CLAIMS": "1000",
    "FLUSH__FALL_BACK_S": "600",
    "FLUSH__LEASE_MS": "500",
    "FLUSH__INTERVAL_S": "0.1",
    "FLUSH__POLL_MS": "20",
    "FLUSH__CLAIM_ENTITIES_MAX": "5",
    "FLUSH__CLAIM_US_MAX": "1",
    "FLUSH__RETRY_MS": "50",
    "FLUSH__RETRY_MAX_MS": "200",
}
"""Small claims of several parts, so that a short run meets each step of many. More of them come in two seconds than are
kept by default, and on a busy machine a fault takes longer than a crash."""


class Spread(Load):
    """Its views are of a few entities; an event's id says of which."""

    def _event(self, id_: str) -> dict[str, Any]:
        return event(event_id=id_, entity_id=entity_of(id_))


def entity_of(id_: str) -> str:
    return f"m{int(id_[0], 16) % ENTITIES}"


class Trial:
    """The system at work on a Redis that comes back older. Create it with `begun`."""

    def __init__(
        self,
        system: System,
        older: Older,
        dice: random.Random,
        *,
        lacks_s_max: float = LACKS_S_MAX,
        replicated: bool = False,
    ) -> None:
        """`replicated`: an event is answered once the replica has it."""
        self.system, self.older, self.dice, self.lacks_s_max = system, older, dice, lacks_s_max
        self._spool, self._taken = system.scratch / "spool", system.scratch / "taken"
        self._replicated = {"REDIS__DURABILITY": "replicated", "REDIS__REPLICAS": "1"} if replicated else {}
        self.figures: dict[str, Counter[str]] = defaultdict(Counter)
        """Per kind of fault: `rounds`, and of their `events` those that were `lost` and `doubled`."""
        self._acked: set[str] = set()
        self._cleanup = ExitStack()

    def __enter__(self) -> Self:
        system, cleanup = self.system, self._cleanup
        system.env |= {"TALLYD_REDIS__URL": self.older.url, **{f"TALLYD_{key}": text for key, text in QUICK.items()}}
        system.env["TALLYD_REDIS__SHARDS"] = str(self.older.shards)
        system.env["TALLYD_REDIS__UNSYNCED_MS"] = str(self.older.unsynced_ms)
        system.redis.close()
        system.redis = cleanup.enter_context(self.older.client())
        system.flush()  # whole domains are built
        self.mongo = cleanup.enter_context(Proxy(system.env["TALLYD_MONGO__URL"]).running())
        self.ingest = cleanup.enter_context(Ingest(system, **self._replicated))
        stores = {"MONGO__URL": self.mongo.url()}
        if self.older.shards == 1:
            self.redis = cleanup.enter_context(Proxy(self.older.url).running())
            stores["REDIS__URL"] = self.redis.url()
        for number in range(FLUSHERS):
            cleanup.enter_context(Daemon(system, "flush", name=f"flush-{number}", **stores))
        return self

    def __exit__(self, *_: object) -> None:
        self._cleanup.close()

    def play(self, step: str = "", host: str = STAYS) -> None:
        """One fault under load, while a flusher waits at this step. `host`: what becomes of the ingest daemon.

        Raises AssertionError if a count is wrong; but if the host lost its power, only if more is lost than the calls
        that were not confirmed.
        """
        fault = ", ".join(filter(None, (step, host))) or "at any time"
        self._load = load = Spread(self.ingest.url, CLIENTS, timeout_s=ANSWER_TIMEOUT_S)
        with load.running():
            load.wait_for_more()
            self._hit(step, host)
            load.wait_for_more()
        load.resend(self.ingest.url)
        new = load.labelled("acked")
        self._acked |= new
        lost, doubled = self._lost_and_doubled()
        self.figures[fault].update(rounds=1, events=len(new), lost=lost, doubled=doubled)
        if host == NO_POWER and lost:
            for path in self._taken.iterdir():
                path.rename(self._spool / path.name)
            lost, _ = self._lost_and_doubled()
        assert (lost, doubled) == (0, 0), f"{fault}: {lost} lost, {doubled} doubled"

    @property
    def sums(self) -> Counter[str]:
        """The figures of all faults."""
        return sum(self.figures.values(), Counter())

    def _hit(self, step: str, host: str) -> None:
        """Redis comes back without its last part. Maybe it lacks what came before the step, too."""
        if step == OUTAGE:
            self.mongo.cut()
            self._load.wait_for_more(OUTAGE_EVENTS)
            self.mongo.restore()
        if step in ("", OUTAGE):
            self.older.remember()
            if step == OUTAGE:
                self._wait_for_claims()
            self._fall_back(host)
            return
        stop = STEPS[step]
        line = self.mongo if stop.store == "mongo" else self.redis
        if before := step == AMEND or self.dice.random() < 0.5:
            self.older.remember()
        if step == AMEND:
            self._wait_for_claims()
        trap = line.trap(stop.markers, Fault.HOLD_REQUEST, nth=stop.nth, keep=True)
        if step == AMEND:
            self.older.fall_back()
        assert trap.tripped.wait(STEP_TIMEOUT_S), f"no flusher came to {step}"
        if step == AMEND or not before:
            self.older.remember()
        self._fall_back(host)
        trap.release(deliver=self.dice.random() < 0.5)
        line.restore()

    def _fall_back(self, host: str) -> None:
        self._load.wait_for_more(CLIENTS + 1)  # at least one was sent after what Redis will remember
        time.sleep(self.dice.random() * self.lacks_s_max)
        if host != STAYS:
            self.ingest.kill()
        if host == NO_POWER:
            shutil.rmtree(self._taken, ignore_errors=True)
            self._taken.mkdir()
            for path in self._spool.glob("*.ring"):
                path.rename(self._taken / path.name)
        self.older.fall_back()
        if host != STAYS:
            self.ingest.start()
            self.ingest.wait_up()

    def _wait_for_claims(self) -> None:
        """Until Redis, as it is remembered, lacks enough of them."""
        newest = self.system.mongo[FLOORS].find_one({"_id": 0})
        newer = {"seq": {"$gt": newest["seq"] if newest else 0}}
        journal = self.system.mongo[JOURNAL]
        wait_until(lambda: journal.count_documents(newer) > AMENDED, "claims are journaled", STEP_TIMEOUT_S)

    def _lost_and_doubled(self) -> tuple[int, int]:
        wait_until(self._is_drained, "everything is flushed", DRAIN_TIMEOUT_S)
        wanted = Counter(map(entity_of, self._acked))
        found = {name: Counter[str]() for name in ROLLUPS}
        for name, by_id in found.items():
            for id_, counters in self.system.rollup(name).items():
                by_id[id_.split(":")[2]] += counters["view"]
        assert all(each == found["totals"] for each in found.values()), found
        return (wanted - found["totals"]).total(), (found["totals"] - wanted).total()

    def _is_drained(self) -> bool:
        """Twice in a row, since what comes again may come in between."""
        return self._is_empty() and not time.sleep(0.1) and self._is_empty()

    def _is_empty(self) -> bool:
        redis = self.system.redis
        tags = [f"anl:{{{shard}}}" for shard in range(self.older.shards)]
        waits = any(redis.scard(f"{tag}:dirty") or redis.hexists(f"{tag}:claim", "seq") for tag in tags)
        return not waits and not [path for kind in ("open", "seg", "ring") for path in self._spool.glob(f"*.{kind}")]


class Older(Protocol):
    """A Redis. `fall_back`: it, or a node of it, comes back as it was at `remember`, or a little later."""

    url: str
    shards: int
    unsynced_ms: int
    """`redis.unsynced_ms`. If a replica takes over, its primary's file does not matter."""

    def client(self) -> redis.Redis: ...
    def remember(self) -> object: ...
    def fall_back(self) -> None: ...


class _Single:
    shards = 1
    unsynced_ms = 100
    url: str

    def client(self) -> redis.Redis:
        return redis.Redis.from_url(self.url)


class TakenOver(_Single):
    """A pair. The replica takes over without what came since `remember`."""

    def __init__(self, pair: Pair) -> None:
        self._pair = pair
        self.url = pair.url

    def remember(self) -> None:
        self._pair.stream.hold()

    def fall_back(self) -> None:
        self._pair.fail_over()
        self._pair.revive()


class LostPower(_Single):
    """A single Redis with `everysec`, whose file ends where it did at `remember`; but it lacks no more than it may."""

    unsynced_ms = 2_500

    def __init__(self, server: CutBack) -> None:
        self._server = server
        self._lengths: list[tuple[float, int]] = []
        """Of its file, since `remember`: when (monotonic seconds), bytes."""
        self._falls = threading.Event()
        self._watch = threading.Thread()
        self.url = server.url

    def remember(self) -> None:
        self._lengths.clear()
        self._falls.clear()
        self._watch = threading.Thread(target=self._measure, daemon=True)
        self._watch.start()
        wait_until(lambda: self._lengths, "its length is known")

    def fall_back(self) -> None:
        self._falls.set()
        self._watch.join()
        self._server.kill()
        at = time.monotonic()
        length = next((length for when, length in self._lengths if when >= at - LACKS_S_MAX), self._server.remember())
        self._server.come_back(length)

    def _measure(self) -> None:
        while not self._falls.wait(LENGTH_INTERVAL_S):
            self._lengths.append((time.monotonic(), self._server.remember()))


class NodeLost:
    """A cluster. The primaries are killed in turn, and a replica of each takes over by itself."""

    shards = CLUSTER_SHARDS
    unsynced_ms = 100

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._shard = 0
        self._primary = cluster.nodes[0]
        self.url = cluster.url

    def client(self) -> redis.Redis:
        host, port = "127.0.0.1", self._cluster.port_of(self._cluster.nodes[0])
        cluster: Any = redis.RedisCluster(host, port)
        client: redis.Redis = cluster  # it has the commands that are used
        return client

    def remember(self) -> None:
        self._shard = (self._shard + 1) % self.shards
        self._primary = self._cluster.fall_behind(self._shard)

    def fall_back(self) -> None:
        self._cluster.lose(self._shard, self._primary)


@contextmanager
def older(kind: str, folder: Path) -> Iterator[Older]:
    """`kind`: of KINDS."""
    if kind == "power":
        with CutBack(folder) as server:
            yield LostPower(server)
    elif kind == "cluster":
        with Cluster(folder, gated=True) as cluster:
            yield NodeLost(cluster)
    else:
        with Pair(folder).running() as pair:
            yield TakenOver(pair)


def main(
    rounds: Annotated[int, typer.Option(help="Of each kind and each fate of the ingest daemon.")] = 200,
    at_each_step: Annotated[int, typer.Option(help="Rounds of each kind while a flusher waits at each step.")] = 20,
    seed: Annotated[int, typer.Option(help="0: any.")] = 0,
    kinds: Annotated[
        list[str] | None, typer.Option("--kind", help=f"One of {', '.join(KINDS)}; given again, another one.")
    ] = None,
) -> None:
    """Kill Redis again and again under load. It comes back without its last part. Every count is compared."""
    seed = seed or secrets.randbelow(1_000_000)
    found: dict[str, Any] = {"seed": seed}
    typer.echo(f"seed {seed}", err=True)
    folder = Path(tempfile.mkdtemp(prefix="tallyd-failover-"))
    typer.echo(f"in {folder}", err=True)
    with Stack(folder) as stack:
        for kind in kinds or KINDS:
            scratch = folder / kind
            scratch.mkdir()
            with older(kind, scratch) as it, Trial(System(stack, scratch), it, random.Random(seed)) as trial:
                for host in [*HOSTS] * rounds:
                    trial.play(host=host)
                for step in [*STEPS, OUTAGE] * (at_each_step if it.shards == 1 else 0):
                    trial.play(step)
            found[kind] = {**trial.figures, "in all": trial.sums}
            typer.echo(json.dumps(found))
    shutil.rmtree(folder)  # it stays, with the logs, if a count was wrong


if __name__ == "__main__":
    sys.exit(typer.run(main))
