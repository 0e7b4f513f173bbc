"""The build of whole domains, out of what an older version left: stopped before and after every step, beside a second
builder, and by one that wakes late. Every day of every domain is exact in the end."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from daemon.buffer.connection import Connection
from daemon.buffer.counters import Claim, Counters, Limits
from daemon.buffer.layout import Layout
from daemon.domain.rollup import COARSER, DAILY, DOMAIN_DAILY, KINDS, OF_DOMAINS, TOTALS, Kind, OfDomains, Rollup
from daemon.flush.domains import DomainBuilder
from daemon.flush.flusher import Flusher as FlushDaemon
from daemon.rollups.build import Builder
from daemon.rollups.builds import Record
from daemon.rollups.collections import DEAD_LETTERS, DOMAIN_BUILDS, EXPIRY, FLOORS
from daemon.rollups.domains import forget_generations
from daemon.rollups.floors import fence, read_floor, unfence
from daemon.rollups.mongo import MongoSink
from tests.chaos.steps import Flusher
from tests.kit.kill import Kill, killed, kills
from tests.kit.system import System, event
from tests.kit.takeover import add_rows, audited

ONE_SYSTEM = True
QUICK = {"TALLYD_FLUSH__LEASE_MS": "300", "TALLYD_FLUSH__INTERVAL_S": "0.1"}
TABLE = {"table": "jav", "key": "uuid", "columns": {"view": "views", "download": "downloads"}, "known": True}
DAYS = [dt.date(2026, 2, day) for day in (17, 18, 19)]
SENT = (("movie", "a", "view"), ("movie", "b", "download"), ("tag", "t", "view"))

Days = dict[tuple[str, str], Counter[str]]
"""(entity type, day; "" for what has none) → amounts."""


def count(system: System, amounts: Days, n: int = 1) -> None:
    """Views of movies and tags, and a download, on each day."""
    events = []
    for day in DAYS:
        for entity_type, entity_id, action in (
            ("movie", "a", "view"),
            ("movie", "b", "download"),
            ("tag", "t", "view"),
        ):
            fields = {"entity_type": entity_type, "entity_id": entity_id, "action": action}
            events.append(event(**fields, value=n if action == "view" else 1, occurred_at=f"{day}T01:02:03Z"))
            amounts.setdefault((entity_type, str(day)), Counter())[action] += n if action == "view" else 1
    assert system.count(*events) == len(events)


def flushed_once(system: System) -> Days:
    """What a flusher with short leases has counted and flushed."""
    system.env |= QUICK
    amounts: Days = {}
    count(system, amounts)
    system.flush()
    return amounts


def days(system: System) -> Days:
    """What the generation that is read says, of every day."""
    record = system.mongo[DOMAIN_BUILDS].find_one() or {}
    found: Days = {}
    for document in system.mongo[DOMAIN_DAILY.collection].find({"_id": {"$regex": f"^{record['built']}:"}}):
        of_day = found.setdefault((document["entity_type"], document["date"]), Counter())
        for counter in ("view", "download"):
            of_day[counter] += document.get(counter, 0) + document.get("base", {}).get(counter, 0)
    return {place: +amounts for place, amounts in found.items() if +amounts}


def as_before(system: System) -> None:
    """As a version without whole domains left it."""
    for kind in OF_DOMAINS:
        system.mongo[kind.collection].delete_many({})
    system.mongo[DOMAIN_BUILDS].delete_many({})
    system.mongo[FLOORS].update_many({}, {"$unset": {"domains": 1}})


async def apply_as_before(system: System, *kinds: Kind) -> None:
    """A claim as an older version writes it to these rollups; to all of them, it is acknowledged, too."""
    config = system.config()
    connection = Connection(config.redis, Layout(config))
    try:
        async with MongoSink(config.mongo) as mongo:
            floor = (await read_floor(mongo, 0)).name
            counters = Counters(connection, 0, Limits.of(config))
            claim = await counters.claim(
                Builder, owner="old", floor=floor, lease_ms=1, entities_max=100, fields_max=1_000, us_max=1_000_000
            )
            assert isinstance(claim, Claim)
            system.redis.hdel("anl:{0}:claim", "nonce")  # it had none
            system.mongo[FLOORS].update_one({"_id": 0}, {"$max": {"seq": claim.seq}}, upsert=True)
            rollup = claim.content.rollup()
            written = {kind: found if kind in (kinds or KINDS) else [] for kind, found in rollup.documents.items()}
            await mongo.write(Rollup(written, []), claim.seq, {})
            if not kinds:
                booked = [(f"flushed:{name}", n) for name, n in rollup.sums().items()]
                await counters.ack(claim.name._replace(nonce=""), claim.acked, booked, [])
    finally:
        await connection.close()


@pytest.fixture
def left(system: System) -> tuple[System, Days]:
    """A claim that is written to the days and no further; letters of a document that took no amounts, and of an unknown
    id; the retry of one of them that has begun, and the expiry of another entity's day."""
    system.env |= QUICK | {"TALLYD_REPLICA": json.dumps({"jav": {"movie": TABLE}})}
    add_rows(system, {"a": (5, 0), "b": (0, 0)})
    amounts: Days = {}
    count(system, amounts)
    system.flush()
    for kind in (DAILY, *COARSER):
        of_a = {"entity_id": "a"} | ({"date": str(DAYS[2])} if kind is DAILY else {})
        system.mongo[kind.collection].update_one(of_a, {"$set": {"base.view": 5}})
    amounts["movie", str(DAYS[2])]["view"] += 5
    spoiled = f"jav:movie:a:{DAYS[0]}"
    system.mongo[DAILY.collection].update_one({"_id": spoiled}, {"$set": {"view": "many"}})
    count(system, amounts, 2)
    system.count(event(entity_id="unknown", value=16, occurred_at=f"{DAYS[0]}T00:00:00Z"))
    system.flush()
    system.mongo[DAILY.collection].update_one({"_id": spoiled}, {"$set": {"view": 1}})
    assert system.mongo[DEAD_LETTERS].update_one({"document": spoiled}, {"$set": {"retrying": True}}).matched_count
    count(system, amounts, 4)
    asyncio.run(apply_as_before(system, TOTALS, DAILY))
    as_before(system)
    begin_expiry(system, f"jav:tag:t:{DAYS[1]}")
    amounts["tag", ""] = amounts.pop(("tag", str(DAYS[1])))
    return system, amounts


