"""The fatal part, which the daemons run before they begin: what can't get better by waiting.

A store that doesn't answer is waited for by the daemon itself, so it is none of this module's business; nor is a
warning. A misconfiguration raises ConfigError, so that the daemon ends at once with exit code 2 and says how to mend
it, instead of counting into a Redis that throws counts away or retrying a write for ever.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping

from daemon.config import Config
from daemon.doctor import redis_checks
from daemon.doctor.finding import Facts, Finding, Verdict, judge
from daemon.doctor.redis_facts import read_redis
from daemon.errors import ConfigError, StoreError

TIMEOUT_MS = 1_000
"""How long a store may take to answer; one that takes longer is not looked at."""

REDIS = ("redis.version", "redis.role", "redis.eviction", "redis.layout")
MONGO = ("mongo.version", "mongo.indexes")
MYSQL = ("mysql.version",)
"""Not the mapped tables: MySQL's absence delays only itself, and a table can be made while the daemon runs."""


async def check_ingest(config: Config) -> list[Finding]:
    """What the ingest daemon stands on. Raises ConfigError if something of it is fatal, else returns all findings."""
    return _refuse_fatal(await _redis(config))


async def check_flush(config: Config) -> list[Finding]:
    """What the flush daemon stands on. Raises ConfigError if something of it is fatal, else returns all findings."""
    redis, mongo, mysql = await asyncio.gather(_redis(config), _mongo(config), _mysql(config))
    return _refuse_fatal([*redis, *mongo, *mysql])


def _refuse_fatal(findings: list[Finding]) -> list[Finding]:
    fatal = [finding for finding in findings if finding.severity == "fatal"]
    if fatal:
        told = "\n".join(f"  {each.check}: {each.found}\n    why: {each.why}\n    fix: {each.fix}" for each in fatal)
        raise ConfigError(f"It can't start like this (`tallyd doctor` shows more):\n{told}")
    return findings


def _only(
    names: Iterable[str], checks: Mapping[str, Callable[[Facts], Verdict]]
) -> dict[str, Callable[[Facts], Verdict]]:
    return {name: checks[name] for name in names}


async def _redis(config: Config) -> list[Finding]:
    try:
        facts = await read_redis(config, timeout_ms=TIMEOUT_MS, probe=False)
    except StoreError:
        return []
    return judge(_only(REDIS, redis_checks.CHECKS), facts)


async def _mongo(config: Config) -> list[Finding]:
    from daemon.doctor import mongo_checks, mongo_facts  # noqa: PLC0415  (ingest has no use for MongoDB's driver)

    try:
        facts = await mongo_facts.read_mongo(config, timeout_ms=TIMEOUT_MS, probe=False)
    except StoreError:
        return []
    return judge(_only(MONGO, mongo_checks.CHECKS), facts)


async def _mysql(config: Config) -> list[Finding]:
    if not config.mysql.url:
        return []
    from daemon.doctor import mysql_checks, mysql_facts  # noqa: PLC0415  (ingest has no use for MySQL's driver)

    try:
        facts = await mysql_facts.read_mysql(config, timeout_ms=TIMEOUT_MS, probe=False)
    except StoreError:
        return []
    return judge(_only(MYSQL, mysql_checks.CHECKS), facts)
