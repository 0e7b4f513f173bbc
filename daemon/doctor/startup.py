"""The checks that the daemons run before they start: only those whose fatal finding no waiting can mend.

A store that does not answer is skipped: the daemon itself waits for it. A warning stops nothing. A fatal finding raises
ConfigError: the daemon ends at once, with exit code 2 and the fix. Otherwise it would count into a Redis that drops
counts, or repeat a write that can never succeed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping

from daemon.config import Config
from daemon.doctor import redis_checks
from daemon.doctor.finding import Facts, Finding, Verdict, run_checks
from daemon.doctor.redis_facts import read_redis
from daemon.errors import ConfigError, StoreError

TIMEOUT_MS = 1_000
"""How long a store may take to answer. One that takes longer is skipped."""

REDIS = ("redis.version", "redis.role", "redis.cluster", "redis.eviction", "redis.layout")
MONGO = ("mongo.version", "mongo.indexes")
MYSQL = ("mysql.version",)
"""The mapped tables are not among them: a missing table delays only MySQL, and can be made while the daemon runs."""


async def check_ingest(config: Config) -> list[Finding]:
    """All findings about what the ingest daemon needs. Raises ConfigError if one is fatal."""
    return _refuse_fatal(await _redis(config))


async def check_flush(config: Config) -> list[Finding]:
    """All findings about what the flush daemon needs. Raises ConfigError if one is fatal."""
    redis, mongo, mysql = await asyncio.gather(_redis(config), _mongo(config), _mysql(config))
    return _refuse_fatal([*redis, *mongo, *mysql])


def _refuse_fatal(findings: list[Finding]) -> list[Finding]:
    fatal = [finding for finding in findings if finding.severity == "fatal"]
    if fatal:
        told = "\n".join(f"  {each.check}: {each.found}\n    why: {each.why}\n    fix: {each.fix}" for each in fatal)
        raise ConfigError(f"The daemon cannot start like this (`tallyd doctor` shows more):\n{told}")
    return findings


async def _redis(config: Config) -> list[Finding]:
    try:
        return redis_checks.run(await read_redis(config, timeout_ms=TIMEOUT_MS, probe=False), REDIS)
    except StoreError:
        return []


async def _mongo(config: Config) -> list[Finding]:
    from daemon.doctor import mongo_checks, mongo_facts  # noqa: PLC0415  (ingest does not need MongoDB's driver)

    reading = mongo_facts.read_mongo(config, timeout_ms=TIMEOUT_MS, probe=False)
    return await _unless_away(reading, MONGO, mongo_checks.CHECKS)


async def _mysql(config: Config) -> list[Finding]:
    if not config.mysql.url:
        return []
    from daemon.doctor import mysql_checks, mysql_facts  # noqa: PLC0415  (ingest does not need MySQL's driver)

    reading = mysql_facts.read_mysql(config, timeout_ms=TIMEOUT_MS, probe=False)
    return await _unless_away(reading, MYSQL, mysql_checks.CHECKS)


async def _unless_away(
    reading: Awaitable[Facts], names: Iterable[str], checks: Mapping[str, Callable[[Facts], Verdict]]
) -> list[Finding]:
    try:
        facts = await reading
    except StoreError:
        return []
    return run_checks({name: checks[name] for name in names}, facts)
