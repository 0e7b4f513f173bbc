"""The rate limit over real sockets, with two workers: exact, per client address, without a round trip of its own.

Each test comes from an address of its own (127.0.0.0/8 is all loopback), so no test waits for another's budget.
"""

from __future__ import annotations

import itertools
import json
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from daemon.config import Config
from tests.kit.system import BATCH, EVENTS, Ingest, System, event, wait_until

KEY = "a-shop-s-key-0123"
PER_MINUTE = 6
"""So few that none is refilled while a test runs."""
CALL_EVENTS_MAX = Config().ingest.call_events_max
CONFIG = {
    "HTTP__WORKERS": "2",
    "RATE_LIMIT__PER_MINUTE": str(PER_MINUTE),
    "PRODUCERS__KEYS": json.dumps({"shop": KEY}),
    "DEDUPE__EVENTS_PER_WINDOW": "10000",
}
_numbers = itertools.count(2)


def client(ingest: Ingest, address: str) -> httpx.Client:
    return httpx.Client(base_url=ingest.url, transport=httpx.HTTPTransport(local_address=address), timeout=10)


@pytest.fixture
def address() -> str:
    return f"127.0.7.{next(_numbers)}"


@pytest.fixture
def visitor(ingest: Ingest, address: str) -> Iterator[httpx.Client]:
    with client(ingest, address) as connected:
        yield connected


