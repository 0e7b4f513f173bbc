"""Many requests of one address at a moment: they cost that address, and nobody else's events or the worker's memory."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import ExitStack

import httpx
import psutil
import pytest

from daemon.config import Config
from tests.kit.system import BATCH, EVENTS, System, event, wait_until
from tests.kit.wire import Wire, request

LIMITED = {"RATE_LIMIT__PER_MINUTE": "60", "BUDGET__PER_MINUTE": "3000"}
LARGE = b"[" + b" " * (Config().http.batch_bytes_max - 2) + b"]"


def memory(workers: list[psutil.Process]) -> int:
    return sum(worker.memory_info().rss for worker in workers)


def test_of_many_batches_at_once_one_is_taken_as_far_as_the_limit_reaches(system: System) -> None:
    with system.ingest(**LIMITED) as ingest, ExitStack() as stack:
        body = request(json.dumps([event() for _ in range(2_000)]).encode(), BATCH)
        wires = [stack.enter_context(Wire(ingest.url)) for _ in range(40)]
        for wire in wires:
            wire.send(body[:-1])
        for wire in wires:
            wire.send(body[-1:])
        with httpx.Client(base_url=ingest.url, transport=httpx.HTTPTransport(local_address="127.0.0.9")) as other:
            assert {other.post(EVENTS, json=event()).status_code for _ in range(20)} == {202}
        answers = [wire.answer() for wire in wires]
        assert Counter(answer.status for answer in answers)[429] >= 38
        (taken, *_) = [answer.json() for answer in answers if answer.status == 202]
        assert taken["accepted"] + taken["limited"] == 2_000
        assert taken["accepted"] <= 60


@pytest.mark.parametrize("interface", ["rsgi", "asgi"])
def test_large_bodies_that_are_half_sent_take_no_more_memory_than_a_few(system: System, interface: str) -> None:
    with system.ingest(HTTP__INTERFACE=interface, **LIMITED) as ingest, ExitStack() as stack:
        before = memory(ingest.workers())
        wires = [stack.enter_context(Wire(ingest.url)) for _ in range(4 * Config().budget.unfinished_max)]
        for wire in wires:
            wire.send_what_is_taken(request(LARGE, BATCH)[:-1])
        wait_until(lambda: sum(wire.is_answered() for wire in wires) >= len(wires) // 2, "most of them are refused")
        assert memory(ingest.workers()) < 2 * before
