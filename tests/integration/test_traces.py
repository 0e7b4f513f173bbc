"""Spans that a real OTLP receiver gets: calls, claims, bulk writes, UPDATEs, and none per event."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from daemon.domain.rollup import COMPLETE, DOMAIN_DAILY
from tests.kit.system import BATCH, System, event, wait_until

ONE_SYSTEM = True
AWAY = "http://127.0.0.1:1/v1/traces"


class Span(NamedTuple):
    service: str
    name: str
    trace: bytes
    id: bytes
    parent: bytes
    attributes: dict[str, Any]
    failed: bool


class Collector:
    """Takes what an OTLP exporter sends, and answers once `gate` is open."""

    def __init__(self, port: int) -> None:
        self.endpoint = f"http://127.0.0.1:{port}/v1/traces"
        self.spans: list[Span] = []
        self.gate = threading.Event()
        self.gate.set()

    def take(self, body: bytes) -> None:
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            service = {each.key: each.value.string_value for each in resource.resource.attributes}["service.name"]
            for scope in resource.scope_spans:
                self.spans += [_span(service, each) for each in scope.spans]
        self.gate.wait()

    def named(self, name: str) -> list[Span]:
        return [each for each in self.spans if each.name == name]


def _span(service: str, sent: Any) -> Span:
    attributes = {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in sent.attributes}
    failed = sent.status.code == Status.STATUS_CODE_ERROR
    return Span(service, sent.name, sent.trace_id, sent.span_id, sent.parent_span_id, attributes, failed)


@contextmanager
def collecting() -> Iterator[Collector]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            collector.take(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        collector = Collector(server.server_port)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield collector
        collector.gate.set()
        server.shutdown()


@pytest.fixture
def collector(system: System) -> Iterator[Collector]:
    with collecting() as running:
        system.env |= {
            "TALLYD_TRACES__ENDPOINT": running.endpoint,
            "TALLYD_TRACES__CALLS_RATIO": "1",
            "OTEL_BSP_SCHEDULE_DELAY": "100",
        }
        yield running


def test_a_call_has_one_span_however_many_events_it_holds(system: System, collector: Collector) -> None:
    with system.ingest() as ingest:
        assert ingest.post([event() for _ in range(50)], BATCH).status_code == 202
        wait_until(lambda: collector.spans, "the call's span has come")
    (call,) = collector.named("ingest.lua")
    assert (call.service, call.failed) == ("tallyd-ingest", False)
    assert call.attributes == {"db.system.name": "redis", "tallyd.shard": 0, "tallyd.requests": 1}
    assert collector.spans == [call]


def test_a_flush_is_one_trace_and_a_sync_another(system: System, collector: Collector) -> None:
    system.add_movies("a")
    system.count(event(entity_id="a"), event(entity_id="b"))
    system.tallyd("flush", "--once")
    acked = collector.named("ack.lua")
    (flush,) = [each for each in collector.named("flush") if each.id == acked[0].parent]
    names = [f"{command} {COMPLETE[0].collection}" for command in ("update", "insert")]
    wrote = [each for name in names for each in collector.named(name) if each.parent == flush.id]
    assert [each.attributes["db.operation.batch.size"] for each in wrote] == [1, 2], "one statement for both; both new"
    assert {each.trace for each in (*acked, *wrote)} == {flush.trace}
    below = sorted(each.name for each in collector.spans if each.parent == flush.id)
    commands = [f"{command} {kind.collection}" for kind in COMPLETE for command in ("update", "insert")]
    assert below == sorted(["claim.lua", "ack.lua", *commands, f"update {DOMAIN_DAILY.collection}"])
    (update,) = collector.named("UPDATE jav")
    (sync,) = [each for each in collector.named("sync") if each.id == update.parent]
    assert (sync.parent, update.attributes["db.operation.batch.size"]) == (b"", 1), "b has no row"
    assert {each.service for each in collector.spans} == {"tallyd-flush"}


def test_what_failed_is_marked(system: System, collector: Collector) -> None:
    system.count(event())
    system.tallyd("flush", "--once", MYSQL__URL="mysql://root@127.0.0.1:1/x", check=False)
    assert [each.failed for each in collector.named("sync")] == [True]
    assert {each.failed for each in collector.named("flush")} == {False}


def test_without_an_endpoint_nothing_is_sent(system: System, collector: Collector) -> None:
    system.count(event())
    system.tallyd("flush", "--once", TRACES__ENDPOINT="")
    assert collector.spans == []


def test_a_share_of_calls_is_traced_and_every_claim(system: System, collector: Collector) -> None:
    with system.ingest(TRACES__CALLS_RATIO="0") as ingest:
        assert ingest.post(event()).status_code == 202
    system.tallyd("flush", "--once", TRACES__CALLS_RATIO="0")
    assert collector.named("ingest.lua") == []
    assert collector.named("claim.lua")


@pytest.mark.parametrize("spoil", [lambda system, _: system.env.update(TALLYD_TRACES__ENDPOINT=AWAY),
                                   lambda _, collector: collector.gate.clear()], ids=["away", "hangs"])  # fmt: skip
def test_a_collector_that_does_not_answer_costs_no_count(
    system: System, collector: Collector, spoil: Callable[[System, Collector], None]
) -> None:
    spoil(system, collector)
    system.count(event(entity_id="a"))
    with system.flusher(FLUSH__INTERVAL_S="0.1"):
        wait_until(lambda: system.rollup("totals") == {"jav:movie:a": {"view": 1}}, "it is flushed")
