"""Too much at once, and clients that don't finish: what is refused is told so, and nobody else notices."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx
import psutil
import pytest

from daemon.ingest.requests import CROWD_PART
from tests.kit.servers import RedisServer
from tests.kit.system import BATCH, EVENTS, Ingest, System, event, wait_until
from tests.kit.wire import Wire, assert_unavailable, chunked, head, request

IN_FLIGHT_MAX = UNFINISHED_MAX = 4
CONFIG = {
    "HTTP__REQUESTS_IN_FLIGHT_MAX": str(IN_FLIGHT_MAX),
    "BUDGET__UNFINISHED_MAX": str(UNFINISHED_MAX),
    "HTTP__UNFINISHED_MAX": str(CROWD_PART),
    "HTTP__BODY_TIMEOUT_MS": "3000",
    "INGEST__RETRY_AFTER_S": "7",
}
GOOD = json.dumps(event(entity_id="m")).encode()


# Half-sent bodies -------------------------------------------------------------------------------------------------


def test_a_body_that_does_not_arrive_is_given_up(ingest: Ingest, shared_system: System) -> None:
    start, chunks = (
        head(content_type="application/json", **framing)
        for framing in ({"content_length": len(GOOD)}, {"transfer_encoding": "chunked"})
    )
    half_sent = [start, start + GOOD[:-1], chunks, chunks + chunked(GOOD, end=False)]
    assert len(half_sent) == IN_FLIGHT_MAX
    with ExitStack() as stack:
        wires = [stack.enter_context(Wire(ingest.url)) for _ in half_sent]
        for wire, sent in zip(wires, half_sent, strict=True):
            wire.send(sent)
        for wire in wires:
            answer = wire.answer()
            assert answer.status == 408
            assert set(answer.json()) == {"message"}
            assert answer.headers["connection"] == "close"
            assert wire.rest() == b""
    assert shared_system.redis.keys("anl:{*") == []


def test_half_sent_bodies_hold_nobody_else_up(ingest: Ingest) -> None:
    with ExitStack() as stack:
        for _ in range(IN_FLIGHT_MAX - 1):
            stack.enter_context(Wire(ingest.url)).send(request(GOOD)[:-5])
        for _ in range(20):
            assert ingest.post(event()).status_code == 202


def test_clients_that_go_away_in_the_middle_do_no_harm(ingest: Ingest, shared_system: System) -> None:
    for _ in range(5 * IN_FLIGHT_MAX):
        with Wire(ingest.url) as wire:
            wire.send(request(GOOD)[:-5])
    wait_until(lambda: ingest.post(event(entity_id="other")).status_code == 202, "their places are free again")
    assert not shared_system.redis.exists("anl:{0}:counters:jav:movie:m")


# Requests in flight -----------------------------------------------------------------------------------------------


def test_half_sent_bodies_take_no_place(ingest: Ingest) -> None:
    with ExitStack() as stack:
        wires: list[Wire] = []

        def refuses() -> bool:
            wires.append(stack.enter_context(Wire(ingest.url)))
            wires[-1].send(request(GOOD)[:-5])
            return ingest.post(event()).status_code == 429

        wait_until(refuses, "one address sends so many bodies at a time")
        wires = [wire for wire in wires if not wire.is_answered()]
        assert len(wires) == UNFINISHED_MAX
        with httpx.Client(base_url=ingest.url, transport=httpx.HTTPTransport(local_address="127.0.0.9")) as other:
            assert other.post(EVENTS, json=event()).status_code == 202
            assert other.post(BATCH, json=[event()]).status_code == 202
        for wire in wires:
            wire.send(GOOD[-5:])
            assert wire.answer().status == 202
        assert ingest.post(event()).status_code == 202


def test_over_the_requests_in_flight_the_answer_is_503(system: System, tmp_path: Path) -> None:
    with RedisServer(7, tmp_path) as server, system.ingest(
        REDIS__URL=server.url, REDIS__TIMEOUT_MS="20000", SPOOL__DIR="", **CONFIG | {"HTTP__UNFINISHED_MAX": "8192"}
    ) as ingest:  # fmt: skip
        assert ingest.post(event()).status_code == 202
        server.freeze()
        with ExitStack() as stack:
            wires = [stack.enter_context(Wire(ingest.url)) for _ in range(2 * IN_FLIGHT_MAX)]
            for wire in wires:
                wire.send(request(json.dumps(event()).encode()))
            wait_until(lambda: sum(wire.is_answered() for wire in wires) == IN_FLIGHT_MAX, "half of them are refused")
            refused = [wire for wire in wires if wire.is_answered()]
            for wire in refused:
                assert_unavailable(wire.answer(), 7)
            assert_unavailable(ingest.post(event()), 7)
            assert_unavailable(ingest.post([event()], BATCH), 7)
            server.thaw()
            assert all(wire.answer().status == 202 for wire in wires if wire not in refused)
        assert ingest.post(event()).status_code == 202


# A full queue -----------------------------------------------------------------------------------------------------

QUEUE_MAX = 6


@pytest.fixture
def slow(system: System, tmp_path: Path) -> Iterator[tuple[Ingest, RedisServer]]:
    """A daemon with a tiny queue, and a Redis of its own that a test may hold still."""
    with RedisServer(7, tmp_path) as server, system.ingest(
        REDIS__URL=server.url, REDIS__TIMEOUT_MS="20000", INGEST__QUEUE_EVENTS_MAX=str(QUEUE_MAX),
        INGEST__CALLS_IN_FLIGHT_MAX="1", HTTP__BATCH_EVENTS_MAX=str(QUEUE_MAX), SPOOL__DIR="",
    ) as ingest:  # fmt: skip
        yield ingest, server


def test_over_the_queue_the_answer_is_503_and_what_waits_is_counted(slow: tuple[Ingest, RedisServer]) -> None:
    ingest, server = slow

    def post(n: int) -> tuple[int, str, httpx.Response]:
        sent = event(entity_id=f"m{n}")
        return n, sent["event_id"], httpx.post(ingest.url + EVENTS, json=sent, timeout=30)

    assert ingest.post(event(entity_id="first")).status_code == 202
    with server.client() as redis, ThreadPoolExecutor(30) as pool:
        redis.execute_command("CLIENT PAUSE", 60_000, "WRITE")
        futures: list[Future[tuple[int, str, httpx.Response]]] = [pool.submit(post, n) for n in range(30)]
        # Those of the call that Redis doesn't answer, and a full queue behind it.
        wait_until(lambda: sum(map(_refused, futures)) >= 30 - 2 * QUEUE_MAX, "the others are refused")
        redis.execute_command("CLIENT UNPAUSE")
        answers = [future.result() for future in futures]
    for _, _, answer in answers:
        if answer.status_code != 202:
            assert_unavailable(answer, 1)
    taken = {f"m{n}" for n, _, answer in answers if answer.status_code == 202}
    assert QUEUE_MAX <= len(taken) <= 2 * QUEUE_MAX
    prefix = "anl:{0}:counters:jav:movie:"
    with server.client() as redis:
        counted = {key.decode().removeprefix(prefix): redis.hvals(key) for key in redis.scan_iter(f"{prefix}*")}
    assert counted == {"first": [b"1"]} | {movie: [b"1"] for movie in taken}
    assert Counter(answer.status_code for _, _, answer in answers).keys() == {202, 503}


def _refused(future: Future[tuple[int, str, httpx.Response]]) -> bool:
    return future.done() and future.result()[2].status_code == 503


def test_the_largest_batch_fits_into_an_empty_queue(slow: tuple[Ingest, RedisServer]) -> None:
    ingest, _ = slow
    assert ingest.post([event() for _ in range(QUEUE_MAX)], BATCH).json()["accepted"] == QUEUE_MAX
    assert ingest.post([event() for _ in range(QUEUE_MAX + 1)], BATCH).status_code == 422


# Answers that nobody takes ----------------------------------------------------------------------------------------


def test_a_client_that_takes_no_answer_loses_its_connection(system: System) -> None:
    with system.ingest(HTTP__ANSWER_TIMEOUT_MS="1000") as ingest, Wire(ingest.url, receive_bytes=1_024) as wire:
        asked = head("/openapi.json", "GET") * 500
        with contextlib.suppress(ConnectionError, TimeoutError):
            wire.send(asked)
        (worker,) = ingest.workers()
        assert _of(worker, wire)
        wait_until(lambda: not _of(worker, wire), "the worker closes it")
        assert ingest.post(event()).status_code == 202


def _of(worker: psutil.Process, wire: Wire) -> list[object]:
    """The worker's end of the connection."""
    return [each for each in worker.net_connections("tcp") if each.raddr == wire.local]
