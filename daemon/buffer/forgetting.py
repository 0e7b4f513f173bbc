"""The end of the dedupe memory: the sets of windows that are over are deleted, by the flusher.

They have no expiry of their own: Redis looks each key it touches up among those that have one, too, and with 65,536
sets in there that took a seventh of its time for an event (DESIGN.md, "Speed"). So none is deleted while no flusher
runs; and what one didn't get to, the next one finds, for the sets are looked for by their names.
"""

from __future__ import annotations

import contextlib

from daemon.buffer.connection import Connection, RefusedError
from daemon.buffer.keys import shard_keys

SCAN_KEYS = 500
"""Keys looked at, and sets deleted, by one command: at most about 0.5 ms of Redis' time."""


class Forgetting:
    """Of one shard. Any number of them may be at it."""

    def __init__(self, connection: Connection, shard: int, window_s: int) -> None:
        self._connection = connection
        self._seen = shard_keys(shard).seen
        self._window_s = window_s
        self._done_for: int | None = None
        """The oldest generation that is needed, as it was when all before it were deleted."""

    async def run(self) -> int:
        """Deletes the sets nobody will look at any more, and returns how many that were. Raises StoreError.

        Looks through all keys of the Redis once a window; otherwise it costs two commands.
        """
        oldest = await self._oldest_needed()
        if oldest == self._done_for:
            return 0
        deleted, cursor = 0, b"0"
        while True:
            cursor, found = await self._connection.command(
                "SCAN", cursor, "MATCH", f"{self._seen}:*:*", "COUNT", SCAN_KEYS
            )
            over = [key for key in found if (generation := self._generation(key)) is not None and generation < oldest]
            if over:
                deleted += int(await self._connection.command("UNLINK", *over))
            if cursor == b"0":
                self._done_for = oldest
                return deleted

    async def _oldest_needed(self) -> int:
        """The generation before the current one, as `ingest.lua` would have it if it were called now: it never goes
        back to one further behind."""
        now_s = int((await self._connection.command("TIME"))[0])
        now, current = now_s // self._window_s, None
        with contextlib.suppress(RefusedError):  # no hash: foreign, and the next event moves it away
            current = await self._connection.command("HGET", self._seen, "gen")
        # One further ahead than the next is none a clock of ours was ever near.
        return (now + 1 if current == b"%d" % (now + 1) else now) - 1

    def _generation(self, key: bytes) -> int | None:
        generation, _, bucket = key.removeprefix(f"{self._seen}:".encode()).partition(b":")
        return int(generation) if generation.isdigit() and bucket.isdigit() else None
