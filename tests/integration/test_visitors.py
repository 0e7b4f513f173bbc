"""Visitors: the same one for every worker, another one tomorrow, and nobody while the secret is not known."""

from __future__ import annotations

import asyncio
from pathlib import Path

from daemon.buffer.connection import Connection
from daemon.buffer.layout import Layout
from daemon.ingest.visitors import Visitors
from tests.kit.system import System

AGENT = ["Mozilla/5.0 Firefox/133.0"]


def hashes(system: System, **env: str) -> list[str]:
    """Of one visitor, as two workers know it, of another agent and another address."""
    config = system.config(**env)

    async def ask() -> list[str]:
        connection = Connection(config.redis, Layout(config))
        one, two = Visitors(connection), Visitors(connection)
        for worker in (one, two):
            await worker.refresh()
        asked = [
            one.of("198.51.100.7", AGENT),
            two.of("198.51.100.7", AGENT),
            one.of("198.51.100.7", ["x"]),
            one.of("198.51.100.8", AGENT),
        ]
        await connection.close()
        return [visitor.hexdigest() for visitor in asked if visitor is not None]

    return asyncio.run(ask())


def test_all_workers_know_a_visitor_by_the_same_hash(system: System) -> None:
    first, same, other_agent, other_address = hashes(system)
    assert first == same
    assert len({first, other_agent, other_address}) == 3


def test_another_secret_makes_another_hash(system: System) -> None:
    today = hashes(system)
    system.redis.delete(*system.redis.keys("anl:salt:*"))  # as its expiry does
    assert not set(today) & set(hashes(system))


def test_nobody_is_known_while_redis_does_not_answer(system: System, tmp_path: Path) -> None:
    assert hashes(system, REDIS__URL=f"unix://{tmp_path}/nobody.sock") == []
