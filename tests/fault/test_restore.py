"""Stores restored to different moments: what is said at once, what the audit says, and what mends or accepts it.

`ops/backup.md` has a row for each of these tests.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import itertools
import json
import logging
import shutil
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from daemon.buffer import scripts
from daemon.buffer.confirm import Confirmation
from daemon.buffer.counters import Counters
from daemon.devstack.process import free_port
from daemon.domain.rollup import Kind
from daemon.errors import HeldError, StoreError
from daemon.flush import drain
from daemon.rollups import floors
from daemon.rollups.collections import FLOORS, JOURNAL
from daemon.rollups.mongo import MongoSink
from daemon.verify.audit import audit as audits
from daemon.verify.audit.hot import HotMarks, read_marks
from tests.kit.daemon import Daemon
from tests.kit.kill import STOPS, Kill, killed, kills
from tests.kit.metrics import Listener
from tests.kit.proxy import Fault, Proxy
from tests.kit.servers import RedisServer
from tests.kit.system import System, event, wait_until
from tests.kit.takeover import add_rows

ONE_SYSTEM = True
AOF = "appendonlydir"
QUICK = {"TALLYD_FLUSH__INTERVAL_S": "0.1", "TALLYD_FLUSH__LEASE_MS": "300", "TALLYD_REDIS__RECONNECT_MS": "50"}
LOSS = "lost its memory"
FlushedTo = Callable[..., None]
OLDER_REDIS, OLDER_MONGO = "Redis came back older than MongoDB", "MongoDB is older than Redis"
ACCEPTED = "as `tallyd shards accept` said"


class Restorable:
    """The three stores, as they were when `back_up` was called: each can be restored by itself."""

    def __init__(self, system: System, server: RedisServer) -> None:
        self._system, self._server = system, server
        self.log, self._earlier = server.data / AOF, server.data / "earlier"

    def back_up(self) -> None:
        """As ops/backup.md says: nothing is flushed meanwhile."""
        shutil.copytree(self.log, self._earlier)
        names = self._system.mongo.list_collection_names()
        self._documents = {name: list(self._system.mongo[name].find()) for name in names}
        self._rows = self._system.sql("SELECT uuid, views, downloads FROM jav")

    def restore_redis(self, copy: str = "earlier") -> None:
        self._server.kill()
        shutil.rmtree(self.log)
        shutil.copytree(self.log.with_name(copy), self.log)
        self._server.start()

    def restore_mongo(self) -> None:
        for name in self._system.mongo.list_collection_names():
            self._system.mongo[name].delete_many({})
            if documents := self._documents.get(name):
                self._system.mongo[name].insert_many(documents)

    def restore_mysql(self) -> None:
        self._system.sql("DELETE FROM jav")
        add_rows(self._system, {uuid: (views, downloads) for uuid, views, downloads in self._rows})

    def empty_redis(self) -> None:
        self._server.kill()
        shutil.rmtree(self.log)
        self._server.start()


@pytest.fixture
def stores(system: System, tmp_path: Path) -> Iterator[Restorable]:
    with RedisServer(7, tmp_path, "--appendonly", "yes", "--appendfsync", "always") as server:
        system.env |= QUICK
        system.use_redis(server)
        yield Restorable(system, server)


def count(system: System, n: int, id_: str = "a") -> None:
    assert system.count(*(event(entity_id=id_) for _ in range(n))) == n


def total(system: System) -> int:
    return sum(counters.get("view", 0) for counters in system.rollup("totals").values())


def audit(system: System, *options: str) -> dict[str, Any]:
    code, output = system.tallyd_here("audit", "--json", *options)
    report: dict[str, Any] = json.loads(output)
    assert report["exact"]
    assert code == (0 if report["holds"] else 1)
    return report


def difference(system: System) -> dict[str, int]:
    """What the audit finds, by law."""
    return {found["law"]: found["difference"] for found in audit(system)["broken"]}


def older(system: System) -> list[dict[str, Any]]:
    """What MongoDB has on record."""
    return [each for epoch in system.mongo["analytics_epochs"].find() for each in epoch.get("older", [])]


@pytest.fixture
def flushed_to(system: System, caplog: pytest.LogCaptureFixture) -> FlushedTo:
    """Flushes until the totals are this amount. The log says this once; if "", nothing."""

    def flush(amount: int, *, says: str) -> None:
        caplog.clear()
        system.flush()
        assert total(system) == amount
        said = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
        # What was left in flight has lines of its own.
        said = [text for text in said if "taken over" not in text]
        assert [says in text for text in said] == [True] * bool(says), said

    return flush


def accepted(system: System, reason: str = "a test") -> dict[str, Any]:
    """What an acceptance puts on record. The laws hold then."""
    report = audit(system, "--accept", reason)
    assert report["holds"]
    record: dict[str, Any] = report["epochs"][-1]["accepted"][-1]
    assert record["reason"] == reason
    assert " on " in record["by"]
    differences: dict[str, Any] = record["differences"]
    return differences


def said_nothing(daemon: Daemon) -> None:
    assert not any(text in daemon.text() for text in (LOSS, OLDER_REDIS, OLDER_MONGO, "epoch", "older state"))


def held(system: System) -> str:
    """A flush refuses the shard, and says why."""
    with pytest.raises(HeldError, match="Shard 0 is held") as refused:
        system.flush()
    return str(refused.value)


def says_where_a_user_looks(system: System, bound: str) -> None:
    """`tallyd shards list`, `status` and `audit` name the shard that is held, with the bound."""
    assert "tallyd shards accept 0 --reason" in system.tallyd_here("status")[1]
    for command in (("shards", "list"), ("status",), ("audit",)):
        shown = system.tallyd_here(*command)[1]
        assert "held" in shown, command
        assert bound in " ".join(shown.split()), command
    assert [(shard["shard"], shard["state"]) for shard in audit(system)["held"]] == [(0, "held")]


def accept_shard(system: System) -> None:
    assert system.tallyd_here("shards", "accept", "0", "--reason", "a test")[0] == 0


def test_redis_older_is_named_and_counts_nothing_again(
    system: System, stores: Restorable, flushed_to: FlushedTo
) -> None:
    count(system, 5)
    system.flush()
    count(system, 10)
    stores.back_up()
    system.flush()
    stores.restore_redis()
    flushed_to(15, says=OLDER_REDIS)
    assert difference(system) == {}
    count(system, 1)
    flushed_to(16, says="")
    [met] = older(system)
    assert (met["store"], met["shard"], met["amended"]) == ("redis", 0, {"view": 10})
    assert met["redis"] < met["mongo"]


def test_redis_older_takes_what_it_forgot_off_the_rollups(
    system: System, stores: Restorable, flushed_to: FlushedTo
) -> None:
    """A count is in the rollups exactly if Redis knows its id. So whoever sends it again has it counted once."""
    add_rows(system, {"a": (100, 0)})
    count(system, 5)
    system.flush()
    stores.back_up()
    forgotten = [event(entity_id="a") for _ in range(10)]
    assert system.count(*forgotten) == 10
    system.flush()
    stores.restore_redis()
    flushed_to(5, says=OLDER_REDIS)
    assert difference(system) == {}
    assert system.count(*forgotten) == 10
    flushed_to(15, says="")
    assert difference(system) == {}
    assert system.replica() == {"a": (115, 0)}


def test_redis_older_by_several_claims_is_amended_by_each(
    system: System, stores: Restorable, flushed_to: FlushedTo
) -> None:
    count(system, 5)
    system.flush()
    count(system, 10)
    stores.back_up()
    system.flush()
    for n in range(4):
        count(system, 1, f"b{n}")
        system.flush()
    stores.restore_redis()
    flushed_to(15, says=OLDER_REDIS)
    assert difference(system) == {}
    assert [met["amended"] for met in older(system)] == [{"view": 14}]


def test_a_claim_that_is_in_flight_in_an_older_redis_is_not_counted_again(
    system: System, stores: Restorable, flushed_to: FlushedTo
) -> None:
    count(system, 5)
    system.flush()
    count(system, 10)
    killed(system, kill_at("ack"), "flush")
    stores.back_up()
    system.flush()
    count(system, 1)
    system.flush()
    stores.restore_redis()
    flushed_to(15, says=OLDER_REDIS)
    assert difference(system) == {}


@kills("daemon.flush.drain", "amend")
def test_a_flusher_killed_while_it_amends_leaves_the_rest_to_the_next(
    system: System, stores: Restorable, flushed_to: FlushedTo, kill: Kill
) -> None:
    count(system, 10)
    stores.back_up()
    for _ in range(2):
        system.flush()
        count(system, 3)
    stores.restore_redis()
    killed(system, kill, "flush")
    system.flush()
    assert total(system) == 10
    assert difference(system) == {}


def test_redis_older_than_the_journal_reaches_is_held_until_an_operator_accepts_it(
    system: System, stores: Restorable, flushed_to: FlushedTo
) -> None:
    system.env["TALLYD_FLUSH__JOURNAL_CLAIMS"] = "2"
    count(system, 5)
    system.flush()
    count(system, 10)
    stores.back_up()
    with system.flusher(FLUSH__THRESHOLD="1") as flusher:  # one process, so it knows which claims are the last two
        for n in range(4):
            count(system, 1, f"b{n}")
            wait_until(lambda: total(system) == 16 + n, "it is flushed")  # noqa: B023
        wait_until(lambda: not system.redis.hexists("anl:{0}:claim", "seq"), "nothing is in flight")
        flusher.end()
    stores.restore_redis()
    system.redis.hset("anl:{0}:ledger", "accepted:a.$b\0c", 5)  # by others: no name that MongoDB takes
    assert "at most this is counted twice: view 10." in held(system)
    system.redis.hdel("anl:{0}:ledger", "accepted:a.$b\0c")
    assert total(system) == 19
    says_where_a_user_looks(system, "at most this is counted twice: view 10")
    accept_shard(system)
    assert '"behind"' in system.tallyd_here("shards", "list", "--json")[1]
    flushed_to(29, says=ACCEPTED)
    assert difference(system) == {"conservation": 14}, "10 twice, and this Redis does not know of 4"
    assert accepted(system) == {"totals": {"view": 14}}
    assert system.tallyd("shards", "accept", "0", "--reason", "again", check=False).returncode == 1


def test_the_journal_keeps_the_last_claims_whichever_processes_made_them(system: System, stores: Restorable) -> None:
    system.env["TALLYD_FLUSH__JOURNAL_CLAIMS"] = "3"
    for _ in range(6):
        count(system, 1)
        system.flush()  # as by a timer: each is another flusher
    wait_until(lambda: system.mongo[JOURNAL].count_documents({}) == 3, "the others are deleted")
    newest = [entry["seq"] for entry in system.mongo[JOURNAL].find().sort("seq", 1)]
    assert newest[-1] == int(system.redis.hget("anl:{0}:claim", "last") or 0)


def kill_at(step: str) -> Kill:
    return Kill(step, STOPS["daemon.flush.drain"][step][0], Fault.HOLD_REQUEST)


def test_a_redis_that_lacks_only_the_ack_of_an_old_claim_is_not_held(
    system: System, stores: Restorable, flushed_to: FlushedTo
) -> None:
    """MongoDB was away for longer than a crash explains, and then Redis was killed."""
    system.env["TALLYD_FLUSH__FALL_BACK_S"] = "0.001"
    count(system, 5)
    killed(system, kill_at("ack"), "flush")
    stores.back_up()
    system.flush()
    count(system, 10)
    system.flush()
    stores.restore_redis()
    flushed_to(5, says=OLDER_REDIS)
    assert difference(system) == {}


def test_a_claim_is_journaled_as_that_of_the_memory_it_came_from(
    system: System, stores: Restorable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis is emptied between its claim and the journal. The new one knows nothing of the claims before."""
    count(system, 20)
    system.flush()
    count(system, 10)
    confirm, emptied = Counters.confirm, list[int]()

    async def confirm_later(counters: Counters, timeout_ms: int) -> Confirmation | None:
        if not emptied:
            emptied.append(1)
            memory = await counters.connected()
            system.redis.flushall()
            system.redis.client_kill_filter(_type="normal", skipme=True)
            while counters.is_still(memory):  # noqa: ASYNC110  (no event tells of it)
                await asyncio.sleep(0.01)
        return await confirm(counters, timeout_ms)

    monkeypatch.setattr(Counters, "confirm", confirm_later)
    for _ in range(2):
        system.flush()
        assert total(system) == 30
    assert difference(system) == {}


