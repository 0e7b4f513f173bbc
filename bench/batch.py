"""Batches of 200 new events over HTTP: 4 connections, one worker.

Speed against `ingest.lua` alone with the same events; Redis' CPU time an event against the plainest way to count, one
HINCRBY each, pipelined, without dedupe, ledger or dirty set.
"""

from __future__ import annotations

from bench import events, wrk
from bench.events import DAY
from bench.ground import INGEST, Ground, GroundError
from bench.measure import Bar, Row, in_turn
from bench.pipeline import pack
from bench.settings import Settings
from bench.single import counted_run

PATH = "/api/v1/analytics/events/batch"
CONNECTIONS = 4
EVENTS = 200
PLAIN_KEY = "plain:{}"
SPEED = (Bar("value", "at least", 250_000), Bar("ratio", "at least", 0.9))
REDIS_CPU = (Bar("value", "at most", 3.5),)


def measure(ground: Ground, settings: Settings) -> list[Row]:
    """Two rows: events a second, and Redis' CPU time an event."""
    config = ground.config()
    runs: list[wrk.Result] = []
    cpu_us: list[float] = []
    plain = plain_commands(settings.alone_events)

    with ground.served(INGEST) as tallyd, ground.pipeline() as pipeline:
        ground.forget()
        ground.warm_dedupe()

        def ours(_: int) -> float:
            ground.rest()
            before_s, accepted = ground.redis_cpu_s(), ground.accepted()
            runs.append(
                counted_run(ground, tallyd, PATH, events=EVENTS, connections=CONNECTIONS, seconds=settings.http_s)
            )
            cpu_us.append((ground.redis_cpu_s() - before_s) / (ground.accepted() - accepted) * 1e6)
            return runs[-1].per_second * EVENTS

        def ours_cpu(_: int) -> float:
            return cpu_us[-1]

        def alone(_: int) -> float:
            prepared = events.calls(config, events.admitted(config, settings.alone_events), EVENTS)
            ground.rest()
            seconds, counted = pipeline.run(prepared)
            if counted != settings.alone_events:
                raise GroundError(f"{settings.alone_events} events were sent, and {counted} counted.")
            return counted / seconds

        def plain_cpu(_: int) -> float:
            before_s = ground.redis_cpu_s()
            pipeline.send(plain, EVENTS)
            return (ground.redis_cpu_s() - before_s) / settings.alone_events * 1e6

        rounds = in_turn(settings.rounds, ours, ours_cpu, alone, plain_cpu, again_max=settings.again_max)
        ground.verify_counts()
    speed, ours_us, alone_speed, plain_us = rounds.values
    what = f"batches of {EVENTS} new events, {CONNECTIONS} connections, 1 worker"
    return [
        Row(
            name="batch",
            what=what,
            unit="events/s",
            ours=speed,
            peer=alone_speed,
            peer_name="ingest.lua alone: encoded beforehand, pipelined",
            bars=SPEED,
            others=rounds.others,
            p50_ms=wrk.median_ms([run.p50_us for run in runs]),
            p99_ms=wrk.median_ms([run.p99_us for run in runs]),
        ),
        Row(
            name="redis-cpu",
            what=f"Redis' CPU time for an event in {what}",
            unit="µs/event",
            ours=ours_us,
            peer=plain_us,
            peer_name="one HINCRBY an event, pipelined: no dedupe, ledger or dirty set",
            bars=REDIS_CPU,
            others=rounds.others,
        ),
    ]


def plain_commands(count: int) -> list[bytes]:
    """As many HINCRBY as events, over the same 5,000 entities, packed by the batch."""
    return [
        b"".join(
            pack("HINCRBY", PLAIN_KEY.format(number % events.ENTITIES), f"view:{DAY}", "1")
            for number in range(first, first + EVENTS)
        )
        for first in range(0, count, EVENTS)
    ]
