"""The cache of answers: bounded in bytes and time, and one read for all who ask at once."""

from __future__ import annotations

import asyncio
import gc
from http import HTTPStatus

import pytest

from daemon.errors import StoreError
from daemon.read.cache import ENTRY_BYTES, SPELLING_BYTES, SPELLINGS_MAX, Cache
from daemon.response import JSON, Response
from tests.kit.loop import in_loop

BODY = b"x" * 1_000
BYTES = ENTRY_BYTES + len(BODY) + 1 + SPELLING_BYTES + 2


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def answer(body: bytes = BODY) -> Response:
    return Response(HTTPStatus.OK, body, [JSON])


ANSWER = answer()


def test_an_entry_is_good_until_its_time_is_over() -> None:
    clock = Clock()
    cache = Cache(10 * BYTES, clock)
    cache.put("a", ("a", "?"), ANSWER, 1.0)
    clock.now_s += 0.99
    assert cache.spelled(("a", "?")) is ANSWER
    clock.now_s += 0.01
    assert cache.spelled(("a", "?")) is None


def test_the_least_recently_asked_for_is_forgotten_first() -> None:
    cache = Cache(3 * BYTES, Clock())
    for name in "abc":
        cache.put(name, (name, "?"), ANSWER, 1.0)
    cache.spelled(("a", "?"))
    cache.put("d", ("d", "?"), ANSWER, 1.0)
    assert [name for name in "abcd" if cache.spelled((name, "?"))] == ["a", "c", "d"]


def test_bytes_are_counted_whatever_is_replaced_expires_or_is_too_large() -> None:
    clock = Clock()
    cache = Cache(3 * BYTES, clock)
    for _ in range(10):
        cache.put("a", ("a", "?"), ANSWER, 1.0)
    cache.put("b", ("b", "?"), ANSWER, 9.0)
    clock.now_s += 5
    assert cache.spelled(("a", "?")) is None
    cache.put("c", ("c", "?"), ANSWER, 9.0)
    cache.put("d", ("d", "?"), ANSWER, 9.0)
    assert all(cache.spelled((name, "?")) for name in "bcd")
    cache.put("e", ("e", "?"), answer(b"x" * 4 * BYTES), 9.0)
    assert cache._bytes == 0
    assert not any(cache.spelled((name, "?")) for name in "bcde")


def test_a_question_is_kept_once_however_it_is_spelled() -> None:
    cache = Cache(10 * BYTES, Clock())
    cache.put("a", ("a", ""), ANSWER, 1.0)
    for n in range(1, 1_000):
        assert cache.get("a", ("a", "&" * n)) is ANSWER
    assert cache.spelled(("a", "&")) is ANSWER
    assert cache.spelled(("a", "&" * SPELLINGS_MAX)) is None
    assert cache._bytes < 2 * BYTES
    assert len(cache._spelled) == SPELLINGS_MAX


def test_a_spelling_that_means_another_question_by_now_is_that_ones() -> None:
    """A series without an end is another one the next day."""
    clock = Clock()
    cache, later = Cache(10 * BYTES, clock), answer(b"later")
    cache.put("a until Monday", ("a", ""), ANSWER, 1.0)
    cache.put("a until Tuesday", ("a", ""), later, 9.0)
    clock.now_s += 5
    assert cache.get("a until Monday", ("a", "to=Monday")) is None
    assert cache.spelled(("a", "")) is later


@in_loop
async def test_who_asks_meanwhile_shares_the_read_and_a_later_one_reads_anew() -> None:
    cache, reads, gate = Cache(BYTES, Clock()), [], asyncio.Event()

    async def read() -> Response:
        reads.append(1)
        await gate.wait()
        return ANSWER

    asked = [asyncio.create_task(cache.join("a", read)) for _ in range(5)]
    other = asyncio.create_task(cache.join("b", read))
    await asyncio.sleep(0)
    asked[0].cancel()  # the one who began it goes away
    await asyncio.sleep(0)
    gate.set()
    assert await asyncio.gather(*asked[1:], other) == [ANSWER] * 5
    assert len(reads) == 2
    await cache.join("a", read)
    assert len(reads) == 3


@in_loop
async def test_a_failure_is_told_to_all_and_not_kept() -> None:
    cache = Cache(BYTES, Clock())

    async def fail() -> Response:
        await asyncio.sleep(0)
        raise StoreError("away")

    async def read() -> Response:
        return ANSWER

    found = await asyncio.gather(*(cache.join("a", fail) for _ in range(3)), return_exceptions=True)
    assert [str(error) for error in found] == ["away"] * 3
    assert await cache.join("a", read) == ANSWER


@in_loop
async def test_a_failure_nobody_waits_for_is_no_noise(caplog: pytest.LogCaptureFixture) -> None:
    cache, gate = Cache(BYTES, Clock()), asyncio.Event()

    async def fail() -> Response:
        await gate.wait()
        raise StoreError("away")

    asked = asyncio.create_task(cache.join("a", fail))
    await asyncio.sleep(0)
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    gate.set()
    await asyncio.sleep(0.01)
    del asked
    gc.collect()
    assert caplog.records == []


def test_an_answer_may_be_kept_for_when_it_cannot_be_read() -> None:
    clock = Clock()
    cache = Cache(10 * BYTES, clock)
    cache.put("a", ("a", "?"), ANSWER, 1.0, stale_s=60.0)
    cache.put("b", ("b", "?"), ANSWER, 1.0)
    clock.now_s += 1
    for name in "ab":
        assert cache.spelled((name, "?")) is cache.get(name, (name, "?")) is None
    assert cache.stale("a") is ANSWER
    assert cache.stale("b") is None
    clock.now_s += 60
    assert cache.stale("a") is None