def statuses(ingest: Ingest, address: str, requests: int, connections: int = 8) -> Counter[int]:
    """The statuses of that many good events, over several connections at once."""

    def send(count: int) -> list[int]:
        with client(ingest, address) as connected:
            return [connected.post(EVENTS, json=event()).status_code for _ in range(count)]

    shares = [requests // connections + (n < requests % connections) for n in range(connections)]
    with ThreadPoolExecutor(connections) as pool:
        return Counter(itertools.chain.from_iterable(pool.map(send, shares)))


def room(system: System, address: str) -> int:
    """Events that the address has left now, by the moment that Redis keeps."""
    until = int(system.redis.get(f"anl:{{0}}:rate:{address}") or 0)
    seconds, micros = system.redis.time()
    left = 60 - max(0, until / 1e6 - seconds - micros / 1e6)
    return int(left * PER_MINUTE / 60)


def spend(visitor: httpx.Client, leave: int = 0) -> None:
    """Sends so many events that `leave` are left."""
    answer = visitor.post(BATCH, json=[event() for _ in range(PER_MINUTE - leave)])
    assert (answer.status_code, answer.json()["accepted"]) == (202, PER_MINUTE - leave)


def test_as_many_events_pass_as_the_limit_says_whichever_worker_takes_them(
    ingest: Ingest, shared_system: System, address: str
) -> None:
    began = time.monotonic()
    passed = statuses(ingest, address, 100)
    refilled = (time.monotonic() - began) * PER_MINUTE / 60
    assert set(passed) == {202, 429}
    assert PER_MINUTE <= passed[202] <= PER_MINUTE + refilled
    assert shared_system.ledger() == {"accepted:view": passed[202]}


def test_a_refused_event_is_told_how_long_to_wait(visitor: httpx.Client) -> None:
    spend(visitor)
    for _ in range(2):  # by Redis, and then by the worker alone
        refused = visitor.post(EVENTS, json=event())
        assert refused.status_code == 429
        assert 1 <= int(refused.headers["retry-after"]) <= 60 / PER_MINUTE
        assert set(refused.json()) == {"message"}


def told(answer: httpx.Response) -> tuple[int, str | None, str | None]:
    """The status, and the two headers of every answer to a sender with a limit."""
    names = ("x-ratelimit-limit", "x-ratelimit-remaining")
    limit, remaining = (answer.headers.get(name) for name in names)
    return answer.status_code, limit, remaining


def test_every_answer_says_how_many_events_are_left(visitor: httpx.Client, shared_system: System, address: str) -> None:
    limit, same = str(PER_MINUTE), event()
    assert told(visitor.post(EVENTS, json=same)) == (202, limit, "5")
    assert told(visitor.post(EVENTS, json=same)) == (202, limit, "4"), "a duplicate costs the same"
    slow = visitor.post(EVENTS, content=json.dumps(event()), headers={"content-type": "Text/Plain"})
    assert told(slow) == (202, limit, "3"), "the long way"
    assert room(shared_system, address) == 3
    assert told(visitor.post(BATCH, json=[event(), {}])) == (202, limit, "1"), "what is refused costs, too"
    assert told(visitor.post(BATCH, json=[event(), event()])) == (202, limit, "0")
    assert room(shared_system, address) == 0
    for path, body in ((EVENTS, event()), (EVENTS, event()), (BATCH, [event()])):
        before_s = int(time.time())
        refused = visitor.post(path, json=body)
        assert told(refused) == (429, limit, "0")
        wait_s = int(refused.headers["retry-after"])
        assert before_s + wait_s <= int(refused.headers["x-ratelimit-reset"]) <= time.time() + wait_s, "as Laravel says"


def test_a_sender_without_a_limit_or_far_from_it_is_told_nothing(ingest: Ingest, system: System) -> None:
    own = {"x-tallyd-key": KEY}
    for path, body in ((EVENTS, event()), (BATCH, [event()])):
        assert told(ingest.post(body, path, headers=own)) == (202, None, None)
    with system.ingest(RATE_LIMIT__PER_MINUTE="1000000") as generous:
        assert told(generous.post(event())) == (202, None, None), "a single answer tells of 1,000 and less"
        assert told(generous.post([event()], BATCH))[:2] == (202, "1000000")


def test_addresses_do_not_share_a_limit(ingest: Ingest, visitor: httpx.Client) -> None:
    spend(visitor)
    with client(ingest, f"127.0.8.{next(_numbers)}") as other:
        spend(other)


@pytest.mark.parametrize(("body", "status"), [(b"{", 400), (b"{}", 422), (json.dumps(event(value=0)).encode(), 422)])
def test_requests_with_wrong_content_count_and_a_flood_of_them_ends_in_429(
    visitor: httpx.Client, body: bytes, status: int
) -> None:
    answers = [visitor.post(EVENTS, content=body).status_code for _ in range(PER_MINUTE)]
    assert answers == [status] * PER_MINUTE
    assert visitor.post(EVENTS, json=event()).status_code == 429
    assert visitor.post(EVENTS, content=body).status_code == 429


@pytest.mark.parametrize("wrong", ["key", "content type", "length"])
def test_requests_count_that_were_refused_before_their_body(
    visitor: httpx.Client, shared_system: System, address: str, wrong: str
) -> None:
    requests: dict[str, tuple[int, dict[str, Any]]] = {
        "key": (401, {"json": event(), "headers": {"x-tallyd-key": "x" * 20}}),
        "content type": (415, {"content": b"{}", "headers": {"content-type": "text/html"}}),
        "length": (413, {"content": b" " * 70_000}),
    }
    status, request = requests[wrong]
    for _ in range(3):
        assert visitor.post(EVENTS, **request).status_code == status
    wait_until(lambda: room(shared_system, address) <= PER_MINUTE - 3, "the three are charged")
    assert room(shared_system, address) >= PER_MINUTE - 4


def test_a_batch_costs_its_events_and_is_taken_as_far_as_the_limit_reaches(
    visitor: httpx.Client, shared_system: System
) -> None:
    spend(visitor, leave=2)
    batch = [event(entity_id=f"m{n}") for n in range(5)]
    answer = visitor.post(BATCH, json=batch)
    assert (answer.status_code, answer.json()) == (
        202, {"status": "accepted", "accepted": 2, "duplicates": 0, "rejected": [], "limited": 3}
    )  # fmt: skip
    assert 1 <= int(answer.headers["retry-after"]) <= 60 / PER_MINUTE
    assert sorted(shared_system.redis.scan_iter("anl:{0}:counters:jav:movie:m?")) == [
        f"anl:{{0}}:counters:jav:movie:m{n}".encode() for n in range(2)
    ], "the first ones"
    assert visitor.post(BATCH, json=batch[2:]).status_code == 429, "nothing is left for the rest"
    assert visitor.post(EVENTS, json=event()).status_code == 429, "the two paths share the limit"
    assert shared_system.ledger() == {"accepted:view": PER_MINUTE}


def test_the_events_that_were_not_taken_count_when_they_come_again(
    visitor: httpx.Client, shared_system: System, address: str
) -> None:
    spend(visitor, leave=2)
    batch = [event() for _ in range(5)]
    limited = visitor.post(BATCH, json=batch).json()["limited"]
    shared_system.redis.delete(f"anl:{{0}}:rate:{address}")
    own = {"x-tallyd-key": KEY}
    assert visitor.post(BATCH, json=batch[-limited:], headers=own).json()["accepted"] == 3
    assert shared_system.ledger() == {"accepted:view": PER_MINUTE + 3}


def test_a_batch_of_several_calls_is_taken_as_far_as_the_limit_reaches(
    visitor: httpx.Client, shared_system: System
) -> None:
    answer = visitor.post(BATCH, json=[event() for _ in range(CALL_EVENTS_MAX + 1)])
    assert answer.status_code == 202
    assert answer.json()["accepted"] == PER_MINUTE
    assert answer.json()["limited"] == CALL_EVENTS_MAX + 1 - PER_MINUTE
    assert visitor.post(BATCH, json=[event() for _ in range(CALL_EVENTS_MAX + 1)]).status_code == 429
    assert shared_system.ledger() == {"accepted:view": PER_MINUTE}


def test_a_limit_of_new_entities_holds_up_no_other_events(system: System) -> None:
    with system.ingest(RATE_LIMIT__PER_MINUTE="600", RATE_LIMIT__NEW_ENTITIES_PER_MINUTE="1") as ingest:
        answers = [told(ingest.post(event(entity_id=id_))) for id_ in "aabaa"]
    assert [status for status, _, _ in answers] == [202, 202, 429, 202, 202]
    left = [int(remaining or -1) for _, _, remaining in answers]
    assert left[0] < 600
    assert left[2] > 500, "the events are not spent"


def test_sixty_batches_of_2_000_new_entities_are_counted_up_to_the_limit(
    visitor: httpx.Client, shared_system: System
) -> None:
    began, taken = time.monotonic(), 0
    for _ in range(60):
        answer = visitor.post(BATCH, json=[event(entity_id=f"new-{n}") for n in range(2_000)])
        assert answer.status_code in (202, 429)
        taken += answer.json().get("accepted", 0)
    assert PER_MINUTE <= taken <= PER_MINUTE + (time.monotonic() - began) * PER_MINUTE / 60
    assert shared_system.ledger() == {"accepted:view": taken}
    assert shared_system.redis.scard("anl:{0}:dirty") <= taken


@pytest.mark.parametrize("good", [0, 1])
def test_refused_events_of_a_batch_count(visitor: httpx.Client, shared_system: System, address: str, good: int) -> None:
    answer = visitor.post(BATCH, json=[event() for _ in range(good)] + [{}] * 3)
    assert answer.status_code == (202 if good else 422)
    wait_until(lambda: room(shared_system, address) <= PER_MINUTE - 4, "they are charged")
    assert room(shared_system, address) >= PER_MINUTE - 5


def test_a_producer_with_a_key_is_exempt(visitor: httpx.Client, shared_system: System) -> None:
    own = {"x-tallyd-key": KEY}
    assert {visitor.post(EVENTS, json=event(), headers=own).status_code for _ in range(100)} == {202}
    assert not list(shared_system.redis.scan_iter("anl:{0}:rate:*"))
    assert visitor.post(EVENTS, json=event()).status_code == 202, "what it sent counts for no one"


def test_a_producer_is_let_in_from_an_address_over_its_limit_and_what_was_refused_is_counted(
    visitor: httpx.Client, shared_system: System
) -> None:
    spend(visitor)
    same = event(entity_id="again")
    assert visitor.post(EVENTS, json=same).status_code == 429
    assert visitor.post(EVENTS, json=same, headers={"x-tallyd-key": KEY}).status_code == 202
    assert shared_system.redis.exists("anl:{0}:counters:jav:movie:again")


def test_after_the_time_named_there_is_room_again(visitor: httpx.Client, shared_system: System, address: str) -> None:
    spend(visitor)
    seconds, _ = shared_system.redis.time()
    # As if most of the time until the next event had passed.
    shared_system.redis.set(f"anl:{{0}}:rate:{address}", int((seconds + 52) * 1e6), px=60_000)
    refused = visitor.post(EVENTS, json=event())
    assert refused.status_code == 429
    assert 1 <= int(refused.headers["retry-after"]) <= 3
    time.sleep(int(refused.headers["retry-after"]))
    assert visitor.post(EVENTS, json=event()).status_code == 202
    assert visitor.post(EVENTS, json=event()).status_code == 429


def test_asking_for_the_state_is_not_limited(visitor: httpx.Client) -> None:
    spend(visitor)
    assert visitor.post(EVENTS, json=event()).status_code == 429
    for path in ("/healthz", "/livez", "/readyz", "/version"):
        assert visitor.get(path).status_code == 200


def calls(system: System) -> dict[str, int]:
    """Redis commands carried out so far, of those a request could have caused. A script's own commands count too."""
    stats = system.redis.info("commandstats")
    return {name.removeprefix("cmdstat_"): each["calls"] for name, each in stats.items()}


def test_a_request_within_its_limit_takes_one_round_trip_at_most(visitor: httpx.Client, shared_system: System) -> None:
    visitor.post(EVENTS, json=event())
    shared_system.redis.config_resetstat()
    for _ in range(4):
        assert visitor.post(EVENTS, json=event()).status_code == 202
    done = calls(shared_system)
    assert done["psetex"] == 4, "counted in the call that carried the event"
    in_scripts = {
        "type", "time", "get", "psetex", "hmget", "hset", "hincrby", "sadd", "dbsize", "ttl", "sismember", "expireat",
        "pexpire", "exists", "hgetall",
    }  # fmt: skip
    assert done.keys() - in_scripts <= {"evalsha", "info", "wait", "config|resetstat"}


def test_a_flood_is_refused_without_asking_redis(visitor: httpx.Client, shared_system: System) -> None:
    spend(visitor)
    visitor.post(EVENTS, json=event())  # over one connection, so to one worker
    shared_system.redis.config_resetstat()
    assert {visitor.post(EVENTS, json=event()).status_code for _ in range(50)} == {429}
    assert calls(shared_system).get("psetex", 0) <= 1, "the other worker asks once, if a connection is made anew"
