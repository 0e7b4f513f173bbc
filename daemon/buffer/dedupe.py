"""The end of the dedupe memory: the sets of windows that are over are deleted, by the flusher.

They have no expiry of their own: Redis looks each key it touches up among those that have one, too, and with 65,536
sets in there that took a seventh of its time for an event (DESIGN.md, "Speed"). So none is deleted while no flusher
runs; and what one didn't get to, the next one finds, for the sets are looked for by their names.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable

from daemon.buffer.connection import Connection
from daemon.buffer.keys import shard_keys

SCAN_KEYS = 500
"""Keys looked at, and sets deleted, by one command: at most about 0.5 ms of Redis' time."""

_SET = re.compile(re.escape(shard_keys(0).seen).replace("0", r"(\d+)").encode() + rb":(\d+):\d+")
"""A set of any shard: its shard and its generation. See `ingest.lua`."""


class Forgetting:
    """Of one Redis. Any number of them may be at it."""

    def __init__(self, connection: Connection, window_s: int) -> None:
        self._connection = connection
        self._window_s = window_s
        self._done_in: int | None = None
        """The window in which all keys were last looked at."""

    async def run(self, stopping: Callable[[], bool] = lambda: False) -> int:
        """Deletes the sets nobody will look at any more, and returns how many that were. Raises StoreError.

        Looks through all keys of the Redis the first time and once a window; otherwise it costs one command.
        """
        now = int((await self._connection.command("TIME"))[0]) // self._window_s
        if now == self._done_in:
            return 0
        deleted, cursor = 0, b"0"
        while not stopping():
            cursor, found = await self._connection.command(
                "SCAN", cursor, "MATCH", shard_keys(0).seen.replace("0", "*") + ":*", "COUNT", SCAN_KEYS
            )
            for sets in _over(found, now).values():  # of one shard at a time: a command may touch one slot of a cluster
                deleted += int(await self._connection.command("UNLINK", *sets))
            if cursor == b"0":
                self._done_in = now
                break
        return deleted


def _over(keys: list[bytes], now: int) -> dict[bytes, list[bytes]]:
    """By shard, the sets of windows before the last one. Never one ahead of the clock: it may have gone back, or time
    have passed since it was asked."""
    over: dict[bytes, list[bytes]] = defaultdict(list)
    for key in keys:
        match = _SET.fullmatch(key)
        if match is not None and int(match[2]) < now - 1:
            over[match[1]].append(key)
    return over
