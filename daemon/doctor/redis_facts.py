"""Reads what the checks of Redis need: one connection, a few commands; of a cluster, one more to each node."""

from __future__ import annotations

import asyncio
import dataclasses
import shlex
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar, cast
from urllib.parse import unquote, urlsplit

import msgspec
from redis.asyncio import Redis
from redis.exceptions import MovedError, NoPermissionError, ResponseError

from daemon.buffer.connection import nodes_of, opened
from daemon.buffer.dedupe import EVENTS_PER_BUCKET
from daemon.buffer.keys import Keys, ShardKeys
from daemon.config import Config, RedisSection, address_of, hosts_of, is_cluster, url_at
from daemon.doctor import clock, probes
from daemon.doctor.clock import Clock
from daemon.doctor.finding import Refusal, known
from daemon.errors import StoreError

T = TypeVar("T")

WRITES = {
    "SET": " 1 PX 1",
    "SADD": " m", "SPOP": "", "SREM": " m", "ZADD": " 1 m", "ZREM": " m", "HSET": " f 1", "HDEL": " f",
    "HINCRBY": " f 1", "INCR": "", "INCRBY": " 1", "PEXPIRE": " 1", "SETRANGE": " 0 x", "DEL": "", "RENAME": " {aside}",
}  # fmt: skip
"""The commands by which our scripts write, and what follows their key: a transaction of the append-only file holds
them."""


class Window(NamedTuple):
    """Of one shard's dedupe memory: the current window."""

    laid_out_for: int
    events: int


class Away(NamedTuple):
    """A node of a cluster that did not answer."""

    address: str
    why: str


@dataclass(frozen=True)
class RedisFacts:
    """What Redis said. `info`: INFO. `settings`: CONFIG GET *. `layout`: `anl:layout`, empty if there is none."""

    config: Config
    address: str
    info: Mapping[str, Any] | Refusal
    settings: Mapping[str, str] | Refusal
    layout: Mapping[str, str] | Refusal
    clock: Clock | Refusal
    cluster: Mapping[str, str] | Refusal = field(default_factory=dict)
    """CLUSTER INFO of a node; empty if it is of no cluster."""
    nodes: tuple[RedisFacts | Away, ...] = ()
    """If `redis.url` names a cluster: what each of its nodes said of itself."""
    elsewhere: tuple[int, ...] = ()
    """Shards whose keys lie on another node of the cluster, although `redis.url` names this one alone."""
    windows: tuple[Window, ...] | Refusal = ()
    """The dedupe memory of the shards that have one."""
    default_refused: Sequence[str] | Refusal = ()
    """Commands that Redis' default user may not run on our keys."""
    scripts: Mapping[str, str | None] | None = None
    """Script → the error that Redis answered, or None if it ran. None instead of all: they were not tried."""

    @property
    def keys(self) -> Keys:
        return Keys.of(self.config.redis)

    @property
    def server(self) -> Mapping[str, Any]:
        """INFO. Raises UnreadableError."""
        return known(self.info, f"{self.cli} ACL SETUSER USER +info")

    def told(self, field: str) -> Any:
        """A field of INFO. Raises UnreadableError: services that only speak like Redis leave some out."""
        missing = Refusal(f"INFO {field}", "")
        return known(self.server.get(field, missing), f"look up {field} where the service is configured")

    def setting(self, name: str) -> str:
        """A value of CONFIG GET. Raises UnreadableError: managed services forbid it, or leave some out."""
        fix = f"{self.cli} ACL SETUSER USER '+config|get'; or look up {name} where the service is configured"
        return known(known(self.settings, fix).get(name, Refusal(f"CONFIG GET {name}", "")), fix)

    def setting_or(self, name: str, default: str) -> str:
        return default if isinstance(self.settings, Refusal) else self.settings.get(name, default)

    @property
    def cli(self) -> str:
        """How a command line for this Redis begins."""
        url = urlsplit(self.config.redis.url)
        if url.scheme == "unix":
            return f"redis-cli -s {shlex.quote(unquote(url.path))}"
        if is_cluster(self.config.redis.url):  # to be repeated for each node, unless it is about a key
            return f"redis-cli -c -u {address_of(url_at(self.config.redis.url, *hosts_of(self.config.redis.url)[0]))}"
        return f"redis-cli -u {self.address}"


async def read_redis(config: Config, *, timeout_ms: int, probe: bool) -> RedisFacts:
    """`probe`: also try the scripts, and ask what they keep. Raises StoreError if Redis does not answer."""
    section = msgspec.structs.replace(config.redis, timeout_ms=min(timeout_ms, config.redis.timeout_ms))
    config = msgspec.structs.replace(config, redis=section)
    whole = await _read(config, probe=probe)
    if not is_cluster(section.url):
        return whole
    sections = await nodes_of(section)
    nodes = await asyncio.gather(*(_node(config, each, probe=probe) for each in sections))
    return dataclasses.replace(whole, nodes=tuple(nodes))


