"""A primary of Redis killed again and again under load, while its replica lacks the last part of the stream.

`python -m tests.chaos.failover --rounds 200 --seed 7` runs it for minutes (`just chaos-cluster`), a test runs a few
rounds. Two flushers, one ingest daemon, batches and single events.
"""

from __future__ import annotations

import json
import random
import secrets
import shutil
import sys
import tempfile
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
from tests.kit.events import BATCH, event
from tests.kit.kill import Stop
from tests.kit.load import Load
from tests.kit.oracle import ROLLUPS
from tests.kit.pair import CutBack, Pair
from tests.kit.proxy import Fault, Proxy, command_of, update_of
from tests.kit.servers import Stack
from tests.kit.system import System
from tests.kit.wait import wait_until

PAIRS = ("failover", "power")
"""Kinds of one Redis. Of it a flusher can be stopped at each step."""
KINDS = (*PAIRS, "cluster")
ENTITIES = 16
FLUSHERS = 2
BATCH_EVENTS = 500
STEP_TIMEOUT_S = 60.0
AMENDED = 3
"""So many claims at least are forgotten if a flusher is to be stopped between two amends."""
AMEND = "amend"
STEPS = {
    "floor": Stop("mongo", command_of("find", FLOORS)),
    "freeze": Stop("redis", scripts.CLAIM.sha.encode(), nth=2),
    "journal": Stop("mongo", command_of("insert", JOURNAL)),
    "advance": Stop("mongo", command_of("findAndModify", FLOORS)),
    **{f"write {kind.collection}": Stop("mongo", update_of(kind.collection)) for kind in (*COMPLETE, DOMAIN_DAILY)},
    "ack": Stop("redis", scripts.ACK.sha.encode()),
    AMEND: Stop("redis", scripts.AMEND.sha.encode(), nth=2),
}
"""Requests of a flush that one flusher is stopped at, as of `daemon.flush.drain.STEPS`. At `journal` its claim is
sealed. At the second `amend`, Redis falls back once more."""
CLIENTS = 4
CLUSTER_SHARDS = 4
"""They lie on three nodes."""
LACKS_S_MAX = 2.0
"""What everysec may lose, and more than a replica lacks in ordinary times."""
DRAIN_TIMEOUT_S = 60.0
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

    def __init__(self, system: System, older: Older, dice: random.Random, *, lacks_s_max: float = LACKS_S_MAX) -> None:
        self.system, self.older, self.dice, self.lacks_s_max = system, older, dice, lacks_s_max
        self.figures: dict[str, Counter[str]] = defaultdict(Counter)
        """Per step that a flusher was stopped at: `rounds`, and events `lost` and `doubled` before their producers sent
        them again."""
        self._acked: set[str] = set()
        self._cleanup = ExitStack()

    def __enter__(self) -> Self:
        system, cleanup = self.system, self._cleanup
        system.env |= {"TALLYD_REDIS__URL": self.older.url, **{f"TALLYD_{key}": text for key, text in QUICK.items()}}
        system.env["TALLYD_REDIS__SHARDS"] = str(self.older.shards)
        system.redis.close()
        system.redis = cleanup.enter_context(self.older.client())
        system.flush()  # whole domains are built
        self.mongo = cleanup.enter_context(Proxy(system.env["TALLYD_MONGO__URL"]).running())
        self.ingest = cleanup.enter_context(Ingest(system))
        stores = {"MONGO__URL": self.mongo.url()}
        if self.older.shards == 1:
            self.redis = cleanup.enter_context(Proxy(self.older.url).running())
            stores["REDIS__URL"] = self.redis.url()
        for number in range(FLUSHERS):
            cleanup.enter_context(Daemon(system, "flush", name=f"flush-{number}", **stores))
        return self

    def __exit__(self, *_: object) -> None:
        self._cleanup.close()

    def play(self, step: str = "") -> None:
        """One fault under load, while a flusher waits at this step. Raises AssertionError if a count is wrong once
        producers sent all again."""
        figures = self.figures[step or "at any time"]
        load = Spread(self.ingest.url, CLIENTS)
        with load.running():
            load.wait_for_more()
            self._hit(step)
            load.wait_for_more()
        load.resend(self.ingest.url)
        new = load.labelled("acked")
        self._acked |= new
        lost, doubled = self._lost_and_doubled()
        figures.update(rounds=1, events=len(new), lost=lost, doubled=doubled)
        if lost:
            self._send_again(sorted(new))
            lost, _ = self._lost_and_doubled()
        assert (lost, doubled) == (0, 0), f"{step or 'at any time'}: {lost} lost, {doubled} doubled"

    @property
    def sums(self) -> Counter[str]:
        """The figures of all steps."""
        return sum(self.figures.values(), Counter())

    def _hit(self, step: str) -> None:
        """Redis comes back without its last part. Maybe it lacks what came before the step, too."""
        if not step:
            self._fall_back()
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
        self._fall_back(remembered=before and step != AMEND)
        trap.release(deliver=self.dice.random() < 0.5)
        line.restore()

    def _fall_back(self, *, remembered: bool = False) -> None:
        if not remembered:
            self.older.remember()
        time.sleep(self.dice.random() * self.lacks_s_max)
        self.older.fall_back()

    def _wait_for_claims(self) -> None:
        """Until Redis, as it is remembered, lacks enough of them."""
        newest = self.system.mongo[FLOORS].find_one({"_id": 0})
        newer = {"seq": {"$gt": newest["seq"] if newest else 0}}
        wait_until(lambda: self.system.mongo[JOURNAL].count_documents(newer) > AMENDED, "claims are journaled")

    def _lost_and_doubled(self) -> tuple[int, int]:
        wait_until(self._is_drained, "everything is flushed", DRAIN_TIMEOUT_S)
        wanted = Counter(map(entity_of, self._acked))
        found = {name: Counter[str]() for name in ROLLUPS}
        for name, by_id in found.items():
            for id_, counters in self.system.rollup(name).items():
                by_id[id_.split(":")[2]] += counters["view"]
        assert all(each == found["totals"] for each in found.values()), found
        return (wanted - found["totals"]).total(), (found["totals"] - wanted).total()

    def _send_again(self, ids: list[str]) -> None:
        for start in range(0, len(ids), BATCH_EVENTS):
            events = [event(event_id=id_, entity_id=entity_of(id_)) for id_ in ids[start : start + BATCH_EVENTS]]
            assert self.ingest.post(events, BATCH).status_code == 202

    def _is_drained(self) -> bool:
        """Twice in a row, since what comes again may come in between."""
        return self._is_empty() and not time.sleep(0.1) and self._is_empty()

    def _is_empty(self) -> bool:
        spool, redis = self.system.scratch / "spool", self.system.redis
        tags = [f"anl:{{{shard}}}" for shard in range(self.older.shards)]
        waits = any(redis.scard(f"{tag}:dirty") or redis.hexists(f"{tag}:claim", "seq") for tag in tags)
        return not waits and not [path for kind in ("open", "seg", "ring") for path in spool.glob(f"*.{kind}")]


