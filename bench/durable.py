"""`appendfsync always` against everysec: single events, the same worker, the same Redis with its setting changed."""

from __future__ import annotations

from bench import wrk
from bench.ground import INGEST, Ground
from bench.measure import Bar, Row, in_turn
from bench.settings import Settings
from bench.single import CONNECTIONS, PATH, WHAT, counted_run

BARS = (Bar("ratio", "at least", 0.6),)


def measure(ground: Ground, settings: Settings) -> list[Row]:
    """One row."""
    runs: list[wrk.Result] = []

    def events_per_second(appendfsync: str) -> float:
        ground.redis.config_set("appendfsync", appendfsync)
        try:
            run = counted_run(ground, tallyd, PATH, events=1, connections=CONNECTIONS, seconds=settings.http_s)
        finally:
            ground.redis.config_set("appendfsync", "everysec")
        if appendfsync == "always":
            runs.append(run)
        return run.per_second

    with ground.served(INGEST) as tallyd:
        ground.forget()
        ground.warm_dedupe()
        rounds = in_turn(
            settings.rounds,
            lambda _: events_per_second("always"),
            lambda _: events_per_second("everysec"),
            again_max=settings.again_max,
        )
        ground.verify_counts()
    return [
        Row(
            name="durable",
            what=f"{WHAT}, appendfsync always",
            unit="events/s",
            ours=rounds.values[0],
            peer=rounds.values[1],
            peer_name="the same with appendfsync everysec",
            bars=BARS,
            others=rounds.others,
            p50_ms=wrk.median_ms([run.p50_us for run in runs]),
            p99_ms=wrk.median_ms([run.p99_us for run in runs]),
        )
    ]