def begin_expiry(system: System, id_: str) -> None:
    document = system.mongo[DAILY.collection].find_one({"_id": id_})
    assert document
    names = ("_id", "flush_seq", "updated_at")
    record = {"n": 1, "state": "sealing", "documents": [{name: document[name] for name in names}]}
    system.mongo[EXPIRY].update_one({"_id": DAILY.name}, {"$set": record}, upsert=True)


HOLDS: dict[str, Callable[[System], object]] = {
    "begin": lambda system: system.mongo[DOMAIN_BUILDS].find_one({"generation": {"$gt": 0}, "built": 0}),
    "fence": lambda system: system.mongo[FLOORS].find_one({"domains.generation": {"$gt": 0}}),
    "finish": lambda system: not system.mongo[DOMAIN_DAILY.collection].find_one(),
    "write": lambda system: system.mongo[DOMAIN_DAILY.collection].find_one(),
    "end": lambda system: system.mongo[DOMAIN_BUILDS].find_one({"built": {"$gt": 0}}),
    "forget": lambda system: system.mongo[DOMAIN_BUILDS].find_one({"built": {"$gt": 0}}),
}
"""Step → what shows in the stores after it."""


@kills("daemon.flush.domains")
def test_a_build_that_is_stopped_is_begun_anew(left: tuple[System, Days], kill: Kill) -> None:
    system, amounts = left
    killed(system, kill, "flush")
    if kill.after:
        assert HOLDS[kill.step](system)
    system.flush()
    assert days(system) == amounts
    count(system, amounts, 8)
    system.flush()
    assert days(system) == amounts
    assert audited(system, "--deep") == set()
    assert system.tallyd_here("dead", "retry", "--all")[0] == 0
    amounts["movie", str(DAYS[0])]["view"] += 16
    assert days(system) == amounts
    assert audited(system, "--deep") == set()


def test_what_an_older_flusher_writes_later_is_noticed_and_added_up(system: System) -> None:
    amounts: Days = {}
    count(system, amounts)
    system.flush()
    count(system, amounts, 2)
    asyncio.run(apply_as_before(system))
    assert {law for law, _, _ in audited(system)} == {"domains"}
    count(system, amounts, 4)
    system.flush()
    assert days(system) == amounts
    assert audited(system) == set()


def test_two_that_build_beside_each_other_count_once(system: System) -> None:
    amounts = flushed_once(system)
    count(system, amounts, 2)
    asyncio.run(apply_as_before(system, TOTALS, DAILY))
    as_before(system)

    async def both() -> None:
        await asyncio.gather(*(asyncio.to_thread(system.flush) for _ in range(2)))

    asyncio.run(both())
    assert days(system) == amounts
    assert audited(system) == set()


