"""Fetches the next chunk in a worker thread while the event loop uses the current one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator

IDLE_S = 1.0


async def read_ahead(chunks: Iterator[bytes]) -> AsyncGenerator[bytes]:
    """The chunks, and b"" for every `IDLE_S` in which none came. Raises what fetching them raises."""
    loop = asyncio.get_running_loop()
    ahead = loop.run_in_executor(None, next, chunks, b"")
    try:
        while True:
            done, _ = await asyncio.wait({ahead}, timeout=IDLE_S)
            if not done:
                yield b""
                continue
            chunk = ahead.result()
            if not chunk:
                return
            ahead = loop.run_in_executor(None, next, chunks, b"")
            yield chunk
    finally:
        # After an error: a read that waits for a pipe ends when the command sets `stopping`.
        if not ahead.cancel():
            ahead.exception()