def test_a_claim_that_a_backup_of_mongodb_caught_half_written_is_finished(
    system: System, stores: Restorable, flushed_to: FlushedTo
) -> None:
    count(system, 5)
    killed(system, kill_at("write"), "flush")  # the totals have it, and no other rollup
    stores.back_up()
    system.flush()
    count(system, 10)
    system.flush()
    stores.restore_mongo()
    flushed_to(5, says=OLDER_MONGO)
    assert difference(system) == {"conservation": -10}, "the totals equal the sum of days"


def test_a_redis_that_falls_back_to_the_beginning_of_its_epoch_has_only_its_own_claims_taken_off(
    system: System, stores: Restorable, flushed_to: FlushedTo
) -> None:
    count(system, 20)
    system.flush()
    stores.empty_redis()
    count(system, 5)
    stores.back_up()
    flushed_to(25, says=LOSS)
    stores.restore_redis()
    flushed_to(25, says=OLDER_REDIS)
    assert difference(system) == {}


def test_a_redis_older_than_a_crash_explains_is_held_each_time(
    system: System, stores: Restorable, flushed_to: FlushedTo
) -> None:
    """A backup of yesterday. To take its claims off without a word would give up a day of counts."""
    system.env["TALLYD_FLUSH__FALL_BACK_S"] = "0.001"
    count(system, 5)
    system.flush()
    stores.back_up()
    for n in range(2):
        count(system, 10, f"b{n}")
        system.flush()
    stores.restore_redis()
    assert "No crash explains" in held(system)
    assert total(system) == 25
    accept_shard(system)
    flushed_to(5, says=OLDER_REDIS)
    for n in range(2):
        count(system, 10, f"c{n}")
        system.flush()
    stores.restore_redis()
    assert "No crash explains" in held(system), "what was accepted was for that once"


