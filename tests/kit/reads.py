"""The read API of a worker, without HTTP: what it answers, and what it charges for it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from daemon.read.api import Api
from daemon.read.endpoint import PREFIX
from daemon.read.gate import Kind
from daemon.response import Response
from tests.kit.system import System


def free(_: Kind | None) -> None:
    """Charges nobody."""


class Reader:
    def __init__(self, api: Api) -> None:
        self._api = api
        self.charged: list[Kind | None] = []

    async def get(self, path: str, *headers: tuple[bytes, bytes]) -> Response:
        """`path`: with its query, as it follows PREFIX."""
        path, _, query = path.partition("?")
        return await self._api.answer("GET", PREFIX + path, query, headers, self.charged.append)


@asynccontextmanager
async def reading(system: System, **env: str) -> AsyncIterator[Reader]:
    """`env`: as of `System.environ`."""
    api = Api(system.config(**env))
    try:
        yield Reader(api)
    finally:
        await api.close()
