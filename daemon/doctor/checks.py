"""Runs all checks, for `tallyd doctor`. The stores are asked at the same time.

A store that does not answer is one fatal finding. The checks that need it are then `unknown`.
"""

from __future__ import annotations

import asyncio
import shlex
import stat
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

from daemon.config import Config, address_of
from daemon.config.url import options_of
from daemon.doctor import machine, mongo_checks, mysql_checks, mysql_tables, redis_checks, security_checks
from daemon.doctor.finding import Facts, Finding, run_checks
from daemon.doctor.mongo_facts import read_mongo
from daemon.doctor.mysql_facts import MysqlFacts, read_mysql
from daemon.doctor.redis_facts import read_redis
from daemon.errors import StoreError

TIMEOUT_MS = 5_000
"""How long a store may take to answer, unless its own `timeout_ms` is shorter."""
PRIVATE_KEYS = ("ssl_key", "ssl_keyfile", "tlscertificatekeyfile")
"""Options of an address that name the file of one."""
OWN_SERVERS = "for servers of your own: `tallyd stack up`"


async def run_all(config: Config, secret_files: Sequence[Path] = ()) -> list[Finding]:
    """All findings, store by store in the order of the lists. `secret_files`: where the configuration's secrets lie."""
    found = await asyncio.gather(
        of_redis(config),
        of_mongo(config),
        of_mysql(config),
        asyncio.to_thread(run_checks, machine.CHECKS, config),
        asyncio.to_thread(run_checks, security_checks.CHECKS, config),
    )
    return [*(finding for part in found for finding in part), *of_secrets([*secret_files, *private_keys(config)])]


async def of_redis(config: Config) -> list[Finding]:
    why = "Events cannot be counted. They go to the spool, or are answered 503."
    reading = read_redis(config, timeout_ms=TIMEOUT_MS, probe=True)
    return await _of_store("redis", config.redis.url, reading, redis_checks.CHECKS, redis_checks.run, why, OWN_SERVERS)


async def of_mongo(config: Config) -> list[Finding]:
    why = mongo_checks.NOT_FLUSHED
    reading, checks = read_mongo(config, timeout_ms=TIMEOUT_MS, probe=True), mongo_checks.CHECKS
    return await _of_store("mongo", config.mongo.url, reading, checks, partial(run_checks, checks), why, OWN_SERVERS)


async def of_mysql(config: Config) -> list[Finding]:
    if not config.mysql.url:
        return [Finding("mysql.reachable", "ok", "off (mysql.url is not set): no replica columns are written")]

    def check(facts: MysqlFacts) -> list[Finding]:
        return [*run_checks(mysql_checks.CHECKS, facts), *mysql_tables.check_tables(facts)]

    why = "No column is set. The rollups in MongoDB are written all the same."
    reading, names = read_mysql(config, timeout_ms=TIMEOUT_MS, probe=True), (*mysql_checks.CHECKS, *mysql_tables.CHECKS)
    return await _of_store("mysql", config.mysql.url, reading, names, check, why, "without a replica, leave it empty")


def private_keys(config: Config) -> list[Path]:
    """The files of private keys that the addresses name."""
    options = [options_of(url) for url in (config.redis.url, config.mongo.url, config.mysql.url)]
    return [Path(file) for each in options for name, file in each.items() if name.lower() in PRIVATE_KEYS]


def of_secrets(files: Sequence[Path]) -> list[Finding]:
    """Whether other users of this machine may read the files with passwords and keys."""
    name = "config.secrets"
    open_to_all = [file for file in files if file.exists() and file.stat().st_mode & stat.S_IROTH]
    if open_to_all:
        shown = " ".join(map(shlex.quote, map(str, open_to_all)))
        why = "Every user of this machine can read the passwords or keys in it."
        return [Finding(name, "warning", f"readable by everyone: {shown}", why, f"chmod o-r {shown}")]
    return [Finding(name, "ok", f"{len(files)} files with secrets, none readable by everyone")] if files else []


async def _of_store(
    store: str,
    url: str,
    reading: Awaitable[Facts],
    names: Iterable[str],
    check: Callable[[Facts], list[Finding]],
    why: str,
    otherwise: str,
) -> list[Finding]:
    try:
        facts = await reading
    except StoreError as error:
        fix = f"start it, or correct {store}.url (`tallyd config` shows it); {otherwise}"
        return [
            Finding(f"{store}.reachable", "fatal", str(error), why, fix),
            *(Finding(name, "unknown", f"not run: {store} does not answer") for name in names),
        ]
    return [Finding(f"{store}.reachable", "ok", address_of(url)), *check(facts)]
