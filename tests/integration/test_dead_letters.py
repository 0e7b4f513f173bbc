"""Documents that can't take their amounts: the rest goes on, and a retry counts them exactly once."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
from typing import Any

import pytest
from msgspec import msgpack

from daemon.rollups.mongo import MongoSink
from tests.kit.system import System, event, expected_rollups

ONE_SYSTEM = True

DAY = dt.date(2026, 2, 19)


def letters(system: System) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(system.tallyd("dead", "list", "--json").stdout)
    return found


def count(system: System, *events: dict[str, Any]) -> None:
    assert system.count(*events) == len(events)
    system.flush()


def spoil(system: System, collection: str, id_: str, value: object = "seven") -> None:
    system.mongo[collection].update_one({"_id": id_}, {"$set": {"view": value}})


def test_a_wrong_type_in_one_document_does_not_hold_up_the_rest(system: System) -> None:
    system.add_movies("a", "b")
    count(system, event(entity_id="a"), event(entity_id="b"))
    spoil(system, "analytics_entity_daily", "jav:movie:a:2026-02-19")
    count(system, event(entity_id="a", value=2), event(entity_id="b", value=2))
    (letter,) = letters(system)
    assert letter["collection"] == "analytics_entity_daily"
    assert letter["deltas"] == {"view": 2}
    assert letter["reason"] == "the counter's field holds no number"
    assert system.rollup("totals") == {"jav:movie:a": {"view": 3}, "jav:movie:b": {"view": 3}}
    assert system.rollup("daily")["jav:movie:b:2026-02-19"] == {"view": 3}
    assert "1 dead letter waits: amounts that no document could take." in system.tallyd("status").stdout
    assert system.tallyd("dead", "retry", letter["id"], check=False).returncode == 1

    spoil(system, "analytics_entity_daily", "jav:movie:a:2026-02-19", 1)
    system.tallyd("dead", "retry", letter["id"])
    assert letters(system) == []
    counted = [("jav:movie:a", "view", DAY, 3), ("jav:movie:b", "view", DAY, 3)]
    assert system.rollups() == expected_rollups(counted)
    system.audit("--deep")


def test_a_flush_that_makes_a_dead_letter_exits_1(system: System) -> None:
    count(system, event(entity_id="a"))
    spoil(system, "analytics_entity_daily", "jav:movie:a:2026-02-19")
    assert system.count(event(entity_id="a"), event(entity_id="b")) == 2
    flushed = system.tallyd("flush", "--once", "--json", check=False)
    assert (flushed.returncode, json.loads(flushed.stdout)["dead"]) == (1, 1)
    assert "1 documents or values went to the dead letters" in flushed.stderr
    assert system.tallyd("flush", "--once").returncode == 0, "it says so once"
    assert system.rollup("totals")["jav:movie:b"] == {"view": 1}


def test_totals_that_come_back_from_the_dead_letters_reach_mysql(system: System) -> None:
    system.add_movies("a")
    count(system, event(entity_id="a"))
    spoil(system, "analytics_entity_totals", "jav:movie:a")
    count(system, event(entity_id="a", value=5))
    assert len(letters(system)) == 1
    spoil(system, "analytics_entity_totals", "jav:movie:a", 1)
    system.audit()
    assert system.tallyd("dead", "retry", "--all").stdout.endswith("1 applied, 0 not.\n")
    system.flush()
    assert system.replica() == {"a": (6, 0)}
    system.audit("--deep")


def test_a_letter_that_cannot_be_applied_holds_up_no_other(system: System) -> None:
    count(system, event(entity_id="a"), event(entity_id="b"))
    for id_ in ("a", "b"):
        spoil(system, "analytics_entity_totals", f"jav:movie:{id_}")
    count(system, event(entity_id="a"), event(entity_id="b"))
    for id_ in ("a", "b"):
        spoil(system, "analytics_entity_totals", f"jav:movie:{id_}", 1)
    first = system.mongo["analytics_dead_letters"].find_one(sort=[("at", 1), ("_id", 1)])
    # Two changes of one field: MongoDB refuses the update with a code that is no fault of the document.
    system.mongo["analytics_dead_letters"].update_one({"_id": first["_id"]}, {"$set": {"deltas": {"updated_at": 1}}})
    retried = system.tallyd("dead", "retry", "--all", check=False)
    assert retried.returncode == 1
    assert f"{first['_id']}: still failing" in retried.stdout
    assert retried.stdout.endswith("1 applied, 1 not.\n")


def test_an_amount_beyond_64_bits_is_a_dead_letter(system: System) -> None:
    count(system, event(entity_id="a"))
    spoil(system, "analytics_entity_yearly", "jav:movie:a:2026", 2**63 - 1)
    count(system, event(entity_id="a"))
    (letter,) = letters(system)
    assert letter["document"] == "jav:movie:a:2026"
    assert "64-bit" in letter["reason"]


def test_a_validation_rule_makes_dead_letters_of_what_it_refuses(system: System) -> None:
    count(system, event(entity_id="a"), event(entity_id="b"))
    system.mongo.command("collMod", "analytics_entity_monthly", validator={"entity_id": {"$ne": "a"}})
    count(system, event(entity_id="a"), event(entity_id="b"))
    (letter,) = letters(system)
    assert (letter["collection"], letter["document"]) == ("analytics_entity_monthly", "jav:movie:a:2026-02")
    system.mongo.command("collMod", "analytics_entity_monthly", validator={})
    system.tallyd("dead", "retry", "--all")
    assert system.rollup("monthly") == {"jav:movie:a:2026-02": {"view": 2}, "jav:movie:b:2026-02": {"view": 2}}


def test_a_document_of_another_with_the_same_natural_key_is_named(system: System) -> None:
    count(system, event(entity_id="a"))
    system.mongo["analytics_entity_totals"].insert_one(
        {"_id": "foreign", "domain": "jav", "entity_type": "movie", "entity_id": "b", "view": 0}
    )
    count(system, event(entity_id="b"))
    (letter,) = letters(system)
    assert letter["reason"] == "another document has its natural key"


@pytest.mark.parametrize("died_after", ["the document", "the letter"])
def test_a_retry_that_died_half_way_counts_once(system: System, died_after: str) -> None:
    count(system, event(entity_id="a"))
    spoil(system, "analytics_entity_daily", "jav:movie:a:2026-02-19")
    count(system, event(entity_id="a", value=4))
    spoil(system, "analytics_entity_daily", "jav:movie:a:2026-02-19", 1)
    (saved,) = system.mongo["analytics_dead_letters"].find()
    system.tallyd("dead", "retry", "--all")
    daily = system.mongo["analytics_entity_daily"]
    # Put back what a process killed at that point leaves behind.
    if died_after == "the document":
        system.mongo["analytics_dead_letters"].insert_one(saved)
    daily.update_one({"entity_id": "a"}, {"$set": {"dead_applied": [saved["_id"]]}})
    system.tallyd("dead", "retry", "--all")
    assert system.rollup("daily") == {"jav:movie:a:2026-02-19": {"view": 5}}
    assert letters(system) == []


@pytest.mark.parametrize("retried", ["before", "after"])
def test_a_document_mended_before_a_claim_is_repeated_is_not_counted_twice(system: System, retried: str) -> None:
    count(system, event(entity_id="a"))
    spoil(system, "analytics_entity_daily", "jav:movie:a:2026-02-19")
    system.count(event(entity_id="a", value=4))
    system.flush()
    (letter,) = letters(system)
    # The ack was lost: the same claim is in flight again, under the same name, and the document is whole meanwhile.
    seq = letter["seq"]
    journaled = system.mongo["analytics_flush_journal"].find_one({"seq": seq})
    assert journaled
    name = {"seq": seq, "nonce": journaled["nonce"], "acked": int(journaled["before"]["seq"])}
    system.redis.hset(
        "anl:{0}:claim",
        mapping=name | {"owner": "gone", "since": 0, "until": 0, "entities": 1, f"payload:{seq}": payload(4)},
    )
    spoil(system, "analytics_entity_daily", "jav:movie:a:2026-02-19", 1)
    if retried == "before":
        system.tallyd("dead", "retry", "--all")
    system.flush()
    assert system.rollup("daily") == {"jav:movie:a:2026-02-19": {"view": 1 if retried == "after" else 5}}
    system.tallyd("dead", "retry", "--all")
    assert system.rollups() == expected_rollups([("jav:movie:a", "view", DAY, 5)])


def test_foreign_values_in_redis_go_to_the_dead_letters_and_can_be_dropped(system: System) -> None:
    system.count(event(entity_id="a"))
    for key, field, value in [
        ("jav:movie:a", "view:yesterday", "3"),
        ("jav:movie:a", "view:2026-02-19x", "3"),
        ("nonsense", "view:2026-02-19", "3"),
        ("jav:movie:b", "view:2026-02-19", "many"),
        ("jav:movie:b", b"\xff:2026-02-19", "1"),
    ]:
        system.redis.hset(f"anl:{{0}}:counters:{key}", field, value)
        system.redis.sadd("anl:{0}:dirty", key)
    system.redis.set("anl:{0}:counters:jav:movie:c", "a string")
    system.redis.sadd("anl:{0}:dirty", "jav:movie:c", b"\xfe\xff")
    system.flush()
    assert system.rollup("totals") == {"jav:movie:a": {"view": 1}}
    found = letters(system)
    assert len(found) == 5
    assert {letter["collection"] for letter in found} == {""}
    assert system.tallyd("dead", "retry", found[0]["id"], check=False).returncode == 1
    for letter in found:
        system.tallyd("dead", "drop", letter["id"])
    assert letters(system) == []
    system.audit()


def test_a_foreign_value_that_was_frozen_twice_is_one_letter_of_both(system: System) -> None:
    parts = {f"payload:{n}": msgpack.encode(["jav:movie:a", 1, "view:yesterday", str(n)]) for n in (7, 9)}
    system.redis.hset("anl:{0}:claim", mapping={"seq": 9, "owner": "gone", "until": 0, "since": 0, **parts})
    system.flush()
    (letter,) = letters(system)
    assert letter["deltas"] == {"amount": "7, 9"}


def test_letters_are_looked_up_by_an_index(system: System) -> None:
    """By the plans MongoDB itself recorded: a look at all letters would be a COLLSCAN."""
    count(system, event(entity_id="a"))
    system.mongo.command("profile", 2)

    async def look() -> None:
        async with MongoSink(system.config().mongo) as mongo:
            await mongo.dead_letters.of_claim(0, 1)
            await mongo.dead_letters.waiting_for("analytics_entity_daily", ["jav:movie:a:2026-02-19"])
            await mongo.dead_letters.count()
            assert [letter async for letter in mongo.dead_letters.each()] == []

    asyncio.run(look())
    system.mongo.command("profile", 0)
    looks = system.mongo["system.profile"].find({"ns": {"$regex": "dead_letters$"}})
    assert [look["planSummary"].partition("}")[0] for look in looks] == [
        "IXSCAN { shard: 1, seq: 1 ",
        "IXSCAN { collection: 1, document: 1 ",
        "COUNT_SCAN { dropped_at: 1, at: 1, _id: 1 ",
        "IXSCAN { dropped_at: 1, at: 1, _id: 1 ",
    ]


def payload(views: int) -> bytes:
    return msgpack.encode(["jav:movie:a", 1, "view:2026-02-19", str(views)])
