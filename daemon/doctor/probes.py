"""Calls every Lua script with nothing to do: does it load, may this user call it, and does Redis take writes?

The scratch keys lie beside the real ones: in the slot of shard 0, under the same prefixes. What Redis allows or forbids
there, it allows or forbids for the real keys. The scratch keys do not exist, so the scripts find nothing and write
nothing. Only the layout script writes: one key, which the same transaction deletes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
from redis.asyncio import Redis
from redis.exceptions import NoPermissionError, NoScriptError, OutOfMemoryError, ReadOnlyError, ResponseError

from daemon.buffer import scripts
from daemon.buffer.keys import Keys, ShardKeys
from daemon.buffer.layout import Layout
from daemon.buffer.scripts import Script
from daemon.config import Config

_SUFFIX = ":doctor"

_nothing = msgspec.msgpack.encode([])
_no_events = msgspec.msgpack.encode([[60, 0], [], ["doctor", 1, 1, 0]])
"""A charge: it reads and writes a budget."""

_CODES: dict[type[ResponseError], str] = {
    OutOfMemoryError: "OOM ",
    ReadOnlyError: "READONLY ",
    NoPermissionError: "NOPERM ",
}
"""redis-py turns these codes into classes and removes them from the text."""

Arg = str | bytes | int


class Probe(NamedTuple):
    """A call that does nothing: its KEYS and its ARGV. `written`: the key that it writes, which is then deleted."""

    names: Callable[[ShardKeys], Sequence[str]]
    args: Callable[[Config], Sequence[Arg]]
    written: Callable[[ShardKeys], str] | None = None


PROBES: Mapping[Script, Probe] = {
    scripts.INGEST: Probe(
        lambda k: (k.dirty, k.ledger, k.seen, k.counters_prefix, k.rate_prefix, k.aside_prefix, k.visit_prefix),
        lambda config: (_no_events, config.dedupe.window_s, 1),
        lambda k: f"{k.rate_prefix}:doctor",
    ),
    scripts.CLAIM: Probe(
        lambda k: (k.dirty, k.claim, k.counters_prefix, k.ledger, k.aside_prefix),
        lambda config: ("doctor", config.flush.lease_ms, 0, "", 1, 1, config.flush.claim_us_max, ""),
    ),
    scripts.UNFOLD: Probe(lambda k: (k.claim,), lambda _: (0,)),
    scripts.ACK: Probe(
        lambda k: (k.claim, k.due, k.ledger, k.aside_prefix), lambda _: (0, "", 0, _nothing, _nothing, "")
    ),
    scripts.AMEND: Probe(
        lambda k: (k.dirty, k.claim, k.counters_prefix, k.ledger, k.due, k.aside_prefix),
        lambda _: (1, 0, "", "", _nothing, _nothing),
    ),
    scripts.BEGIN_SYNC: Probe(lambda k: (k.syncing,), lambda _: (_nothing,)),
    scripts.SETTLE: Probe(lambda k: (k.due,), lambda _: (_nothing,)),
    scripts.PENDING: Probe(lambda k: (k.claim, k.counters_prefix), lambda _: ("doctor", "", 0, 0)),
    scripts.LAYOUT: Probe(
        lambda k: (f"{k.ledger}:layout",), lambda config: Layout(config).script_args, lambda k: f"{k.ledger}:layout"
    ),
    scripts.MARK: Probe(lambda k: (f"{k.ledger}:layout",), lambda _: ("", 0)),
    scripts.EPOCH: Probe(lambda k: (f"{k.ledger}:layout",), lambda _: ("",)),
    scripts.SET_ASIDE: Probe(
        lambda k: (k.dirty, k.claim, k.ledger, k.counters_prefix, k.aside_prefix), lambda _: (0, 1)
    ),
}


async def run_all(redis: Redis, config: Config) -> dict[str, str | None]:
    """The name of every script in `scripts.ALL` → None if it ran, else the error that Redis answered."""
    keys = dataclasses.asdict(Keys.of(config.redis).shard(0))
    scratch = ShardKeys(**{name: key + _SUFFIX for name, key in keys.items()})
    return {script.name: await _refusal(redis, script, PROBES[script], scratch, config) for script in scripts.ALL}


async def _refusal(redis: Redis, script: Script, probe: Probe, scratch: ShardKeys, config: Config) -> str | None:
    names = probe.names(scratch)
    call: tuple[Any, ...] = (len(names), *names, *probe.args(config))
    try:
        if probe.written is not None:
            async with redis.pipeline(transaction=True) as pipe:
                pipe.eval(script.source, *call)
                pipe.delete(probe.written(scratch))
                answer, _ = await pipe.execute(raise_on_error=False)
            if isinstance(answer, ResponseError):
                raise answer
        else:
            try:
                await redis.evalsha(script.sha, *call)
            except NoScriptError:
                await redis.eval(script.source, *call)
    except ResponseError as error:
        return f"{_CODES.get(type(error), '')}{error}"
    return None
