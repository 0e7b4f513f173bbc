"""Who sends an event: a hash of address and user agent, keyed with a secret of the day that all workers share.

`app.py` asks for it if an action has a window (`visitor_window_s`). `ingest.lua` keeps the hashes until it ends. The
secret lies in Redis for two days and nowhere else, and never beside a count. After that nobody can tell whether an
address made a hash. At midnight UTC every visitor is new.

While Redis does not answer, no visitor is known: the events are spooled, and all of them count.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
import time
from collections.abc import Sequence

from daemon.buffer.connection import Connection
from daemon.buffer.wire import Visitor
from daemon.errors import StoreError
from daemon.ingest.robots import AGENT_CHARS_MAX

SALT_BYTES = 32
SALT_KEPT_S = 172_800
REFRESH_S = 10
HASH_BYTES = 12
"""Two of a million visits within a window share a hash once in 10^16 cases."""

_log = logging.getLogger(__name__)


class Visitors:
    """Of one worker. Call `refresh` once and run `keep`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._salted: Visitor | None = None

    def of(self, sender: str, agents: Sequence[str]) -> Visitor | None:
        """The hash of a visitor. None: the secret of the day is not known."""
        if self._salted is None:
            return None
        visitor = self._salted.copy()
        visitor.update(f"{sender} {agents[0][:AGENT_CHARS_MAX] if agents else ''} ".encode())
        return visitor

    async def keep(self) -> None:
        """Reads the secret again and again: it changes with the day, and if Redis lost it."""
        while True:
            await asyncio.sleep(REFRESH_S)
            await self.refresh()

    async def refresh(self) -> None:
        """Reads the secret of the day. The first worker of the day makes it."""
        salt: bytes | None = None
        key = f"{self._connection.keys.salt_prefix}:{time.strftime('%Y-%m-%d', time.gmtime())}"
        try:
            await self._connection.command("SET", key, secrets.token_bytes(SALT_BYTES), "NX", "EX", SALT_KEPT_S)
            salt = await self._connection.command("GET", key)
        except StoreError as error:
            _log.debug("The secret of the day cannot be read: %s", error)
        except Exception:  # noqa: BLE001  (drivers raise more than they say, and tomorrow's secret must be read)
            _log.exception("The secret of the day cannot be read")
        self._salted = hashlib.blake2b(key=salt[:SALT_BYTES], digest_size=HASH_BYTES) if salt else None
