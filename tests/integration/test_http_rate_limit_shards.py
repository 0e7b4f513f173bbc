"""The rate limit of a daemon with several shards: events in the sender's own shard, new entities in each."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.kit.system import BATCH, EVENTS, System, event


@pytest.fixture
def sharded(system: System) -> Iterator[httpx.Client]:
    """A visitor of a daemon with three shards, and calls so small that a batch takes several."""
    limits = {
        "RATE_LIMIT__PER_MINUTE": "20",
        "RATE_LIMIT__NEW_ENTITIES_PER_MINUTE": "4",
        "INGEST__CALL_EVENTS_MAX": "5",
    }
    with (
        system.ingest(REDIS__SHARDS="3", **limits) as ingest,
        httpx.Client(base_url=ingest.url, timeout=10) as connected,
    ):
        yield connected


def accepted(system: System) -> int:
    return sum(int(system.redis.hget(f"anl:{{{shard}}}:ledger", "accepted:view") or 0) for shard in range(3))


def test_with_several_shards_a_batch_is_taken_as_far_as_the_limit_reaches(
    sharded: httpx.Client, system: System
) -> None:
    batch = [event(entity_id=f"m{n % 3}") for n in range(30)]
    answer = sharded.post(BATCH, json=batch).json()
    assert (answer["accepted"], answer["duplicates"], answer["limited"]) == (20, 0, 10)
    assert sharded.post(EVENTS, json=event(entity_id="m0")).status_code == 429
    assert accepted(system) == 20


def test_with_several_shards_the_answer_says_how_many_events_are_left(sharded: httpx.Client) -> None:
    def left(path: str, body: object) -> tuple[int, str]:
        answer = sharded.post(path, json=body)
        assert answer.headers["x-ratelimit-limit"] == "20"
        return answer.status_code, answer.headers["x-ratelimit-remaining"]

    same = event(entity_id="m0")
    assert left(EVENTS, same) == (202, "19")
    assert sharded.post(EVENTS, json=same).headers["x-tallyd-duplicate"] == "1"
    assert left(BATCH, [event(entity_id=f"m{n % 3}") for n in range(7)]) == (202, "11")
    assert left(BATCH, [event(entity_id="m0") for _ in range(30)]) == (202, "0")
    assert left(EVENTS, event(entity_id="m0")) == (429, "0")


def test_new_entities_are_limited_and_what_is_sent_again_counts_once(sharded: httpx.Client, system: System) -> None:
    batch = [event(entity_id=f"m{n}") for n in range(19)]
    answer = sharded.post(BATCH, json=batch).json()
    taken = accepted(system)
    assert 4 <= answer["accepted"] == taken <= 3 * 4, "in each shard four"
    dirty = {name for shard in range(3) for name in system.redis.smembers(f"anl:{{{shard}}}:dirty")}
    assert len(dirty) == taken
    for key in system.redis.scan_iter("anl:*:rate:*"):
        system.redis.delete(key)
    with httpx.Client(base_url=sharded.base_url, transport=httpx.HTTPTransport(local_address="127.0.9.1")) as other:
        again = other.post(BATCH, json=batch[-answer["limited"] :]).json()
        assert again["accepted"] > 0
    assert accepted(system) == taken + again["accepted"]