class Older(Protocol):
    """A Redis. `fall_back`: it, or a node of it, comes back as it was at `remember`, or a little later."""

    url: str
    shards: int

    def client(self) -> redis.Redis: ...
    def remember(self) -> object: ...
    def fall_back(self) -> None: ...


class _Single:
    shards = 1
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
    """A single Redis with `everysec`, whose file ends where it did at `remember`."""

    def __init__(self, server: CutBack) -> None:
        self._server = server
        self._length = 0
        self.url = server.url

    def remember(self) -> None:
        self._length = self._server.remember()

    def fall_back(self) -> None:
        self._server.fall_back(self._length)


class NodeLost:
    """A cluster. The primaries are killed in turn, and a replica of each takes over by itself."""

    shards = CLUSTER_SHARDS

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
    rounds: Annotated[int, typer.Option(help="Of each kind, at any time.")] = 200,
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
                for _ in range(rounds):
                    trial.play()
                for step in list(STEPS) * (at_each_step if it.shards == 1 else 0):
                    trial.play(step)
            found[kind] = {**trial.figures, "in all": trial.sums}
            typer.echo(json.dumps(found))
    shutil.rmtree(folder)  # it stays, with the logs, if a count was wrong


if __name__ == "__main__":
    sys.exit(typer.run(main))
