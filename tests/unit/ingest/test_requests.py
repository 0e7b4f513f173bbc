"""The open requests of a worker: never too many, no body for ever, and a gentle end."""

from __future__ import annotations

import asyncio
from typing import Any

from daemon.config import Http
from daemon.ingest import response
from daemon.ingest.requests import CutOffError, OpenRequests
from daemon.metrics import IngestTally
from tests.kit.loop import in_loop

HTTP = Http(requests_in_flight_max=2, body_timeout_ms=100, drain_timeout_s=1, closing_ms=3_000)


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
    return OpenRequests(http, IngestTally())


@in_loop
async def test_there_are_never_more_than_allowed() -> None:
    requests = open_requests()
    readers = [Reader() for _ in range(3)]
    assert [requests.enter(reader) for reader in readers] == [True, True, False]
    assert not requests.begin(), "one too many"
    requests.leave(response.ACCEPTED)
    requests.has_read(readers[0])
    requests.leave(response.ACCEPTED)
    assert requests.begin()
    requests.abandon()
    assert requests.enter(readers[2])


@in_loop
async def test_a_late_body_is_given_up_and_one_that_is_there_is_not() -> None:
    requests = open_requests()
    late, read = Reader(), Reader()
    requests.enter(late)
    requests.enter(read)
    requests.has_read(read)
    await late.given_up.wait()
    assert not read.given_up.is_set()
    requests.has_read(late)


@in_loop
async def test_a_body_is_read_or_the_answer_says_why_not() -> None:
    requests = open_requests()

    async def read(answer: Any) -> Any:
        body: Any = Body(answer)
        return await requests.read(body, -1, 3)

    assert await read(b"abc") == b"abc"
    assert await read(b"abcd") is None
    assert await read(None) is None
    assert await read(CutOffError()) is response.BODY_CUT_OFF
    assert await asyncio.create_task(read(asyncio.Event)) is response.BODY_TIMEOUT


@in_loop
async def test_a_worker_that_stops_is_no_late_body() -> None:
    requests = open_requests(Http(body_timeout_ms=60_000))
    body: Any = Body(asyncio.Event)
    reading = asyncio.create_task(requests.read(body, -1, 3))
    await asyncio.sleep(0)
    reading.cancel()
    await asyncio.wait([reading])
    assert reading.cancelled()


@in_loop
async def test_closing_gives_bodies_half_the_time_there_is() -> None:
    requests = open_requests(Http(body_timeout_ms=60_000, drain_timeout_s=1, closing_ms=3_000))
    reader = Reader()
    requests.enter(reader)
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
    requests.leave(response.ACCEPTED)
    assert [requests.was_busy(), requests.was_busy()] == [True, False]
