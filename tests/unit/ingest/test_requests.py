"""The open requests of a worker: never too many, no body for ever, and a gentle end."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from daemon.config import Budget, Http
from daemon.ingest import response
from daemon.ingest.accounts import Account
from daemon.ingest.requests import (
    BYTES_PER_PART_MIN,
    CROWD_PART,
    PARTS_FREE,
    BodyParts,
    CrowdedError,
    CutOffError,
    OpenRequests,
    TooManyPartsError,
)
from daemon.metrics import IngestTally
from tests.kit.loop import in_loop

BUDGET = Budget(unfinished_max=3)
HTTP = Http(unfinished_max=8, requests_in_flight_max=2, body_timeout_ms=100, drain_timeout_s=1, closing_ms=3_000)


class Reader:
    """Waits for a body."""

    def __init__(self) -> None:
        self.given_up = asyncio.Event()

    def cancel(self) -> None:
        self.given_up.set()


class Body:
    """A request whose body is what the test says: bytes, too many of them, never there, or cut off."""

    def __init__(self, answer: bytes | Exception | type[asyncio.Event] | None) -> None:
        self._answer = answer

    async def read(self, _length: int, _bytes_max: int) -> bytes | None:
        if isinstance(self._answer, Exception):
            raise self._answer
        if self._answer is asyncio.Event:
            await asyncio.Event().wait()
        return self._answer  # type: ignore[return-value]


def open_requests(http: Http = HTTP) -> OpenRequests:
    return OpenRequests(http, BUDGET, IngestTally())


def account(name: str = "198.51.100.7") -> Account:
    return Account(name, "", 0, lambda: 0.0)


@in_loop
async def test_a_place_is_taken_by_a_whole_body_only() -> None:
    requests = open_requests()
    readers = [Reader() for _ in range(3)]
    sender = account()
    assert all(requests.enter(reader, sender) for reader in readers)
    requests.begin()
    requests.begin()
    assert not requests.crowded, "bodies that are being sent take no place"
    assert not requests.has_read(readers[0], sender), "one too many"
    requests.leave(response.ACCEPTED, "event", 0.0)
    requests.abandon()
    assert requests.has_read(readers[1], sender)


@in_loop
async def test_a_sender_has_few_unfinished_bodies_and_leaves_room_for_others() -> None:
    requests = open_requests()
    sender, other = account("198.51.100.7"), account("198.51.100.8")
    readers = [Reader() for _ in range(9)]
    assert [requests.enter(reader, sender) for reader in readers[:4]] == [True, True, True, False]
    body: Any = Body(b"abc")
    assert await requests.read(body, sender, -1, 3) is response.TOO_MANY_BODIES
    requests.has_read(readers[0], sender)
    assert requests.enter(readers[0], sender), "the room is given back"
    assert all(requests.enter(reader, other) for reader in readers[4:7])
    many = [account(f"198.51.100.{number}") for number in range(20, 23)]
    assert [requests.enter(Reader(), each) for each in many] == [True, True, False], "the worker's own bound"
    with pytest.raises(CrowdedError):
        await requests.read(body, many[2], -1, 3)


@in_loop
async def test_one_sender_may_send_many_bodies_at_a_time_while_there_is_no_crowd() -> None:
    requests = open_requests(Http(unfinished_max=8 * CROWD_PART))
    sender = account()
    assert [requests.enter(Reader(), sender) for _ in range(9)] == [True] * 8 + [False]


@in_loop
async def test_a_late_body_is_given_up_and_one_that_is_there_is_not() -> None:
    requests = open_requests()
    late, read = Reader(), Reader()
    sender = account()
    requests.enter(late, sender)
    requests.enter(read, sender)
    requests.has_read(read, sender)
    await late.given_up.wait()
    assert not read.given_up.is_set()
    requests.has_read(late, sender)
    assert sender.unfinished == 0


@in_loop
async def test_a_body_is_read_or_the_answer_says_why_not() -> None:
    requests = open_requests()
    sender = account()

    async def read(answer: Any) -> Any:
        body: Any = Body(answer)
        requests.begin()
        try:
            return await requests.read(body, sender, -1, 3)
        finally:
            requests.abandon()

    assert await read(b"abc") == b"abc"
    assert await read(b"abcd") is None
    assert await read(None) is None
    assert await read(CutOffError()) is response.BODY_CUT_OFF
    assert await read(TooManyPartsError()) is response.BODY_IN_PARTS
    assert await asyncio.create_task(read(asyncio.Event)) is response.BODY_TIMEOUT
    assert not requests.was_busy(), "nothing is left open"
    assert sender.unfinished == 0


def test_a_body_may_come_in_parts_but_not_in_crumbs() -> None:
    body = BodyParts(1_000_000)
    assert all(body.add(b"x" * BYTES_PER_PART_MIN) for _ in range(1_000))
    assert body.whole() == b"x" * BYTES_PER_PART_MIN * 1_000
    crumbs = BodyParts(1_000_000)
    assert all(crumbs.add(b"x") for _ in range(PARTS_FREE))
    with pytest.raises(TooManyPartsError):
        crumbs.add(b"x")
    assert not BodyParts(3).add(b"four")


@in_loop
async def test_a_worker_that_stops_is_no_late_body() -> None:
    requests = open_requests(Http(body_timeout_ms=60_000))
    body: Any = Body(asyncio.Event)
    reading = asyncio.create_task(requests.read(body, account(), -1, 3))
    await asyncio.sleep(0)
    reading.cancel()
    await asyncio.wait([reading])
    assert reading.cancelled()


@in_loop
async def test_closing_gives_bodies_half_the_time_there_is() -> None:
    requests = open_requests(Http(body_timeout_ms=60_000, drain_timeout_s=1, closing_ms=3_000))
    reader = Reader()
    requests.enter(reader, account())
    assert requests.close() == 3
    assert requests.closing
    await reader.given_up.wait()
    assert requests.close() == 3, "closing twice changes nothing"


@in_loop
async def test_a_closing_worker_was_busy_while_requests_are_open_and_once_after_each_answer() -> None:
    requests = open_requests()
    assert not requests.was_busy()
    requests.begin()
    assert requests.was_busy()
    requests.close()
    requests.leave(response.ACCEPTED, "event", 0.0)
    assert [requests.was_busy(), requests.was_busy()] == [True, False]
