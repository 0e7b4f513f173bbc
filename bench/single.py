"""Single events over HTTP: 64 connections, one worker; against what the same machine does in the same minute.

The peers: a bare application on the same server; nginx with LuaJIT doing a part of the work; FastAPI as a user would
write it. All take the same requests, one after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from bench import wrk
from bench.ground import BARE, INGEST, Ground, GroundError, Served
from bench.measure import Bar, Row, in_turn
from bench.peers import start
from bench.peers.bare import EAGER_PATH, SHORT_SLICES
from bench.peers.start import PeerStore
from bench.settings import Settings

PATH = "/api/v1/analytics/events"
CONNECTIONS = 64

WHAT = "single events, 64 connections, 1 worker"
BARE_NAME = "a bare Granian app that reads the body, answers 202"


def measure(ground: Ground, settings: Settings) -> list[Row]:
    """A row a peer, all from the same rounds of ours."""
    with ExitStack() as stack:
        tallyd, bare = stack.enter_context(both(ground))
        peers: dict[str, Callable[[int], float]] = {"single": lambda _: _answered(bare, PATH, settings)}
        if settings.peers:
            peers["single-eager"] = lambda _: _answered(bare, EAGER_PATH, settings)
            sliced = stack.enter_context(ground.served((*BARE, SHORT_SLICES)))
            peers["single-slices"] = lambda _: _answered(sliced, PATH, settings)
            store = stack.enter_context(start.store(ground))
            nginx = stack.enter_context(start.nginx(ground, store))
            fastapi = stack.enter_context(start.fastapi(ground, store))
            peers["single-nginx"] = lambda _: _counted(nginx, store, settings)
            peers["single-fastapi"] = lambda _: _counted(fastapi, store, settings)
        ground.forget()
        ground.warm_dedupe()
        runs: list[wrk.Result] = []

        def ours(_: int) -> float:
            runs.append(counted_run(ground, tallyd, PATH, events=1, connections=CONNECTIONS, seconds=settings.http_s))
            return runs[-1].per_second

        rounds = in_turn(settings.rounds, ours, *peers.values(), again_max=settings.again_max)
        ground.verify_counts()
    mine, *theirs = rounds.values
    return [
        Row(
            name=name,
            what=WHAT,
            unit="events/s",
            ours=mine,
            peer=values,
            peer_name=PEERS[name][0],
            bars=PEERS[name][1],
            others=rounds.others,
            p50_ms=wrk.median_ms([run.p50_us for run in runs]),
            p99_ms=wrk.median_ms([run.p99_us for run in runs]),
        )
        for name, values in zip(peers, theirs, strict=True)
    ]


PEERS: dict[str, tuple[str, tuple[Bar, ...]]] = {
    "single": (BARE_NAME, (Bar("ratio", "at least", 0.70),)),
    "single-eager": ("one that stops at Content-Length, the least there is", ()),
    "single-slices": ("the bare app in the short slices that tallyd's worker runs in", ()),
    "single-nginx": (
        "nginx, LuaJIT, cjson, one EVALSHA: dedupe, 1 increment, hardly any validation",
        (Bar("ratio", "at least", 0.75),),
    ),
    "single-fastapi": (
        "FastAPI, Uvicorn (uvloop, httptools), redis-py, as a user writes it",
        (Bar("ratio", "at least", 8),),
    ),
}


@contextmanager
def both(ground: Ground) -> Iterator[tuple[Served, Served]]:
    """`tallyd ingest` and the bare peer, running."""
    with ground.served(INGEST) as tallyd, ground.served(BARE) as bare:
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
    _compare("tallyd", result.requests * events, ground.accepted() - before, connections * events)
    return result


def _answered(bare: Served, path: str, settings: Settings) -> float:
    bare.check()
    return wrk.run(bare.url + path, events=1, connections=CONNECTIONS, seconds=settings.http_s).per_second


def _counted(served: Served, store: PeerStore, settings: Settings) -> float:
    """A run against a peer that counts; it must have counted, too."""
    store.empty()
    served.check()
    result = wrk.run(served.url + PATH, events=1, connections=CONNECTIONS, seconds=settings.http_s)
    _compare("The peer", result.requests, store.counted(), CONNECTIONS)
    return result.per_second


def _compare(who: str, answered: int, counted: int, under_way_max: int) -> None:
    if not answered <= counted <= answered + under_way_max:
        raise GroundError(f"{who} answered {answered} events 202, and counted {counted}.")
