"""Runs every check: what `tallyd doctor` shows. The stores are asked all at once.

A store that doesn't answer is one fatal finding; its checks say that they were not run.
"""

from __future__ import annotations

import asyncio

from daemon.config import Config
from daemon.doctor import machine, mongo_checks, mysql_checks, mysql_tables, redis_checks
from daemon.doctor.finding import Finding, judge, not_run
from daemon.doctor.mongo_facts import read_mongo
from daemon.doctor.mysql_facts import read_mysql
from daemon.doctor.redis_facts import read_redis
from daemon.errors import StoreError

TIMEOUT_MS = 5_000
"""How long a store may take to answer, unless its own `timeout_ms` is shorter."""


async def examine(config: Config) -> list[Finding]:
    """All findings, store by store in the order of the lists. Raises ConfigError for an address that is none."""
    redis, mongo, mysql, here = await asyncio.gather(
        _redis(config), _mongo(config), _mysql(config), asyncio.to_thread(judge, machine.CHECKS, config)
    )
    return [*redis, *mongo, *mysql, *here]


async def _redis(config: Config) -> list[Finding]:
    try:
        facts = await read_redis(config, timeout_ms=TIMEOUT_MS, probe=True)
    except StoreError as error:
        return [
            Finding(
                "redis.reachable", "fatal", str(error),
                "Events can't be counted: they go to the spool, or are answered 503.",
                "start it, or correct redis.url (`tallyd config` shows it); of your own: `tallyd stack up`",
            ),
            *not_run(redis_checks.CHECKS, "Redis does not answer"),
        ]  # fmt: skip
    return [Finding("redis.reachable", "ok", facts.address), *judge(redis_checks.CHECKS, facts)]


async def _mongo(config: Config) -> list[Finding]:
    try:
        facts = await read_mongo(config, timeout_ms=TIMEOUT_MS, probe=True)
    except StoreError as error:
        return [
            Finding(
                "mongo.reachable", "fatal", str(error), "Nothing is flushed: counts pile up in Redis.",
                "start it, or correct mongo.url (`tallyd config` shows it); of your own: `tallyd stack up`",
            ),
            *not_run(mongo_checks.CHECKS, "MongoDB does not answer"),
        ]  # fmt: skip
    return [Finding("mongo.reachable", "ok", facts.address), *judge(mongo_checks.CHECKS, facts)]


async def _mysql(config: Config) -> list[Finding]:
    if not config.mysql.url:
        return [Finding("mysql.reachable", "ok", "off (mysql.url is not set): no replica columns are written")]
    try:
        facts = await read_mysql(config, timeout_ms=TIMEOUT_MS, probe=True)
    except StoreError as error:
        return [
            Finding(
                "mysql.reachable", "fatal", str(error), "No columns are set; rollups in MongoDB go on.",
                "start it, or correct mysql.url (`tallyd config` shows it); without a replica leave it empty",
            ),
            *not_run((*mysql_checks.CHECKS, *mysql_tables.CHECKS), "MySQL does not answer"),
        ]  # fmt: skip
    return [
        Finding("mysql.reachable", "ok", facts.address),
        *judge(mysql_checks.CHECKS, facts),
        *mysql_tables.judge_tables(facts),
    ]
