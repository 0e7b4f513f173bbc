"""A load generator that keeps to a timetable, whatever the server does: so many single events a second, evenly spaced.

wrk sends the next request when the last one was answered, so a server that stalls is asked less while it stalls, and
the stall hardly shows (coordinated omission). Here each event has a due time, and its latency counts from then on, also
while it waits for a free connection.
"""

from __future__ import annotations

import gc
import secrets
import select
import socket
import time
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import urlsplit

import msgspec

from bench import wrk
from bench.events import ENTITIES, on_the_wire
from bench.ground import GroundError
from bench.measure import Bar, Rounds, Row

READ_BYTES = 65_536
ID_PLACE = "0123456789ab"
"""Where the number of an event goes in its prepared request: 12 hex digits, as in a UUID's end."""
ACCEPTED = b'{"status":"accepted"}'
STALL_S_MAX = 5.0


class Latencies(NamedTuple):
    """Milliseconds from the due time to the answer."""

    p50_ms: float
    p99_ms: float
    max_ms: float


def run(url: str, path: str, *, per_second: float, seconds: float, connections: int) -> Latencies:
    """Sends at that rate for so long. Raises GroundError unless every event was answered 202."""
    parts = urlsplit(url)
    requests = _requests(parts.netloc, path)
    poll, by_fd = select.epoll(), {}
    for _ in range(connections):
        opened = socket.create_connection((parts.hostname, parts.port))
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        poll.register(opened, select.EPOLLIN)
        by_fd[opened.fileno()] = opened
    gc.collect()
    gc.disable()  # a collection here would look like a slow answer
    try:
        return _of(_keep_to(poll, by_fd, requests, int(per_second * seconds), 1 / per_second))
    finally:
        gc.enable()
        poll.close()
        for each in by_fd.values():
            each.close()


def _keep_to(
    poll: select.epoll,
    by_fd: dict[int, socket.socket],
    requests: list[tuple[bytes, bytes]],
    count: int,
    interval_s: float,
) -> list[float]:
    idle, latencies = deque(by_fd), list[float]()
    due_of: dict[int, float] = {}
    clock, sent, start = time.perf_counter, 0, time.perf_counter()
    while len(latencies) < count:
        while idle and sent < count and (due := start + sent * interval_s) <= clock():
            fd = idle.popleft()
            front, back = requests[sent % ENTITIES]
            by_fd[fd].sendall(b"%b%012x%b" % (front, sent, back))
            due_of[fd] = due
            sent += 1
        wait_s = max(0.0, start + sent * interval_s - clock()) if idle and sent < count else STALL_S_MAX
        # Not epoll's own time-out: it is rounded up to milliseconds.
        if not select.select([poll], [], [], wait_s)[0]:
            if wait_s == STALL_S_MAX:
                raise GroundError(f"No answer for {STALL_S_MAX:.0f} s with {len(due_of)} events under way.")
            continue
        for fd, _ in poll.poll(0):
            answer = by_fd[fd].recv(READ_BYTES)
            if not (answer.startswith(b"HTTP/1.1 202 ") and answer.endswith(ACCEPTED)):
                raise GroundError(f"An event was answered: {answer!r:.200}")
            latencies.append(clock() - due_of.pop(fd))
            idle.append(fd)
    return latencies


def _requests(host: str, path: str) -> list[tuple[bytes, bytes]]:
    """One for each entity, cut at the place of the id's end."""
    tag = secrets.token_hex(4)
    requests = []
    for number in range(ENTITIES):
        body = msgspec.json.encode(on_the_wire(number, f"{tag}-0000-4000-8000-{ID_PLACE}"))
        head = f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        request = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
        front, _, back = request.partition(ID_PLACE.encode())
        requests.append((front, back))
    return requests


def _of(latencies_s: list[float]) -> Latencies:
    ordered = sorted(latencies_s)
    at = [ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1000 for share in (0.5, 0.99, 1.0)]
    return Latencies(*at)


def row(
    *, name: str, what: str, rounds: Rounds, peer_name: str, bars: tuple[Bar, ...], watched: Sequence[Latencies]
) -> Row:
    """The 99th percentiles of both sides, in ms. `watched`: the latencies of our own."""
    return Row(
        name=name,
        what=what,
        unit="ms",
        ours=rounds.values[0],
        peer=rounds.values[1],
        peer_name=peer_name,
        bars=bars,
        others=rounds.others,
        p50_ms=wrk.median_ms([int(each.p50_ms * 1000) for each in watched]),
        p99_ms=wrk.median_ms([int(each.p99_ms * 1000) for each in watched]),
    )
