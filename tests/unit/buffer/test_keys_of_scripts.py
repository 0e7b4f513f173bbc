"""The KEYS of each script that touches more than one key hold a name that no key ever has.

While a cluster moves a slot, Redis refuses a call if one of its KEYS is missing. That name is always missing. So no
script begins where some of its keys have moved already, and fails between two writes. See `keys.py`.
"""

from __future__ import annotations

import asyncio
import dataclasses
import re
from collections.abc import Sequence
from typing import Any

import pytest

from daemon.buffer import layout, scripts
from daemon.buffer.confirm import Memory
from daemon.buffer.connection import Connection
from daemon.buffer.counters import Counters, Limits
from daemon.buffer.keys import Keys
from daemon.buffer.layout import Layout
from daemon.buffer.pending import Pending
from daemon.buffer.scripts import Script
from daemon.config import load
from daemon.doctor.probes import PROBES
from daemon.domain.claim import NO_CLAIM
from daemon.errors import StoreError

KEYS = Keys("p")
SHARD = KEYS.shard(0)
PREFIXES = {name for field, name in dataclasses.asdict(SHARD).items() if field.endswith("_prefix")}
ONE_KEY = (scripts.UNFOLD, scripts.BEGIN_SYNC, scripts.SETTLE, scripts.LAYOUT, scripts.MARK, scripts.EPOCH)
"""They touch their only key, so a call has all it needs or begins nothing."""


def only_begins_keys(script: Script) -> set[int]:
    """The numbers of the KEYS that the script uses only to begin longer names."""
    source = re.sub(r"--[^\n]*", "", script.source)
    used = {int(n) for n in re.findall(r"KEYS\[(\d+)\]", source)}
    whole = {int(n) for n in re.findall(r"KEYS\[(\d+)\](?! \.\. ':')", source)}
    return used - whole


@pytest.mark.parametrize("script", [each for each in scripts.ALL if each not in ONE_KEY], ids=lambda each: each.name)
def test_a_script_of_several_keys_has_one_that_never_exists(script: Script) -> None:
    names = PROBES[script].names(SHARD)
    begins = {names[number - 1] for number in only_begins_keys(script)}
    assert begins & PREFIXES


@pytest.mark.parametrize("script", ONE_KEY, ids=lambda each: each.name)
def test_a_script_of_one_key_makes_no_longer_name_of_it(script: Script) -> None:
    assert len(PROBES[script].names(SHARD)) == 1
    assert only_begins_keys(script) == set()


def test_the_daemons_call_the_scripts_with_these_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    called: dict[Script, tuple[str, ...]] = {}

    async def run(self: Connection, script: Script, names: Sequence[str], args: object) -> Any:
        called[script] = tuple(names)
        if script is scripts.EPOCH:
            return b"1"
        raise StoreError("no server")

    async def connected(self: Counters) -> Memory:
        return Memory("", 0)

    monkeypatch.setattr(Connection, "run", run)
    monkeypatch.setattr(Counters, "connected", connected)
    config = load(environ={"TALLYD_REDIS__URL": "redis://nowhere", "TALLYD_REDIS__PREFIX": "p"})
    connection = Connection(config.redis, Layout(config))
    counters = Counters(connection, 0, Limits.of(config))
    limits: dict[str, int] = {"lease_ms": 1, "entities_max": 1, "fields_max": 1, "us_max": 1}

    async def call_all() -> None:
        for call in (
            counters.ingest([]),
            counters.claim(dict, owner="a", floor=NO_CLAIM, **limits),  # type: ignore[arg-type]
            counters.ack(NO_CLAIM, 0, [], []),
            counters.amend(NO_CLAIM, 0, [], [], []),
            counters.begin_sync([]),
            counters.settle([]),
            Pending(connection, 0, 1).of("e"),
            connection.ping(),
            connection.mark(),
            layout.begin_epoch(connection.run, KEYS, KEYS.layout, range(1), ""),
        ):
            with pytest.raises(StoreError):
                await call

    asyncio.run(call_all())
    del called[scripts.LAYOUT], called[scripts.MARK], called[scripts.EPOCH]  # of no shard
    assert called == {script: tuple(PROBES[script].names(SHARD)) for script in called}
    assert called.keys() >= {script for script in scripts.ALL if script not in ONE_KEY}
