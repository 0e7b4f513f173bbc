"""Batches of 200 new events over HTTP: 4 connections, one worker; against `ingest.lua` alone with the same events."""

from __future__ import annotations

from bench import events, wrk
from bench.ground import INGEST, Ground, GroundError
from bench.measure import Bar, Row, in_turn
from bench.settings import Settings
from bench.single import counted_run

PATH = "/api/v1/analytics/events/batch"
CONNECTIONS = 4
EVENTS = 200
BARS = (Bar("value", "at least", 150_000), Bar("ratio", "at least", 0.5))


def measure(ground: Ground, settings: Settings) -> list[Row]:
    """One row."""
    with ground.served(INGEST) as tallyd, ground.pipeline() as pipeline:
        ground.empty()
        ground.warm_dedupe()
        config = ground.config()
        runs: list[wrk.Result] = []

        def ours(_: int) -> float:
            runs.append(
                counted_run(ground, tallyd, PATH, events=EVENTS, connections=CONNECTIONS, seconds=settings.http_s)
            )
            return runs[-1].per_second * EVENTS

        def peer(_: int) -> float:
            prepared = events.calls(config, events.admitted(config, settings.alone_events), EVENTS)
            ground.rest()
            seconds, counted = pipeline.run(prepared)
            if counted != settings.alone_events:
                raise GroundError(f"{settings.alone_events} events were sent, and {counted} counted.")
            return counted / seconds

        rounds = in_turn(settings.rounds, ours, peer, again_max=settings.again_max)
        ground.verify_counts()
    return [
        Row(
            name="batch",
            what=f"batches of {EVENTS} new events, 4 connections, 1 worker",
            unit="events/s",
            ours=rounds.values[0],
            peer=rounds.values[1],
            peer_name="ingest.lua alone: encoded beforehand, pipelined",
            bars=BARS,
            others=rounds.others,
            p50_ms=wrk.median_ms([run.p50_us for run in runs]),
            p99_ms=wrk.median_ms([run.p99_us for run in runs]),
        )
    ]
