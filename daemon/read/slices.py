"""Work in slices: between two of them the event loop serves others. Every loop over what a request may make long uses
it, because the worker that reads also takes events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from itertools import islice
from typing import Any, Protocol, TypeVar

SLICE_ITEMS = 128
"""Items of one slice, and documents that MongoDB is asked for, and that are decoded, at a time. At a microsecond or two
each, the loop is held for less than a millisecond, also on a slow core."""

T = TypeVar("T")


class Cursor(Protocol):
    """One of pymongo's, made with `batch_size=SLICE_ITEMS`."""

    async def to_list(self, length: int | None = None) -> list[Any]: ...


async def slices(items: Iterable[T], size: int = SLICE_ITEMS) -> AsyncIterator[list[T]]:
    """The items, `size` at a time. Others have their turn after each slice but the last."""
    iterator = iter(items)
    found = list(islice(iterator, size))
    while found:
        yield found
        found = list(islice(iterator, size))
        if found:
            await asyncio.sleep(0)


async def batches(cursor: Cursor) -> AsyncIterator[list[Any]]:
    """What a cursor finds, `SLICE_ITEMS` at a time. Others have their turn while the next ones are asked for."""
    while found := await cursor.to_list(SLICE_ITEMS):
        yield found
