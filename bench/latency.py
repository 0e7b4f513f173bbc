"""Latency of single events at half of the maximum throughput, while the flusher drains; and without it.

The flusher is the real daemon. So many entities are made dirty beforehand that it has work until after the last event.
"""

from __future__ import annotations

import time

from bench import events, paced
from bench.ground import INGEST, Ground, GroundError
from bench.measure import Bar, Row, in_turn
from bench.paced import Latencies
from bench.settings import Settings
from bench.single import CONNECTIONS, PATH, counted_run

SHARE_OF_MAXIMUM = 0.5
BACKLOG_ENTITIES = 100_000
BARS = (Bar("value", "at most", 10),)
START_TIMEOUT_S = 15.0


def measure(ground: Ground, settings: Settings) -> list[Row]:
    """One row."""
    with_flusher: list[Latencies] = []
    with ground.served(INGEST) as tallyd:
        ground.forget()
        ground.warm_dedupe()
        counted_run(ground, tallyd, PATH, events=1, connections=CONNECTIONS, seconds=1)
        fastest = counted_run(
            ground, tallyd, PATH, events=1, connections=CONNECTIONS, seconds=settings.http_s
        ).per_second
        rate = fastest * SHARE_OF_MAXIMUM

        def answer() -> Latencies:
            tallyd.check()
            return paced.run(tallyd.url, PATH, per_second=rate, seconds=settings.http_s, connections=CONNECTIONS)

        def draining(_: int) -> float:
            _make_dirty(ground)
            with ground.flusher() as flusher:
                deadline = time.monotonic() + START_TIMEOUT_S
                while ground.dirty() >= BACKLOG_ENTITIES:
                    if not flusher.running or time.monotonic() > deadline:
                        raise GroundError(f"The flusher does not flush. What it said:\n{flusher.text()}")
                    time.sleep(0.01)
                with_flusher.append(answer())
                if (left := ground.dirty()) <= events.ENTITIES:
                    raise GroundError(f"The flusher had only {left} entities left: it may have rested meanwhile.")
            return with_flusher[-1].p99_ms

        rounds = in_turn(settings.rounds, draining, lambda _: answer().p99_ms, again_max=settings.again_max)
    return [
        paced.row(
            name="latency",
            what=f"99th percentile of {rate:,.0f} single events/s, half of the maximum, while the flusher drains",
            rounds=rounds,
            peer_name="the same without the flusher",
            bars=BARS,
            watched=with_flusher,
        )
    ]


def _make_dirty(ground: Ground) -> None:
    ground.rest()
    config = ground.config()
    with ground.pipeline() as pipeline:
        pipeline.run(events.calls(config, events.spread(config, BACKLOG_ENTITIES, BACKLOG_ENTITIES), 1000))