async def _node(config: Config, section: RedisSection, *, probe: bool) -> RedisFacts | Away:
    """A node of a cluster. The scripts run once, for all."""
    try:
        async with opened(section) as redis:
            return await _of_server(redis, msgspec.structs.replace(config, redis=section), probe=probe)
    except StoreError as error:
        return Away(address_of(section.url), str(error))


async def _of_server(redis: Redis, config: Config, *, probe: bool) -> RedisFacts:
    """What a server says of itself."""
    read_clock = await _clock(redis)
    info = await _asked("INFO", redis.info())
    in_cluster = not isinstance(info, Refusal) and bool(int(info.get("cluster_enabled", 0)))
    return RedisFacts(
        config=config,
        address=address_of(config.redis.url),
        info=info,
        settings=await _asked("CONFIG GET", cast("Awaitable[dict[str, str]]", redis.config_get("*"))),
        layout={},
        clock=read_clock,
        cluster=await _cluster_info(redis) if in_cluster else {},
        default_refused=await _default_refused(redis, Keys.of(config.redis).shard(0)) if probe else (),
    )


async def _read(config: Config, *, probe: bool) -> RedisFacts:
    keys = Keys.of(config.redis)
    async with opened(config.redis) as redis:
        return dataclasses.replace(
            await _of_server(redis, config, probe=probe),
            layout=await _layout(redis, keys.layout),
            elsewhere=await _elsewhere(redis, keys, config.redis.shards),
            windows=await _windows(redis, keys, config.redis.shards) if probe else (),
            scripts=await probes.run_all(redis, config) if probe else None,
        )


async def _cluster_info(redis: Redis) -> dict[str, str] | Refusal:
    ask: Callable[..., Awaitable[Any]] = redis.execute_command
    answer = await _asked("CLUSTER INFO", ask("CLUSTER INFO"))
    if isinstance(answer, bytes | str):  # a client of one server does not parse it
        answer = dict(line.split(":", 1) for line in _text(answer).split() if ":" in line)
    return cast("dict[str, str] | Refusal", answer)


async def _asked(question: str, answer: Awaitable[T]) -> T | Refusal:
    try:
        return await answer
    except ResponseError as error:
        return Refusal(question, str(error))


async def _clock(redis: Redis) -> Clock | Refusal:
    await _asked("PING", redis.ping())  # connects: that must not count as round trip
    sent_s = time.time()
    answer = await _asked("TIME", redis.time())
    if isinstance(answer, Refusal):
        return answer
    seconds, microseconds = answer
    return clock.compare(seconds + microseconds / 1e6, sent_s, time.time())


async def _default_refused(redis: Redis, keys: ShardKeys) -> list[str] | Refusal:
    """Asks with ACL DRYRUN, which runs nothing. Redis has it since 7.0."""
    refused = []
    for command, rest in WRITES.items():
        words = [command, keys.ledger, *rest.format(aside=keys.aside_prefix).split()]
        asking = redis.acl_dryrun("default", *words)
        answer = await _asked("ACL DRYRUN default", cast("Awaitable[object]", asking))
        if isinstance(answer, Refusal):
            return answer
        if answer not in (b"OK", "OK"):
            refused.append(words[0])
    return refused


async def _layout(redis: Redis, key: str) -> dict[str, str] | Refusal:
    fields = await _asked(f"HGETALL {key}", cast("Awaitable[dict[Any, Any]]", redis.hgetall(key)))
    if isinstance(fields, Refusal):
        return fields
    return {_text(name): _text(value) for name, value in fields.items()}


def _text(raw: bytes | str) -> str:
    return raw.decode(errors="backslashreplace") if isinstance(raw, bytes) else raw


async def _windows(redis: Redis, keys: Keys, shards: int) -> tuple[Window, ...] | Refusal:
    async with redis.pipeline(transaction=False) as pipe:
        for shard in range(shards):
            pipe.hmget(keys.shard(shard).seen, "bits", "events")
        answers = await pipe.execute(raise_on_error=False)
    refused = [answer for answer in answers if isinstance(answer, NoPermissionError)]
    if refused:
        return Refusal(f"HMGET {keys.prefix}:{{shard}}:seen", str(refused[0]))
    return tuple(
        Window(EVENTS_PER_BUCKET << int(answer[0]), int(answer[1]))
        for answer in answers
        if isinstance(answer, list) and all(value and value.isdigit() for value in answer)  # others are foreign
    )


async def _elsewhere(redis: Redis, keys: Keys, shards: int) -> tuple[int, ...]:
    async with redis.pipeline(transaction=False) as pipe:
        for shard in range(shards):
            pipe.exists(keys.shard(shard).dirty)
        answers = await pipe.execute(raise_on_error=False)
    return tuple(shard for shard, answer in enumerate(answers) if isinstance(answer, MovedError))