def held_after_a_restore(system: System, stores: Restorable) -> None:
    """Claims that no crash explains were forgotten: 20 of 25."""
    system.env["TALLYD_FLUSH__FALL_BACK_S"] = "0.001"
    count(system, 5)
    system.flush()
    stores.back_up()
    for n in range(2):
        count(system, 10, f"b{n}")
        system.flush()
    stores.restore_redis()


def test_a_shard_that_is_held_is_not_written_at_each_attempt_and_a_metric_tells_it(
    system: System, stores: Restorable
) -> None:
    held_after_a_restore(system, stores)
    port = free_port()
    with system.flusher(FLUSH__METRICS_PORT=str(port), FLUSH__RETRY_MAX_MS="1000") as flusher:
        flusher.says("Shard 0 is held")
        # As if the last claim were not written: whoever writes it again is seen.
        totals = system.mongo["analytics_entity_totals"]
        written = list(totals.find())
        totals.update_many({}, {"$set": {"flush_seq": 0}})
        attempts = flusher.text().count("Shard 0 is held")
        wait_until(lambda: flusher.text().count("Shard 0 is held") > attempts + 2, "it tries again")
        Listener(port).says({"tallyd_flush_shards_held": 1.0})
        assert total(system) == 25
        assert older(system) == [], "it was not amended"
        for document in written:
            totals.replace_one({"_id": document["_id"]}, document)
        accept_shard(system)
        Listener(port).says({"tallyd_flush_shards_held": 0.0})
        wait_until(lambda: total(system) == 5, "it goes on")
    assert [met["amended"] for met in older(system)] == [{"view": 20}]
    assert system.tallyd("status", check=False).stdout.count("held") == 0