class Frozen(DomainBuilder):
    """It does not renew its lease, and waits before it adds up."""

    meanwhile: Callable[[], None]

    @asynccontextmanager
    async def _renewed(self, generation: int) -> AsyncIterator[None]:
        yield

    async def _add_up(self, kind: OfDomains, *args: Any) -> Any:
        if kind is DOMAIN_DAILY:
            await asyncio.to_thread(self.meanwhile)
        return await super()._add_up(kind, *args)


def test_a_builder_that_wakes_late_changes_nothing(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another one has built meanwhile, and claims were added to its documents."""
    amounts = flushed_once(system)
    as_before(system)

    def others() -> None:
        monkeypatch.undo()
        count(system, amounts, 2)
        system.flush()
        count(system, amounts, 4)
        system.flush()

    monkeypatch.setattr(Frozen, "meanwhile", staticmethod(others), raising=False)
    monkeypatch.setattr("daemon.flush.flusher.DomainBuilder", Frozen)
    system.flush()
    assert days(system) == amounts
    assert len(system.mongo[DOMAIN_DAILY.collection].distinct("_id", {"_id": {"$regex": ":before$"}})) > len(DAYS)
    assert audited(system) == set()


@pytest.mark.parametrize("before", ["advance", "bulk", "ack"])
def test_a_claim_that_a_build_overtakes_counts_once(system: System, before: str) -> None:
    """Its flusher is frozen, and wakes after the build."""
    amounts = flushed_once(system)
    count(system, amounts, 2)

    def others() -> None:
        assert system.tallyd_here("audit", "--rebuild-domains")[0] == 0
        system.flush()
        count(system, amounts, 4)

    async def work() -> None:
        flusher = Flusher(system, 1)
        connection = Connection(flusher.config.redis, Layout(flusher.config))
        flusher.restart(connection)
        try:
            await flusher.actor.begin(flusher.drain.apply_next())
            await flusher.actor.step_until(before)
            await asyncio.to_thread(others)
            await flusher.actor.finish()
        finally:
            await connection.close()
            await flusher.mongo.close()

    asyncio.run(work())
    system.flush()
    assert days(system) == amounts
    assert audited(system) == set()


def test_a_builder_that_wakes_before_it_deletes_leaves_later_builds_alone(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    amounts = flushed_once(system)
    as_before(system)

    async def late(mongo: MongoSink, record: Record) -> None:
        monkeypatch.undo()
        await asyncio.to_thread(others)
        await forget_generations(mongo, record)

    def others() -> None:
        assert system.tallyd_here("audit", "--rebuild-domains")[0] == 0
        system.flush()
        count(system, amounts, 2)
        system.flush()

    monkeypatch.setattr(DomainBuilder, "_renewed", Frozen._renewed)
    monkeypatch.setattr("daemon.flush.domains.forget_generations", late)
    system.flush()
    assert days(system) == amounts
    assert audited(system) == set()


def test_a_build_that_is_asked_for_during_a_build_is_begun(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    """A claim up to the fence is in flight. Without a fence nobody may write it."""
    amounts = flushed_once(system)
    count(system, amounts, 2)
    asyncio.run(apply_as_before(system, TOTALS, DAILY))
    as_before(system)
    finish = DomainBuilder._finish

    async def asked_for(self: DomainBuilder, number: int, fenced: int) -> None:
        monkeypatch.undo()
        await unfence(self._mongo)
        await finish(self, number, fenced)

    monkeypatch.setattr(DomainBuilder, "_finish", asked_for)
    system.flush()
    assert days(system) == amounts
    assert audited(system) == set()


def test_whole_domains_are_audited_though_a_floor_is_left_of_more_shards(system: System) -> None:
    amounts: Days = {}
    count(system, amounts)
    system.flush()
    system.mongo[FLOORS].insert_one({"_id": 7, "seq": 1})
    system.mongo[DOMAIN_DAILY.collection].delete_one({"entity_type": "movie", "date": str(DAYS[0])})
    assert {law for law, _, _ in audited(system)} == {"domains"}


def test_a_mongodb_that_is_restored_to_the_midst_of_a_build_is_built_by_the_same_flusher(system: System) -> None:
    system.env |= QUICK
    amounts: Days = {}
    count(system, amounts)

    async def work() -> None:
        flusher = FlushDaemon(system.config())
        try:
            await flusher.once()
            floor, record = system.mongo[FLOORS].find_one(), system.mongo[DOMAIN_BUILDS].find_one()
            assert floor
            assert record
            await asyncio.to_thread(count, system, amounts, 2)
            await flusher.once()
            # The documents are those of now. The floor and the record are those of the build.
            system.mongo[FLOORS].replace_one({"_id": 0}, floor)
            system.mongo[DOMAIN_BUILDS].replace_one({}, record | {"built": 0})
            await asyncio.to_thread(count, system, amounts, 4)
            await flusher.once()
        finally:
            await flusher.close()

    asyncio.run(work())
    record = system.mongo[DOMAIN_BUILDS].find_one()
    assert record
    assert record["built"] == record["generation"]
    assert days(system) == amounts


def test_a_builder_that_wakes_before_its_fence_fences_nothing(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    amounts = flushed_once(system)
    as_before(system)

    async def late(mongo: MongoSink, shard: int, generation: int) -> int | None:
        monkeypatch.undo()
        await asyncio.to_thread(system.flush)
        built = system.mongo[DOMAIN_BUILDS].find_one()
        fenced = await fence(mongo, shard, generation)
        floor = system.mongo[FLOORS].find_one()
        assert floor
        assert built
        assert floor["domains"]["generation"] == built["built"] > generation
        return fenced

    monkeypatch.setattr(DomainBuilder, "_renewed", Frozen._renewed)
    monkeypatch.setattr("daemon.flush.domains.fence", late)
    system.flush()
    assert days(system) == amounts
    assert audited(system) == set()


def test_a_build_adds_the_letters_that_wait_for_a_day(system: System) -> None:
    amounts: Days = {}
    count(system, amounts)
    system.flush()
    spoiled = {"_id": f"jav:movie:a:{DAYS[0]}"}
    system.mongo[DAILY.collection].update_one(spoiled, {"$set": {"view": "many"}})
    count(system, amounts, 2)
    system.flush()
    system.tallyd_here("audit", "--rebuild-domains")  # 1: the spoiled day breaks a law
    system.flush()
    amounts["movie", str(DAYS[0])]["view"] -= 1  # what the spoiled document held
    assert days(system) == amounts
    system.mongo[DAILY.collection].update_one(spoiled, {"$set": {"view": 1}})
    assert system.tallyd_here("dead", "retry", "--all")[0] == 0
    assert days(system) == amounts
    assert system.tallyd_here("audit", "--rebuild-domains")[0] == 0
    system.flush()
    amounts["movie", str(DAYS[0])]["view"] += 1
    assert days(system) == amounts
    assert audited(system) == set()


def test_no_letter_is_retried_and_nothing_expires_during_a_build(system: System) -> None:
    system.env |= {"TALLYD_REPLICA": json.dumps({"jav": {"movie": TABLE}})}
    amounts: Days = {}
    count(system, amounts)
    system.flush()  # a and b have no rows
    system.mongo[DAILY.collection].update_many({}, {"$set": {"flush_seq": 1}})
    system.mongo[DOMAIN_BUILDS].update_one({}, {"$inc": {"generation": 1}})
    of_days = list(system.mongo[DAILY.collection].find())
    system.env["TALLYD_RETENTION__DAILY_DAYS"] = "40"
    for command in (("dead", "retry", "--all"), ("expire",)):
        assert system.tallyd_here(*command)[0] == 1
    assert list(system.mongo[DAILY.collection].find()) == of_days
    assert system.mongo[DEAD_LETTERS].count_documents({"dropped_at": None})
    system.mongo[DOMAIN_BUILDS].update_one({}, {"$inc": {"generation": -1}})
    assert system.tallyd_here("dead", "retry", "--all")[0] == 0
    assert days(system) == amounts


def test_a_build_ends_though_its_renewal_does_not_notice_that_it_is_cancelled(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `asyncio.wait_for` of Python 3.11 does not, if the answer comes at that moment."""
    system.env |= QUICK

    async def work() -> None:
        daemon = FlushDaemon(system.config())
        builds = daemon.domains._mongo.builds
        renewing, end = asyncio.Event(), builds.end

        async def renew(*_: int) -> bool:
            renewing.set()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(2)  # longer than the rest of the build
            return True

        async def end_meanwhile(generation: int) -> bool:
            await renewing.wait()
            return await end(generation)

        monkeypatch.setattr(builds, "renew", renew)
        monkeypatch.setattr(builds, "end", end_meanwhile)
        try:
            await daemon.prepare()
            assert await asyncio.wait_for(daemon.domains.build(), timeout=20)
        finally:
            await daemon.close()

    asyncio.run(work())
