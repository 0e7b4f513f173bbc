"""Where a process is killed (SIGKILL) at each step of the `STEPS` of a module, and a process that is.

Each step has its request on the wire, or its file. It is killed before, when the request has not reached the store, and
after, when the store has answered and the process has not heard of it. A step without a stop fails the tests.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from daemon.buffer import scripts
from daemon.domain.rollup import COARSER, DAILY, DOMAIN_DAILY, KINDS, TOTALS
from daemon.rollups.collections import (
    BACKFILLS,
    DEAD_LETTERS,
    DOMAIN_BUILDS,
    EPOCHS,
    EXPIRY,
    FLOORS,
    HISTORY_MARKS,
    JOURNAL,
)
from tests.kit.daemon import Daemon
from tests.kit.proxy import Fault, Proxy, command_of, update_of
from tests.kit.system import System, wait_until

COME_TIMEOUT_S = 60.0
AT_FILE = Path(__file__).with_name("at_file")
"""A folder for PYTHONPATH; see the module in it."""
BASES = (update_of(TOTALS.collection), b"base.view\x00")
NOTES = (update_of(TOTALS.collection), b"$max\x00", b"synced.view\x00")

BY_HOURS = {
    "TALLYD_DOMAINS": '{"jav": {"entity_types": ["movie", "actor", "tag"], "hourly": true}}',
    "TALLYD_RETENTION__HOURLY_DAYS": "0",
}
"""With it, a claim of movies is written to every rollup, whatever its events' age: each has a stop."""


class Stop(NamedTuple):
    """The `nth` request of a store that contains the markers. "disk": see `at_file`. "client": it has its answer."""

    store: str
    markers: bytes | tuple[bytes, ...]
    nth: int = 1


STOPS: dict[str, dict[str, tuple[Stop, ...]]] = {
    "daemon.flush.drain": {
        "floor": (Stop("mongo", command_of("find", FLOORS)),),
        "hold": (Stop("mongo", (update_of(FLOORS), b"hold\x00")),),
        "note_older": (Stop("mongo", (update_of(EPOCHS), b"$addToSet\x00")),),
        "open_epoch": (Stop("mongo", update_of(EPOCHS)),),
        "freeze": (Stop("redis", scripts.CLAIM.sha.encode(), nth=6),),
        "seal": (Stop("redis", scripts.CLAIM.sha.encode(), nth=2),),  # the first one meets a Redis that was emptied
        "confirm": (Stop("redis", b"\r\nWAIT\r\n"),),
        "look_up": (Stop("mysql", b"SELECT CAST(d.k AS CHAR), t.`uuid` FROM"),),
        "amend": (Stop("redis", scripts.AMEND.sha.encode()),),
        "journal": (Stop("mongo", command_of("insert", JOURNAL)),),
        "advance": (Stop("mongo", command_of("findAndModify", FLOORS)),),
        "write": tuple(Stop("mongo", update_of(kind.collection)) for kind in (*KINDS, DOMAIN_DAILY)),
        "bury": (Stop("mongo", update_of(DEAD_LETTERS)),),
        "list_due": (Stop("redis", scripts.ACK.sha.encode()),),
        "ack": (Stop("redis", scripts.ACK.sha.encode()),),
    },
    "daemon.flush.domains": {
        "begin": (Stop("mongo", command_of("findAndModify", DOMAIN_BUILDS)),),
        "fence": (Stop("mongo", command_of("findAndModify", FLOORS)),),
        "finish": (Stop("mongo", update_of(DAILY.collection), nth=2),),  # of the retry; the claim's is the first
        "write": (Stop("mongo", update_of(DOMAIN_DAILY.collection)),),
        "end": (Stop("mongo", (update_of(DOMAIN_BUILDS), b"before\x00")),),
        "forget": (Stop("mongo", command_of("delete", DOMAIN_DAILY.collection)),),
    },
    "daemon.replica.sync": {
        "lock": (Stop("mysql", b"GET_LOCK"),),
        "read": (Stop("mysql", b"SELECT CAST(d.k"),),
        "adopt": (Stop("mongo", BASES),),
        "begin_sync": (Stop("redis", scripts.BEGIN_SYNC.sha.encode()),),
        "update": (Stop("mysql", b"UPDATE `jav`"),),
        "note": (Stop("mongo", NOTES),),
        "end_sync": (Stop("redis", b"SREM"),),
        "unlock": (Stop("mysql", b"RELEASE_LOCK"),),
        "settle": (Stop("redis", scripts.SETTLE.sha.encode()),),
    },
    "daemon.move.backfill.run": {
        "page": (Stop("mysql", b"ORDER BY `uuid`"),),
        "make_due": (Stop("redis", b"ZADD"),),
        "adopt": (Stop("mongo", update_of(TOTALS.collection)),),
        "record": (Stop("mongo", update_of(BACKFILLS)),),
        "rebase": (Stop("mongo", BASES),),
    },
    "daemon.move.backfill.history": {
        "mark": (Stop("mongo", update_of(HISTORY_MARKS)),),
        "set_days": (Stop("mongo", update_of(DAILY.collection)),),
        "sum": tuple(Stop("mongo", update_of(kind.collection)) for kind in COARSER),
        "unmark": (Stop("mongo", command_of("delete", HISTORY_MARKS)),),
        "base_domains": (Stop("mongo", (update_of(DOMAIN_BUILDS), b"based\x00")),),
    },
    "daemon.retention.batch": {
        "begin": (Stop("mongo", update_of(EXPIRY)),),
        "mark": (Stop("mongo", update_of(DAILY.collection)),),
        "list_marked": (Stop("mongo", update_of(EXPIRY), nth=2),),
        "delete": (Stop("mongo", command_of("delete", DAILY.collection)),),
        "list_deleted": (Stop("mongo", update_of(EXPIRY), nth=3),),
        "fold": (Stop("mongo", update_of(DAILY.expired_collection)),),
        "end": (Stop("mongo", update_of(EXPIRY), nth=4),),
    },
    "daemon.importer.sender": {
        "count": (Stop("redis", scripts.INGEST.sha.encode(), nth=5),),
        "save": (Stop("redis", b"HSET\r\n$11\r\nanl:imports", nth=2),),
    },
    "daemon.buffer.layout": {
        "begin": (Stop("redis", scripts.EPOCH.sha.encode()),),
        "set_aside": (
            Stop("redis", scripts.SET_ASIDE.sha.encode()),
            Stop("redis", scripts.SET_ASIDE.sha.encode(), nth=2),
        ),
        "end": (Stop("redis", scripts.EPOCH.sha.encode(), nth=2),),
    },
    "daemon.ingest.durable": {
        "send": (Stop("redis", scripts.INGEST.sha.encode()),),
        "append": (Stop("disk", b"write .open", nth=2),),  # the first is the segment's header
        "fsync": (Stop("disk", b"fsync .open", nth=2),),
        "answer": (Stop("client", b""),),
    },
    "daemon.ingest.unconfirmed": {
        "keep": (Stop("disk", b"write .ring", nth=2),),  # the first is the file's header
        "answer": (Stop("client", b""),),
        "confirm": (Stop("redis", b"\r\nWAIT\r\n"),),
        "send_again": (Stop("redis", b"\r\nagain\r\n"),),
        "delete": (Stop("disk", b"unlink .ring"),),
    },
    "daemon.spool.replay": {
        "send": (Stop("redis", scripts.INGEST.sha.encode(), nth=2),),
        "set_aside": (Stop("disk", b"fsync damaged"),),
        "delete": (Stop("disk", b"unlink .seg"),),
    },
}
"""Module → step → the requests at which it is stopped."""


