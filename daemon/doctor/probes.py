"""Calls each Lua script the way its owner does, with nothing to do: do they load, may we call them, can they write?

The keys are beside the real ones, in shard 0's slot and under the same prefixes, so that whatever Redis allows or
forbids there it allows or forbids here. No such key exists, so five of the six scripts find nothing and write nothing.
The layout script writes one key, and the same transaction takes it away: that shows that Redis takes writes now.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgspec
from redis.asyncio import Redis
from redis.exceptions import NoPermissionError, NoScriptError, OutOfMemoryError, ReadOnlyError, ResponseError

from daemon.buffer import scripts
from daemon.buffer.keys import ShardKeys, shard_keys
from daemon.buffer.layout import Layout
from daemon.buffer.scripts import Script
from daemon.config import Config

_SUFFIX = ":doctor"

_nothing = msgspec.msgpack.encode([])
_no_events = msgspec.msgpack.encode([[], []])

_CODES: dict[type[ResponseError], str] = {
    OutOfMemoryError: "OOM ",
    ReadOnlyError: "READONLY ",
    NoPermissionError: "NOPERM ",
}
"""redis-py turns some codes into classes and takes them off the text."""

Arg = str | bytes | int


class Probe(NamedTuple):
    """A script and a call of it that does nothing."""

    script: Script
    names: Callable[[ShardKeys], Sequence[str]]
    args: Callable[[Config], Sequence[Arg]]
    writes: bool = False
    """Whether it writes its first key, which is then deleted."""


PROBES = (
    Probe(
        scripts.INGEST,
        lambda k: (k.dirty, k.ledger, k.seen, k.counters_prefix, k.rate_prefix, k.aside_prefix),
        lambda config: (_no_events, 0, config.dedupe.window_s, 1),
    ),
    Probe(
        scripts.CLAIM,
        lambda k: (k.dirty, k.claim, k.counters_prefix, k.ledger, k.aside_prefix),
        lambda config: ("doctor", config.flush.lease_ms, 0, 1, 1, config.flush.claim_us_max),
    ),
    Probe(scripts.UNFOLD, lambda k: (k.claim,), lambda _: (0,)),
    Probe(
        scripts.ACK, lambda k: (k.claim, k.replica, k.ledger, k.aside_prefix), lambda _: (0, _nothing, _nothing, "")
    ),
    Probe(scripts.BEGIN_SYNC, lambda k: (k.syncing,), lambda _: (_nothing,)),
    Probe(scripts.SETTLE, lambda k: (k.replica,), lambda _: (_nothing,)),
    Probe(scripts.LAYOUT, lambda k: (f"{k.ledger}:layout",), lambda config: Layout(config).script_args, writes=True),
)  # fmt: skip


async def run_all(redis: Redis, config: Config) -> dict[str, str | None]:
    """Script → None if it ran, else what Redis answered."""
    scratch = ShardKeys(**{name: key + _SUFFIX for name, key in dataclasses.asdict(shard_keys(0)).items()})
    outcomes: dict[str, str | None] = {}
    for probe in PROBES:
        try:
            await _run(redis, probe, probe.names(scratch), probe.args(config))
            outcomes[probe.script.name] = None
        except ResponseError as error:
            outcomes[probe.script.name] = f"{_CODES.get(type(error), '')}{error}"
    return outcomes


async def _run(redis: Redis, probe: Probe, names: Sequence[str], args: Sequence[Arg]) -> None:
    call: tuple[Any, ...] = (len(names), *names, *args)
    if probe.writes:
        async with redis.pipeline(transaction=True) as pipe:
            pipe.eval(probe.script.source, *call)
            pipe.delete(names[0])
            answer, _ = await pipe.execute(raise_on_error=False)
        if isinstance(answer, ResponseError):
            raise answer
        return
    try:
        await redis.evalsha(probe.script.sha, *call)
    except NoScriptError:
        await redis.eval(probe.script.source, *call)
