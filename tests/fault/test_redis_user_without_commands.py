"""A Redis user with a list of commands that lacks one of ours: no event is known and not counted."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import redis

from daemon.buffer.connection import Connection, RefusedError
from daemon.buffer.counters import Counters, Limits
from daemon.buffer.layout import Layout
from daemon.buffer.wire import Limit, Request, unlimited
from daemon.doctor import redis_checks
from daemon.doctor.redis_facts import read_redis
from daemon.domain.action import Effect
from daemon.domain.event import Event
from tests.kit.servers import RedisServer
from tests.kit.system import System

EFFECT = Effect((("view", "view:2026-11-30", "1"),))


@pytest.mark.parametrize("lacking", ["get", "psetex"])
def test_what_a_call_refused_is_counted_once_it_is_sent_again(system: System, tmp_path: Path, lacking: str) -> None:
    with RedisServer(7, tmp_path / "redis") as server:
        system.use_redis(server)
        with server.client() as admin:
            admin.execute_command("ACL", "SETUSER", "tallyd", "on", ">secret", "~anl:*", "+@all", f"-{lacking}")
        config = system.config(REDIS__URL=server.url.replace("redis://", "redis://tallyd:secret@"))
        asyncio.run(_send(config))
        with server.client() as admin:
            assert _views(admin, "n") == 1


async def _send(config) -> None:
    connection = Connection(config.redis, Layout(config))
    counters = Counters(connection, 0, Limits.of(config))
    keyed = unlimited([Event("k", "jav:movie:n", EFFECT)])
    with pytest.raises(RefusedError):
        await counters.ingest([keyed, Request("198.51.100.7", Limit(60, 0), 1, [Event("a", "jav:movie:m", EFFECT)])])
    await counters.ingest([keyed])  # its client got 503
    await connection.close()
    facts = await read_redis(config, timeout_ms=2_000, probe=True)
    assert redis_checks.CHECKS["redis.scripts"](facts).severity == "fatal"


def _views(client: redis.Redis, entity: str) -> int:
    return int(client.hget(f"anl:{{0}}:counters:jav:movie:{entity}", "view:2026-11-30") or 0)
