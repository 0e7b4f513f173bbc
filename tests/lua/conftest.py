"""Every script on both Redis versions tallyd runs on: 6.2 (the wheel's) and 7 (the system's)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from tests.kit.servers import RedisServer
from tests.kit.shard import Shard


@pytest.fixture(scope="session", params=[6, 7], ids=["redis6", "redis7"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[redis.Redis]:
    with RedisServer(request.param, tmp_path_factory.mktemp("redis")) as server, server.client() as client:
        assert client.info("server")["redis_version"].startswith(f"{request.param}.")
        yield client


@pytest.fixture
def shard(server: redis.Redis) -> Iterator[Shard]:
    """An empty Redis with all the memory it wants, and shard 3 of it."""
    server.flushall()
    yield Shard(server)
    server.config_set("maxmemory", 0)