def test_what_was_accepted_is_for_one_fall_back(system: System, stores: Restorable, flushed_to: FlushedTo) -> None:
    """Although no claim came since, and although the flusher that obeyed died before it said so."""
    count(system, 10)
    stores.back_up()
    system.flush()
    # As if it had taken over from a Redis whose replicas held the claim: this is what one without replicas says.
    system.mongo[JOURNAL].update_many({}, {"$set": {"history": "0" * 40}})
    stores.restore_redis()
    held(system)
    accept_shard(system)
    amended = Kill("amend", STOPS["daemon.flush.drain"]["amend"][0], Fault.LOSE_REPLY)
    killed(system, amended, "flush")
    flushed_to(10, says="")
    stores.restore_redis()
    held(system)


@kills("daemon.flush.drain", "hold")
def test_a_flusher_killed_while_it_records_a_hold_leaves_it_to_the_next(
    system: System, stores: Restorable, kill: Kill
) -> None:
    held_after_a_restore(system, stores)
    killed(system, kill, "flush")
    held(system)
    says_where_a_user_looks(system, "at most this is lost: view 20")
    assert total(system) == 25


def test_a_hold_is_over_once_the_right_redis_is_back(system: System, stores: Restorable, flushed_to: FlushedTo) -> None:
    system.env["TALLYD_FLUSH__FALL_BACK_S"] = "0.001"
    count(system, 5)
    system.flush()
    stores.back_up()
    for n in range(2):
        count(system, 10, f"b{n}")
        system.flush()
    shutil.copytree(stores.log, stores.log.with_name("right"))
    stores.restore_redis()
    held(system)
    stores.restore_redis("right")
    assert audit(system)["held"] == []
    assert "held" not in system.tallyd_here("status")[1]
    count(system, 1)
    flushed_to(26, says="")
    assert "hold" not in (system.mongo[FLOORS].find_one({"_id": 0}) or {})


