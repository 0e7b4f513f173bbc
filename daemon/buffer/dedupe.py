"""The dedupe memory, seen from Python: the hash of an event id, the size of a window, and the forgetting.

`ingest.lua` keeps the memory: per window 2^bits sets (buckets) of 64-bit members. `wire.py` hashes ids, `counters.py`
says how many bits the first window gets, and the flusher runs `Forgetting`.

The sets have no expiry of their own. Redis looks up each key it touches among those that have one, and with 65,536 sets
in there that took a seventh of its time for an event. So sets are deleted by name, and none while no flusher runs.
"""

from __future__ import annotations

import hashlib
import math
import re
import struct
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial

from daemon.buffer.connection import Connection
from daemon.buffer.topology import Node
from daemon.errors import StoreError

EVENTS_PER_BUCKET = 244
"""How many events a bucket is laid out for. `ingest.lua` has the same number, and the reason for it."""
SCAN_KEYS = 500
"""Keys looked at, and sets deleted, by one command: at most about 0.5 ms of Redis' time."""

_BITS_MIN, _BITS_MAX = 4, 28

# Both are built-in callables, not functions of ours: each event takes both, and a call of a function costs 0.04 us.
hash_id = partial(hashlib.blake2b, digest_size=16)
"""128 bits of an event id, given as bytes."""
digest_parts = struct.Struct("<qI4x").unpack
"""A digest → (member, bucket): 64 bits are the member, 32 others choose its bucket (modulo 2^bits)."""


def bucket_bits(events_per_window: int) -> int:
    """Bits of a bucket's number, so that this many events fill each bucket to about EVENTS_PER_BUCKET."""
    return min(_BITS_MAX, max(_BITS_MIN, math.ceil(math.log2(max(1, events_per_window / EVENTS_PER_BUCKET)))))


class Forgetting:
    """Deletes the sets of past windows, on every node. Several may run at the same time."""

    def __init__(self, connections: Sequence[Connection], window_s: int) -> None:
        """`connections`: of a cluster one a shard, else one."""
        self._connections = connections
        self._window_s = window_s
        prefix = connections[0].keys.prefix
        self._pattern = f"{prefix}:{{*}}:seen:*"
        self._set = re.compile(rb"%b:\{(\d+)\}:seen:(\d+):\d+" % re.escape(prefix.encode()))
        """A set of any shard: its shard and its generation. See `ingest.lua`."""
        self._done_in: dict[Node, int] = {}
        """Node → the window in which all its keys were last looked at."""

    async def run(self, stopping: Callable[[], bool] = lambda: False) -> int:
        """Deletes the sets that no event is looked up in any more. Returns how many. Raises StoreError.

        The first run and the first one of each window look through all keys of a node. Others cost one command. A node
        that does not answer does not keep the others' sets.
        """
        deleted, failures, seen = 0, [], set[Node]()
        for connection in self._connections:
            try:
                await connection.connect()
                if connection.node not in seen:
                    seen.add(connection.node)
                    deleted += await self._forget(connection, stopping)
            except StoreError as error:
                failures.append(error)
        if failures:
            raise failures[0]
        return deleted

    async def _forget(self, connection: Connection, stopping: Callable[[], bool]) -> int:
        node = connection.node
        now = int((await connection.command("TIME"))[0]) // self._window_s
        if now == self._done_in.get(node):
            return 0
        deleted, cursor = 0, b"0"
        while not stopping():
            cursor, found = await connection.command("SCAN", cursor, "MATCH", self._pattern, "COUNT", SCAN_KEYS)
            # One shard at a time: in a cluster, a command may touch one slot only.
            for sets in self._past(found, now).values():
                deleted += int(await connection.command("UNLINK", *sets))
            if cursor == b"0":
                self._done_in[node] = now
                break
        return deleted

    def _past(self, keys: list[bytes], now: int) -> dict[bytes, list[bytes]]:
        """By shard, the sets of windows before the last one.

        A set ahead of the clock is kept: the clock may have gone back, or time passed since it was read.
        """
        past: dict[bytes, list[bytes]] = defaultdict(list)
        for key in keys:
            match = self._set.fullmatch(key)
            if match is not None and int(match[2]) < now - 1:
                past[match[1]].append(key)
        return past
