"""Single events over HTTP: 64 connections, one worker, no rate limit; against a bare application on the same server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from msgspec.structs import replace

from bench import wrk
from bench.ground import BARE, INGEST, ROOT, Ground, GroundError, Served
from bench.measure import Bar, Row, in_turn
from bench.peers.bare import EAGER_PATH
from bench.settings import Settings

PATH = "/api/v1/analytics/events"
CONNECTIONS = 64
BARS = (Bar("ratio", "at least", 0.5),)


def measure(ground: Ground, settings: Settings) -> list[Row]:
    """Two rows: against the peer as ASGI wants it, and for information against the least this server can do."""
    with both(ground) as (tallyd, bare):
        ground.empty()
        ground.warm_dedupe()
        runs: list[wrk.Result] = []

        def ours(_: int) -> float:
            runs.append(counted_run(ground, tallyd, PATH, events=1, connections=CONNECTIONS, seconds=settings.http_s))
            return runs[-1].per_second

        def peer(path: str) -> float:
            bare.check()
            return wrk.run(bare.url + path, events=1, connections=CONNECTIONS, seconds=settings.http_s).per_second

        rounds = in_turn(
            settings.rounds, ours, lambda _: peer(PATH), lambda _: peer(EAGER_PATH), again_max=settings.again_max
        )
        ground.verify_counts()
    mine, plain, eager = rounds.values
    row = Row(
        name="single",
        what="single events, 64 connections, 1 worker",
        unit="events/s",
        ours=mine,
        peer=plain,
        peer_name="a bare Granian app that reads the body, answers 202",
        bars=BARS,
        others=rounds.others,
        p50_ms=wrk.median_ms([run.p50_us for run in runs]),
        p99_ms=wrk.median_ms([run.p99_us for run in runs]),
    )
    least = "one that stops at Content-Length, the least there is"
    return [row, replace(row, name="single-eager", what="the same", peer=eager, peer_name=least, bars=())]


@contextmanager
def both(ground: Ground, root: Path = ROOT) -> Iterator[tuple[Served, Served]]:
    """`tallyd ingest` and the bare peer, running."""
    with ground.served(INGEST, root) as tallyd, ground.served(BARE) as bare:
        yield tallyd, bare


def counted_run(
    ground: Ground, served: Served, path: str, *, events: int, connections: int, seconds: int
) -> wrk.Result:
    """A run of wrk after which the ledger must hold what was answered 202, and what was under way at the end.

    Raises GroundError otherwise: nothing is fast by losing.
    """
    ground.rest()
    served.check()
    before = ground.accepted()
    result = wrk.run(served.url + path, events=events, connections=connections, seconds=seconds)
    counted, answered = ground.accepted() - before, result.requests * events
    if not answered <= counted <= answered + connections * events:
        raise GroundError(f"{answered} events were answered 202, and {counted} were counted.")
    return result
