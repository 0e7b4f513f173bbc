"""Any order of sending, claiming, writing, crashing, acknowledging, syncing, retrying and taking over ends in the exact
counts, on top of what the rows said before.

Hypothesis plays two flushers, a replica sync and a backfill against real servers. They are the real `Drain`, `Replica`
and `Backfill`, stopped at each call to a store (`steps.py`): any of them may go on, be left behind while the others
overtake it, or die with its request unsent or its reply unheard. The model is two dictionaries.

Left out, because tallyd doesn't promise it: a document that is mended between a flusher's failed write to it and that
flusher's dead letter, while another flusher applies the same claim.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import os
import time
from collections import Counter
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test
from redis.asyncio import Redis

from daemon.buffer.connection import Connection
from daemon.buffer.counters import Busy, Counters, Empty, Limits
from daemon.buffer.layout import Layout
from daemon.buffer.outcome import Counted
from daemon.buffer.wire import unlimited
from daemon.config import replica_tables
from daemon.domain.event import Event
from daemon.ingest.decode import Batch, Decoder, build_catalogue
from daemon.move.backfill.run import Backfill
from daemon.replica.mysql import MysqlSink
from daemon.replica.sync import Replica
from daemon.rollups.dead_letters import Retried
from daemon.verify.audit.audit import auditor
from tests.chaos.steps import Flusher, Stepped
from tests.kit.oracle import BUCKETS, Model, before, differences, replica
from tests.kit.system import System, event
from tests.kit.takeover import Recorder

EXAMPLES = os.environ.get("STATE_MACHINE_EXAMPLES", "")
"""So many, random each time, and a failure is shrunk; without it a fixed few."""
EXAMPLES_FIXED = 20
MOVIES = ("a", "b", "c")
DAYS = ("2024-12-29", "2024-12-30", "2026-02-19")
SPOILED = "not a number"
FLUSHERS_CALLS = ("claim", "claim", "journal", "advance", "bulk", "bury", "ack", "ack")
CLAIM, REPLICA = "anl:{0}:claim", "anl:{0}:replica"


class Machine(RuleBasedStateMachine):
    system: System
    runner: asyncio.Runner
    flushers: list[Flusher]
    syncer: Flusher
    mysql: MysqlSink
    seeder: Flusher
    seeders_mysql: MysqlSink
    redis: Redis

    @initialize()
    def empty(self) -> None:
        system = self.system
        system.redis.flushall()
        for name in system.mongo.list_collection_names():
            system.mongo[name].delete_many({})
        for movie in MOVIES:
            views, downloads = before(movie).values()
            system.sql("UPDATE jav SET views = %s, downloads = %s WHERE uuid = %s", views, downloads, movie)
        system.flush()  # whole domains are built
        # At 1 us a script, each freezes one entity.
        self.config = system.config(FLUSH__LEASE_MS="600000", FLUSH__CLAIM_ENTITIES_MAX="4", FLUSH__CLAIM_US_MAX="1")
        self.model = Model()
        self.events: list[Event] = []
        self.amounts: list[tuple[tuple[str, str, str], str, dt.date, int]] = []
        self.arrived: set[int] = set()
        """Indexes of the events Redis has counted."""
        self.spoiled: dict[tuple[str, str], int] = {}
        """(collection, _id) → the number its `view` field held."""
        self.half_retried = False
        self.decoder = Decoder(build_catalogue(self.config), batch_events_max=100, clock=time.time)
        self.connections = [Connection(self.config.redis, Layout(self.config)) for _ in range(4)]
        limits = Limits.of(self.config)
        self.ingest = Counters(self.connections[0], 0, limits)
        for flusher, connection in zip((*self.flushers, self.syncer), self.connections[1:], strict=True):
            flusher.config = self.config
            flusher.restart(connection)
        counters: Any = Stepped(Counters(self.connections[3], 0, limits), self.syncer.actor)
        mysql: Any = Stepped(self.mysql, self.syncer.actor)
        self.replica = Replica(counters, self.syncer.stepped_mongo, mysql, replica_tables(self.config), rows_max=2)

    # Producers --------------------------------------------------------------------------------------------------

    @rule(
        movie=st.sampled_from(MOVIES), day=st.sampled_from(DAYS), value=st.integers(1, 100),
        action=st.sampled_from(("view", "view", "download")), sent=st.booleans(),
    )  # fmt: skip
    def send(self, movie: str, day: str, value: int, action: str, sent: bool) -> None:
        """`sent` false: the request is lost on its way, and may be sent again later."""
        fields = {"entity_id": movie, "action": action, "value": value, "occurred_at": f"{day}T12:00:00Z"}
        decoded = self.decoder.batch(b"[" + _json(event(**fields)) + b"]")
        assert isinstance(decoded, Batch)
        self.events += decoded.events
        self.amounts.append((("jav", "movie", movie), action, dt.date.fromisoformat(day), value))
        if sent:
            self._send([len(self.events) - 1])

    @precondition(lambda self: self.events)
    @rule(data=st.data())
    def send_again(self, data: st.DataObject) -> None:
        """What was lost on its way arrives, and what had arrived, its reply lost, is a duplicate."""
        index = st.integers(0, len(self.events) - 1)
        self._send(data.draw(st.lists(index, min_size=1, max_size=5)))

    def _send(self, indexes: list[int]) -> None:
        new = set(indexes) - self.arrived
        events = [self.events[index] for index in indexes]
        assert self._run(self.ingest.ingest([unlimited(events)])) == [Counted(len(new))]
        for index in new:
            self.model.add(*self.amounts[index])
        self.arrived |= new

    # Flushers ---------------------------------------------------------------------------------------------------

    @rule(number=st.integers(0, 1), choices=st.lists(st.integers(0, 4), min_size=1, max_size=20))
    def flush_some_steps(self, number: int, choices: list[int]) -> None:
        actor = self.flushers[number].actor
        if not actor.running:
            self._run(actor.begin(self.flushers[number].drain.apply_next()))
        for choice in choices:
            if actor.running:
                self._run(actor.step(choice))

    @rule(number=st.integers(0, 1), takes_over=st.booleans(), call=st.sampled_from(FLUSHERS_CALLS))
    def flush_until(self, number: int, takes_over: bool, call: str) -> None:
        actor = self.flushers[number].actor
        if not actor.running:
            if takes_over:
                self.lease_runs_out()
            self._run(actor.begin(self.flushers[number].drain.apply_next()))
        if actor.running:
            self._run(actor.step_until(call))

    @rule(number=st.integers(0, 1))
    def flush_to_the_end(self, number: int) -> None:
        actor = self.flushers[number].actor
        if not actor.running:
            self._run(actor.begin(self.flushers[number].drain.apply_next()))
        self._run(actor.finish())

    @rule(number=st.integers(0, 1))
    def flusher_dies(self, number: int) -> None:
        self._run(self.flushers[number].actor.crash())
        self.flushers[number].restart(self.connections[1 + number])

    @rule()
    def lease_runs_out(self) -> None:
        if self.system.redis.hexists(CLAIM, "seq"):
            self.system.redis.hset(CLAIM, "until", 0)

    # MySQL ------------------------------------------------------------------------------------------------------

    @rule(steps=st.integers(1, 12))
    def sync_some_steps(self, steps: int) -> None:
        actor = self.syncer.actor
        if not actor.running:
            self._run(actor.begin(self.replica.sync_next()))
        for _ in range(steps):
            if actor.running:
                self._run(actor.step(0))

    @rule(call=st.sampled_from(("totals", "write", "settle")))
    def sync_until(self, call: str) -> None:
        actor = self.syncer.actor
        if not actor.running:
            self._run(actor.begin(self.replica.sync_next()))
        if actor.running:
            self._run(actor.step_until(call))

    @rule()
    def sync_dies(self) -> None:
        self._run(self.syncer.actor.crash())
        self._run(self.mysql.close())

    # The backfill -------------------------------------------------------------------------------------------------

    @rule(steps=st.integers(1, 12))
    def backfill_some_steps(self, steps: int) -> None:
        actor = self.seeder.actor
        if not actor.running:
            self._run(actor.begin(self._backfill().run(2, Recorder(), lambda: False)))
        for _ in range(steps):
            if actor.running:
                self._run(actor.step(0))

    @rule()
    def backfill_dies(self) -> None:
        self._run(self.seeder.actor.crash())
        self._run(self.seeders_mysql.close())

    def _backfill(self) -> Backfill:
        actor = self.seeder.actor
        stores: Any = (self.redis, self.seeder.stepped_mongo, Stepped(self.seeders_mysql, actor))
        ((entity_type, table),) = replica_tables(self.config).items()
        return Backfill(self.config, stores, entity_type, table)

    # Dead letters -----------------------------------------------------------------------------------------------

    @rule(movie=st.sampled_from(MOVIES), day=st.sampled_from(DAYS), kind=st.integers(0, 4))
    def spoil(self, movie: str, day: str, kind: int) -> None:
        """Somebody puts a text where the number is."""
        name, field, pattern = BUCKETS[kind]
        collection = f"analytics_entity_{name}"
        id_ = f"jav:movie:{movie}" + (f":{dt.date.fromisoformat(day):{pattern}}" if field else "")
        found = self.system.mongo[collection].find_one({"_id": id_})
        if found is not None and (collection, id_) not in self.spoiled:
            self.spoiled[collection, id_] = found["view"]
            self.system.mongo[collection].update_one({"_id": id_}, {"$set": {"view": SPOILED}})

    @precondition(lambda self: self.spoiled and any(each.actor.running for each in self.flushers))
    @rule()
    def all_flushers_die(self) -> None:
        for number in range(len(self.flushers)):
            self.flusher_dies(number)

    @precondition(lambda self: self.spoiled and not any(each.actor.running for each in self.flushers))
    @rule()
    def mend(self) -> None:
        for (collection, id_), number in self.spoiled.items():
            self.system.mongo[collection].update_one({"_id": id_}, {"$set": {"view": number}})
        self.spoiled.clear()

    @precondition(lambda self: not any(each.actor.running for each in self.flushers))
    @rule(dies=st.booleans())
    def retry_letters(self, dies: bool) -> None:
        """`dies`: after the document has its amounts, before the letter is gone."""
        self._run(self._retry(dies=dies))

    async def _retry(self, *, dies: bool) -> None:
        letters = self.syncer.mongo.dead_letters
        async for letter in letters.each():
            if await letters.retry(letter) is not Retried.APPLIED:
                continue
            if letter.collection.endswith("totals"):
                self.system.redis.zadd(REPLICA, {letter.document: letter.seq}, gt=True)
            self.half_retried |= dies
            if not dies:
                await letters.forget(letter)
        self.half_retried &= dies

    # What holds -------------------------------------------------------------------------------------------------

    @precondition(lambda self: not self.spoiled and not self.half_retried)
    @rule()
    def the_audit_holds(self) -> None:
        async def broken() -> list[Any]:
            async with auditor(self.config) as by:
                return (await by.audit(thorough=False)).broken

        assert not self._run(broken())

    def teardown(self) -> None:
        if not hasattr(self, "connections"):
            return
        for each in (*self.flushers, self.syncer, self.seeder):
            self._run(each.actor.crash())
        self._run(self.mysql.close())
        self._run(self.seeders_mysql.close())
        self.mend()
        self._drain()
        self._run(self._retry(dies=False))
        self._run(self.seeder.actor.begin(self._backfill().run(2, Recorder(), lambda: False)))
        self._run(self.seeder.actor.finish())
        self._sync()
        found, system = {}, self.system
        for name, _, _ in BUCKETS:
            documents = system.mongo[f"analytics_entity_{name}"].find({}, {"updated_at": 0, "flush_seq": 0})
            found[name] = {document["_id"]: _without_memory(document) for document in documents}
        expected = self.model.rollups({})
        for movie in MOVIES:
            document = found["totals"][f"jav:movie:{movie}"]
            assert document.pop("base") == before(movie)
            assert document.pop("synced") == {"view": document["view"], "download": document["download"]}
            if document["_id"] not in expected["totals"]:  # the backfill made it
                assert (document["view"], document["download"]) == (0, 0)
                del found["totals"][document["_id"]]
        assert not list(differences(expected, found))
        assert system.replica() == replica(expected["totals"], frozenset(MOVIES))
        accepted = Counter({f"accepted:{name}": amount for name, amount in self.model.totals().items() if amount})
        assert {field: n for field, n in system.ledger().items() if field.startswith("accepted")} == accepted
        assert not list(system.redis.scan_iter("anl:{0}:counters:*"))
        self.the_audit_holds()
        for connection in self.connections:
            self._run(connection.close())

    def _drain(self) -> None:
        flusher = self.flushers[0]
        while True:
            self.lease_runs_out()
            self._run(flusher.actor.begin(flusher.drain.apply_next()))
            applied = self._run(flusher.actor.finish())
            assert not isinstance(applied, Busy)
            if isinstance(applied, Empty):
                return

    def _sync(self) -> None:
        more = True
        while more:
            self._run(self.syncer.actor.begin(self.replica.sync_next()))
            more = self._run(self.syncer.actor.finish()).more

    def _run(self, work: Any) -> Any:
        return self.runner.run(work)


def _without_memory(document: dict[str, Any]) -> dict[str, Any]:
    assert document.pop("dead_applied", []) == []
    document.pop("source", None)
    return document


def _json(one: dict[str, Any]) -> bytes:
    return json.dumps(one).encode()


def test_any_order_of_steps_and_crashes_ends_in_the_exact_counts(system: System) -> None:
    system.add_movies(*MOVIES)
    system.flush()
    with asyncio.Runner() as runner:
        config = system.config()
        flushers = [Flusher(system, number) for number in range(4)]
        mysql = [MysqlSink(config.mysql) for _ in range(2)]
        redis = Redis.from_url(system.stack.redis)
        parts = {
            "system": system, "runner": runner, "flushers": flushers[:2], "syncer": flushers[2], "seeder": flushers[3],
            "mysql": mysql[0], "seeders_mysql": mysql[1], "redis": redis,
        }  # fmt: skip
        try:
            run_state_machine_as_test(
                type("Machine", (Machine,), parts),
                settings=settings(
                    max_examples=int(EXAMPLES or EXAMPLES_FIXED),
                    stateful_step_count=40,
                    deadline=None,
                    derandomize=not EXAMPLES,
                    phases=[Phase.explicit, Phase.reuse, Phase.generate, *([Phase.shrink] if EXAMPLES else [])],
                    suppress_health_check=list(HealthCheck),
                ),
            )
        finally:
            for flusher in flushers:
                runner.run(flusher.mongo.close())
            for each in mysql:
                runner.run(each.close())
            runner.run(redis.aclose())