class Kill(NamedTuple):
    step: str
    stop: Stop
    fault: Fault

    @property
    def after(self) -> bool:
        return self.fault is Fault.LOSE_REPLY


def kills(module: str, *steps: str) -> pytest.MarkDecorator:
    """Parametrizes a test over `kill`: before and after each step of the module's STEPS, or of these of them."""
    stops = STOPS[module]
    assert stops.keys() == importlib.import_module(module).STEPS.keys()
    found = {
        f"{'after' if fault is Fault.LOSE_REPLY else 'before'} {step}" + f", request {n}" * (n > 1): Kill(
            step, stop, fault
        )
        for step in steps or stops
        for n, stop in enumerate(stops[step], start=1)
        for fault in (Fault if stop.store != "client" else (Fault.LOSE_REPLY,))
    }
    return pytest.mark.parametrize("kill", found.values(), ids=found.keys())


class Held(NamedTuple):
    """A `tallyd` that waits at the step once it comes there."""

    daemon: Daemon
    is_there: Callable[[], bool]

    def wait(self) -> None:
        wait_until(self.is_there, f"it comes there: {self.daemon.log}", COME_TIMEOUT_S)

    def kill(self) -> None:
        """It and its workers."""
        self.daemon.kill()


@contextmanager
def held(system: System, kill: Kill, *arguments: str, **env: Any) -> Iterator[Held]:
    """A `tallyd` that is on its way to the step."""
    store, markers, nth = kill.stop
    with ExitStack() as stack:
        reached = system.scratch / "reached"
        is_there = reached.exists
        if store == "disk":
            assert isinstance(markers, bytes)
            hold = f"{'after' if kill.after else 'before'} {nth} {markers.decode()}"
            env |= {"PYTHONPATH": str(AT_FILE), "HOLD": hold, "REACHED": str(reached)}
        elif store != "client":
            for script in scripts.ALL:
                system.redis.script_load(script.source)  # else the marked call is only told NOSCRIPT
            variable = f"{store.upper()}__URL"
            proxy = Proxy(system.environ(**env)[f"TALLYD_{variable}"], markers, kill.fault, nth=nth)
            stack.enter_context(proxy.running())
            env |= {variable: proxy.url()}
            is_there = proxy.tripped.is_set
        yield Held(stack.enter_context(Daemon(system, *arguments, **env)), is_there)


def killed(system: System, kill: Kill, *arguments: str, **env: Any) -> None:
    """A `tallyd` that came to the step and was killed there."""
    with held(system, kill, *arguments, **env) as process:
        process.wait()
        process.kill()
