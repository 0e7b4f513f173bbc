"""Every script on both Redis versions."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from tests.kit.shard import Shard


@pytest.fixture
def shard(each_redis: redis.Redis) -> Iterator[Shard]:
    """An empty Redis with all the memory it wants, and shard 3 of it."""
    each_redis.flushall()
    yield Shard(each_redis)
    each_redis.config_set("maxmemory", 0)