def test_a_flush_looks_again_only_so_often(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each time another one was first, as it seems: no recursion, and no loop for ever."""
    looks = itertools.count()

    async def behind(*_: Any) -> None:
        next(looks)

    count(system, 1)
    with monkeypatch.context() as patched:
        patched.setattr(drain, "advance", behind)
        with pytest.raises(StoreError, match="Redis and MongoDB were apart"):
            system.flush()
    assert next(looks) == drain.LOOKS_MAX
    system.flush()
    assert total(system) == 1


def test_an_older_redis_of_another_epoch_is_held_until_an_operator_accepts_it(
    system: System, stores: Restorable, flushed_to: FlushedTo
) -> None:
    """Its claim in flight was never written. Nothing tells that from one that was."""
    count(system, 5)
    system.flush()
    count(system, 10)
    killed(system, kill_at("advance"), "flush")
    stores.back_up()
    stores.empty_redis()
    count(system, 3)
    flushed_to(8, says=LOSS)
    stores.restore_redis()
    held(system)
    accept_shard(system)
    flushed_to(18, says=ACCEPTED)
    assert difference(system) == {"conservation": 3}, "this Redis knows of 15"


def test_a_claim_that_was_half_written_when_redis_lost_its_memory_is_written_whole(
    system: System, stores: Restorable, flushed_to: FlushedTo
) -> None:
    count(system, 5)
    killed(system, kill_at("write"), "flush")
    stores.empty_redis()
    flushed_to(5, says=LOSS)
    assert difference(system) == {}


@pytest.mark.parametrize("in_flight", [False, True])
def test_mongodb_older_is_named_and_misses_what_was_flushed_since(
    system: System, stores: Restorable, flushed_to: FlushedTo, *, in_flight: bool
) -> None:
    count(system, 5)
    system.flush()
    stores.back_up()
    count(system, 10)
    system.flush()
    count(system, 2)
    if in_flight:
        killed(system, kill_at("write"), "flush")
    stores.restore_mongo()
    flushed_to(7, says=OLDER_MONGO)
    assert difference(system) == {"conservation": -10}
    assert [met["store"] for met in older(system)] == ["mongo"]
    assert accepted(system) == {"totals": {"view": -10}}
    count(system, 1)
    system.flush()
    assert difference(system) == {}


def test_mongodb_restored_under_a_running_flusher_is_named(system: System, stores: Restorable) -> None:
    count(system, 5)
    system.flush()
    stores.back_up()
    with system.flusher() as flusher:
        count(system, 10)
        wait_until(lambda: total(system) == 15 and not system.redis.hexists("anl:{0}:claim", "seq"), "all is flushed")
        said_nothing(flusher)
        flusher.freeze()  # or it writes between the collections
        stores.restore_mongo()
        flusher.thaw()
        flusher.says(OLDER_MONGO)
        count(system, 2)
        wait_until(lambda: total(system) == 7 and not system.redis.exists("anl:{0}:dirty"), "it goes on")
    assert difference(system) == {"conservation": -10}


def test_columns_of_mysql_outlive_an_older_mongodb_if_they_are_taken_over_first(
    system: System, stores: Restorable, flushed_to: FlushedTo
) -> None:
    add_rows(system, {"a": (100, 0)})
    count(system, 5)
    system.flush()
    stores.back_up()
    count(system, 10)
    system.flush()
    stores.restore_mongo()
    assert system.replica() == {"a": (115, 0)}
    assert system.tallyd_here("backfill", "--reconcile")[0] == 0
    count(system, 1)
    flushed_to(6, says=OLDER_MONGO)
    assert system.replica() == {"a": (116, 0)}
    assert accepted(system) == {"totals": {"view": -10}}


def test_all_restored_to_one_moment_is_exact_and_nothing_is_said(
    system: System, stores: Restorable, flushed_to: FlushedTo
) -> None:
    add_rows(system, {"a": (100, 0)})
    count(system, 5)
    system.flush()
    count(system, 10)
    stores.back_up()
    count(system, 3)
    system.flush()
    stores.restore_redis()
    stores.restore_mongo()
    stores.restore_mysql()
    flushed_to(15, says="")
    assert system.replica() == {"a": (115, 0)}
    assert difference(system) == {}
    assert older(system) == []


def test_an_emptied_redis_begins_a_new_baseline(system: System, stores: Restorable, flushed_to: FlushedTo) -> None:
    """It loses what was live, and no law is broken."""
    count(system, 5)
    system.flush()
    count(system, 10)
    stores.empty_redis()
    count(system, 2)
    flushed_to(7, says=LOSS)
    assert difference(system) == {}
    assert older(system) == []


@pytest.mark.parametrize("flushed_before", [True, False])
def test_flushall_under_running_daemons_begins_a_new_baseline(
    system: System, stores: Restorable, *, flushed_before: bool
) -> None:
    with system.ingest() as ingest, system.flusher() as flusher:
        flusher.says("Flushing every")
        if flushed_before:
            assert ingest.post(event(value=5)).status_code == 202
            wait_until(lambda: total(system) == 5, "they are flushed")
        wait_until(lambda: not system.redis.hexists("anl:{0}:claim", "seq"), "nothing is in flight")
        said_nothing(ingest)
        held = total(system)
        system.redis.flushall()
        ingest.says("in place of")
        for n in range(1, 4):
            assert ingest.post(event()).status_code == 202
            wait_until(lambda: total(system) == held + n, "it is flushed")  # noqa: B023
        if flushed_before:
            flusher.says(LOSS)
        assert "came back older" not in flusher.text()
    assert difference(system) == {}
    assert total(system) == held + 3


def test_flushall_twice_begins_two_baselines(system: System, stores: Restorable) -> None:
    count(system, 5)
    system.flush()
    with system.flusher() as flusher:
        for n in range(2):
            system.redis.flushall()
            wait_until(lambda: flusher.text().count(LOSS) == n + 1, "it is met")  # noqa: B023
            count(system, 2)
            wait_until(lambda: total(system) == 7 + 2 * n, "they are flushed")  # noqa: B023
            wait_until(lambda: not system.redis.hexists("anl:{0}:claim", "seq"), "nothing is in flight")
    assert difference(system) == {}


def hold_look(system: System, nth: int) -> Proxy:
    """A line to Redis that holds the `nth` question for the layout. The first one is that of the new connection."""
    for script in scripts.ALL:
        system.redis.script_load(script.source)
    return Proxy(system.env["TALLYD_REDIS__URL"], scripts.LAYOUT.sha.encode(), nth=nth, keep=True)


def test_flushall_between_the_first_claim_and_its_look_drops_the_claim(system: System, stores: Restorable) -> None:
    """The new baseline does not include it, so it may not be written any more."""
    count(system, 5)
    with hold_look(system, 2).running() as line, system.flusher(REDIS__URL=line.url()) as flusher:
        wait_until(line.tripped.is_set, "it has the claim")
        system.redis.flushall()
        line.release()
        flusher.says("in place of")
        count(system, 2)
        wait_until(lambda: total(system) >= 2 and not system.redis.hexists("anl:{0}:claim", "seq"), "they are flushed")
    assert difference(system) == {}
    assert total(system) == 2


def test_a_claim_of_an_epoch_that_no_flusher_opened_is_taken_over(system: System, stores: Restorable) -> None:
    """Redis is emptied twice, and the flusher that met it dies. The other one has an open connection."""
    count(system, 5)
    system.flush()
    with system.flusher(FLUSH__INTERVAL_S="3600", FLUSH__THRESHOLD="2") as other:
        other.says("Flushing every")
        system.redis.flushall()
        with hold_look(system, 3).running() as line, system.flusher(REDIS__URL=line.url()) as first:
            first.says(LOSS)
            system.redis.flushall()
            count(system, 2)
            wait_until(line.tripped.is_set, "it has the claim")
            first.kill()
        count(system, 1, "b")
        count(system, 1, "c")
        wait_until(lambda: total(system) == 9 and not system.redis.hexists("anl:{0}:claim", "seq"), "all is flushed")
    assert difference(system) == {}
    assert "in place of" in other.text()


def test_mysql_older_is_set_to_the_totals(system: System, stores: Restorable) -> None:
    add_rows(system, {"a": (100, 0), "b": (7, 0)})
    count(system, 5)
    system.flush()
    stores.back_up()
    count(system, 10)
    count(system, 1, "b")
    system.flush()
    stores.restore_mysql()
    assert sorted(found["difference"] for found in audit(system)["broken"]) == [-10, -1]
    done = audit(system, "--repair-replica")
    assert done["repaired"] == 2
    assert system.replica() == {"a": (115, 0), "b": (8, 0)}


def test_rows_that_an_emptied_redis_forgot_are_repaired(system: System, stores: Restorable) -> None:
    add_rows(system, {"a": (100, 0)})
    count(system, 5)
    system.flush()
    system.sql("UPDATE jav SET views = 100")  # as if MySQL had been away
    system.redis.flushall()
    assert system.replica() == {"a": (100, 0)}
    count(system, 1, "b")
    system.flush()
    assert difference(system) == {"replica": -5}
    assert audit(system, "--repair-replica")["holds"]
    assert system.replica() == {"a": (105, 0)}


def test_an_ingest_daemon_names_a_redis_that_came_back_older(system: System, stores: Restorable) -> None:
    """It knows only the marks that it saw itself. It renews them every five seconds."""
    with system.ingest() as ingest:
        assert ingest.post(event()).status_code == 202
        wait_until(lambda: system.redis.hexists("anl:layout", "atomic"), "it leaves its mark")
        stores.back_up()
        first = system.redis.hget("anl:layout", "atomic")
        wait_until(lambda: system.redis.hget("anl:layout", "atomic") != first, "it leaves another")
        stores.restore_redis()
        ingest.says("came back with an older state")


@kills("daemon.flush.drain", "note_older")
def test_a_flusher_killed_while_it_records_an_older_store_leaves_it_to_the_next(
    system: System, stores: Restorable, flushed_to: FlushedTo, kill: Kill
) -> None:
    count(system, 5)
    system.flush()
    stores.back_up()
    count(system, 10)
    system.flush()
    stores.restore_mongo()
    killed(system, kill, "flush")
    assert len(older(system)) == kill.after
    flushed_to(5, says=OLDER_MONGO)
    assert len(older(system)) == 1


def test_records_of_older_stores_have_an_end(system: System) -> None:
    count(system, 5)
    system.flush()
    epoch = int(system.redis.hget("anl:layout", "epoch") or 0)

    async def note() -> None:
        async with MongoSink(system.config().mongo) as mongo:
            for seq in range(floors.OLDER_MAX + 1):
                await floors.note_older(mongo, epoch, floors.Older("redis", 0, seq, seq + 1))

    asyncio.run(note())
    assert len(older(system)) == floors.OLDER_MAX


# Accepting --------------------------------------------------------------------------------------------------------


def test_a_second_restore_is_accepted_beside_the_first(system: System, stores: Restorable) -> None:
    for n in range(1, 3):
        count(system, 5)
        system.flush()
        system.mongo["analytics_entity_totals"].update_one({}, {"$inc": {"view": n}})
        assert accepted(system, f"restore {n}")["totals"] == {"view": n}
    assert [each["reason"] for each in audit(system)["epochs"][0]["accepted"]] == ["restore 1", "restore 2"]
    shown = system.tallyd_here("audit")[1]
    assert "totals view +2" in shown
    assert "restore 2" in shown


def test_rollups_that_a_dump_caught_half_way_are_accepted_for_good(system: System, stores: Restorable) -> None:
    """They stay apart, also after Redis began anew."""
    count(system, 5)
    system.flush()
    system.mongo["analytics_entity_daily"].update_one({}, {"$inc": {"view": -2}})
    assert difference(system) == {"rollups": -2, "domains": 2}
    assert accepted(system) == {"daily": {"view": -2}}
    stores.empty_redis()
    count(system, 1)
    system.flush()
    assert difference(system) == {}
    system.mongo["analytics_entity_daily"].update_one({}, {"$inc": {"view": -1}})
    assert difference(system) == {"rollups": -1, "domains": 1}


def test_there_may_be_nothing_to_accept(system: System) -> None:
    count(system, 5)
    system.flush()
    assert not [each for epoch in audit(system, "--accept", "nothing")["epochs"] for each in epoch["accepted"]]
    assert system.tallyd_here("audit", "--accept", " ")[0] == 2
    assert system.tallyd_here("shards", "accept", "0", "--reason", "x")[0] == 1, "it is level"
    assert system.tallyd_here("shards", "accept", "0", "--reason", " ")[0] == 2
    assert system.tallyd_here("shards", "accept", "1", "--reason", "x")[0] == 2, "there is none"


def test_nothing_is_accepted_for_a_redis_that_no_daemon_began(system: System) -> None:
    count(system, 5)
    system.flush()
    system.mongo["analytics_entity_daily"].update_one({}, {"$inc": {"view": 1}})
    system.redis.flushall()
    assert system.tallyd_here("audit", "--accept", "too early")[0] == 1
    assert [epoch["_id"] for epoch in system.mongo["analytics_epochs"].find({"_id": 0})] == []


def test_nothing_is_accepted_while_counts_move(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    count(system, 5)
    system.flush()
    system.mongo["analytics_entity_totals"].update_one({}, {"$inc": {"view": 1}})
    real, n = read_marks, itertools.count()

    async def moving(*args: Any) -> HotMarks:
        return replace(await real(*args), last_seq=next(n))

    with monkeypatch.context() as patched:
        patched.setattr(audits, "read_marks", moving)
        assert system.tallyd_here("audit", "--accept", "too early")[0] == 1
    assert difference(system) == {"conservation": 1, "rollups": -1}


def test_what_a_flusher_writes_meanwhile_is_no_difference_to_accept(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The claim stays in flight, so no mark of Redis moves."""
    count(system, 5)
    system.flush()
    count(system, 10)
    killed(system, kill_at("write"), "flush")
    seq, real = int(system.redis.hget("anl:{0}:claim", "seq") or 0), MongoSink.sums

    async def sums(sink: MongoSink, kind: Kind, fields: Collection[str]) -> dict[str, int]:
        found = await real(sink, kind, fields)
        system.mongo[kind.collection].update_many(
            {"flush_seq": {"$lt": seq}}, {"$inc": {"view": 10}, "$set": {"flush_seq": seq}}
        )
        return found

    with monkeypatch.context() as patched:
        patched.setattr(MongoSink, "sums", sums)
        assert not audit(system, "--accept", "too early")["epochs"][-1]["accepted"]
    system.flush()
    assert difference(system) == {}


def test_of_two_that_accept_at_the_same_moment_one_does(system: System) -> None:
    count(system, 5)
    system.flush()
    acceptance = floors.Acceptance(dt.datetime.now(dt.UTC), "a on b", "both", {"totals": {"view": 1}})
    epoch = system.mongo["analytics_epochs"].find_one({})
    assert epoch is not None

    async def both() -> list[bool]:
        async with MongoSink(system.config().mongo) as mongo:
            return [await floors.accept(mongo, epoch["_id"], acceptance, nth=0) for _ in range(2)]

    assert asyncio.run(both()) == [True, False]
    assert difference(system) == {"conservation": -1}
