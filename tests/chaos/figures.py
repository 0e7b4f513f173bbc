"""How long recovering takes, and what `appendfsync always` costs: the figures in the documentation.

`python -m tests.chaos.figures` measures them. The daemons run with their own defaults (lease, intervals, time-outs,
batch sizes), and the lines in between lose nothing. Figures of one run belong together: one machine does it all.
"""

from __future__ import annotations

import http.client
import json
import secrets
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import typer

from bench import wrk
from daemon import config as configuration
from tests.chaos.world import READY_TIMEOUT_S, World, raised
from tests.kit.events import BATCH, EVENTS, event
from tests.kit.proxy import Fault, update_of
from tests.kit.wait import wait_until

DEFAULTS = configuration.load(environ={"TALLYD_REDIS__URL": "redis://x"})
ROUNDS = 5
KILLS = 3
ROUND_S = 4
CONNECTIONS = 64
DOWN_S = 60.0
DOWN_EVENTS_PER_S = 2_000.0
BATCH_EVENTS = 100
MOVIES = 5_000


def main(
    only: Annotated[str, typer.Option(help="fsync, flusher or redis. Default: all.")] = "",
    down_s: Annotated[float, typer.Option(help="How long Redis is away.")] = DOWN_S,
) -> None:
    """Measure and print as JSON.

    Example: `.venv/bin/python -m tests.chaos.figures`
    """
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="tallyd-figures-") as folder:
        if only in ("", "fsync"):
            found["appendfsync"] = fsync(Path(folder) / "a")
        if only in ("", "flusher"):
            found["flusher_killed"] = flusher_killed(Path(folder) / "b")
        if only in ("", "redis"):
            found["redis_away"] = redis_away(Path(folder) / "c", down_s)
    typer.echo(json.dumps(found, indent=2))


def fsync(folder: Path) -> dict[str, Any]:
    """Single events over HTTP, rounds with `everysec` and `always` in turn, in one Redis."""
    rates: dict[str, list[float]] = {"everysec": [], "always": []}
    with _raised(folder, appendfsync="everysec") as world:
        for name in ("flush-a", "flush-b"):
            world.daemons[name].kill()
        url = world.serving.url + EVENTS
        world.redis.config_set("auto-aof-rewrite-percentage", 0)
        for _ in range(ROUNDS):
            for mode, found in rates.items():
                world.redis.config_set("appendfsync", mode)
                found.append(wrk.run(url, events=1, connections=CONNECTIONS, seconds=ROUND_S).per_second)
    every, always = median(rates["everysec"]), median(rates["always"])
    return {
        "everysec_per_s": round(every),
        "always_per_s": round(always),
        "ratio": round(always / every, 2),
        "rounds": {mode: [round(rate) for rate in found] for mode, found in rates.items()},
    }


def flusher_killed(folder: Path) -> dict[str, Any]:
    """From SIGKILL in the middle of a claim until the other flusher has it acknowledged. Default lease."""
    waits = []
    with _raised(folder, appendfsync="everysec") as world:
        for _ in range(KILLS):
            trap = world.proxies["flush-a", "mongo"].trap(
                update_of("analytics_entity_totals"), Fault.HOLD_REQUEST, keep=True
            )
            with _sending(world, 1_000.0):
                assert trap.tripped.wait(60)
            world.daemons["flush-a"].kill()
            killed_s = time.monotonic()
            begun = world.claims().items()
            trap.release(deliver=False)
            wait_until(lambda begun=begun: not begun & world.claims().items(), "the other takes over", READY_TIMEOUT_S)
            waits.append(time.monotonic() - killed_s)
            world.up()
    return {
        "lease_s": DEFAULTS.flush.lease_ms / 1000,
        "median_s": round(median(waits), 2),
        "max_s": round(max(waits), 2),
        "kills": len(waits),
    }


def redis_away(folder: Path, down_s: float) -> dict[str, Any]:
    """Redis stopped under load, and started; the time until the spool is empty, while the load goes on."""
    with _raised(folder, appendfsync="everysec") as world, _sending(world, DOWN_EVENTS_PER_S) as producer:
        time.sleep(2)
        world.servers["redis"].stop()
        before = producer.answered
        time.sleep(down_s)
        spooled_bytes = sum(path.stat().st_size for path in world.spool.iterdir())
        world.servers["redis"].start()
        started_s, at_start, counted = time.monotonic(), producer.answered, _counted(world)
        wait_until(lambda: _counted(world) > counted, "the replay begins", READY_TIMEOUT_S)
        begun_s = time.monotonic()
        wait_until(lambda: not list(world.spool.iterdir()), "the spool is empty", timeout_s=300)
        ended_s, at_end = time.monotonic(), producer.answered
        producer.end()
        world.drain()
        accepted = _counted(world)
    assert accepted == producer.answered, f"{producer.answered} events were answered 202, {accepted} counted"
    return {
        "down_s": down_s,
        "spooled_events": at_start - before,
        "spooled_mib": round(spooled_bytes / 2**20, 1),
        "redis_up_to_first_replayed_s": round(begun_s - started_s, 2),
        "redis_up_to_spool_empty_s": round(ended_s - started_s, 2),
        "replayed_per_s": round((at_start - before) / (ended_s - begun_s)),
        "new_events_meanwhile": at_end - at_start,
        "events_answered_202": producer.answered,
        "events_counted": accepted,
    }


class Producer(threading.Thread):
    """Sends batches at a steady rate. Every answer must be 202."""

    def __init__(self, port: int, events_per_s: float) -> None:
        super().__init__(name="producer", daemon=True)
        self.answered = 0
        self._port = port
        self._interval_s = BATCH_EVENTS / events_per_s
        self._ended = threading.Event()
        self._failure = ""

    def run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
        tag, next_s, number = secrets.token_hex(4), time.monotonic(), 0
        while not self._ended.is_set():
            number += 1
            body = json.dumps(
                [
                    event(event_id=f"{tag}-{number}-{n}", entity_id=f"m{(number * BATCH_EVENTS + n) % MOVIES}")
                    for n in range(BATCH_EVENTS)
                ]
            )
            connection.request("POST", BATCH, body, {"content-type": "application/json"})
            response = connection.getresponse()
            answer = response.read()
            if response.status != 202:
                self._failure = f"{response.status}: {answer!r}"
                break
            self.answered += BATCH_EVENTS
            next_s += self._interval_s
            time.sleep(max(0.0, next_s - time.monotonic()))
        connection.close()

    def end(self) -> None:
        self._ended.set()
        self.join()
        assert not self._failure, self._failure


@contextmanager
def _sending(world: World, events_per_s: float) -> Iterator[Producer]:
    producer = Producer(world.serving.port, events_per_s)
    producer.start()
    try:
        yield producer
    finally:
        producer.end()


@contextmanager
def _raised(folder: Path, *, appendfsync: str) -> Iterator[World]:
    with raised(folder, appendfsync=appendfsync, quick=False) as world:
        world.add_movies("a")
        yield world


def _counted(world: World) -> int:
    return sum(world.accepted().values())


if __name__ == "__main__":
    typer.run(main)
