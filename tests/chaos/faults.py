"""The faults: each a name, and a function that harms a world under load. Call `World.up` after each.

A fault at a step sets a trap on the line of one daemon to one store; the marker is in the request of that step. `hold`
means that the store has not seen the request when the daemon is hit, otherwise that it has carried it out.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from daemon.buffer import scripts
from tests.chaos.world import FROZEN_S, LEASE_MS, STORES, TIMEOUT_MS, World
from tests.kit import proxy
from tests.kit.oracle import ROLLUPS
from tests.kit.proxy import Trap, update_of
from tests.kit.wait import wait_until

STEP_TIMEOUT_S = 30.0
LATE_S = 2 * LEASE_MS / 1000

INGEST, CLAIM, ACK, SETTLE = (s.sha.encode() for s in (scripts.INGEST, scripts.CLAIM, scripts.ACK, scripts.SETTLE))
FLOOR = b"analytics_flush_floors"
BULKS = {name: update_of(f"analytics_entity_{name}") for name in ROLLUPS}
LOCK, UPDATE, UNLOCK = b"GET_LOCK", b"UPDATE `jav`", b"RELEASE_LOCK"

Act = Callable[[World, random.Random], None]


class Fault(NamedTuple):
    name: str
    act: Act


# A daemon at a step ------------------------------------------------------------------------------------------------


def _caught(world: World, daemon: str, store: str, marker: bytes, *, hold: bool) -> Trap:
    fault = proxy.Fault.HOLD_REQUEST if hold else proxy.Fault.LOSE_REPLY
    trap = world.proxies[daemon, store].trap(marker, fault, keep=hold)
    assert trap.tripped.wait(STEP_TIMEOUT_S), f"{daemon} never came to {marker!r}"
    return trap


def killed(daemon: str, store: str, marker: bytes, hold: bool, world: World, _dice: random.Random) -> None:
    """Dies there; the held request never arrives."""
    trap = _caught(world, daemon, store, marker, hold=hold)
    world.daemons[daemon].kill()
    trap.release(deliver=False)


def delivered_late(daemon: str, store: str, marker: bytes, world: World, _dice: random.Random) -> None:
    """Dies there; its request reaches the store when others have long taken over."""
    trap = _caught(world, daemon, store, marker, hold=True)
    world.daemons[daemon].kill()
    time.sleep(LATE_S)
    trap.release(deliver=True)


def frozen_past_lease(daemon: str, store: str, marker: bytes, hold: bool, world: World, _dice: random.Random) -> None:
    """Frozen there until another flusher has finished its claim; then its request arrives, and it wakes up."""
    trap = _caught(world, daemon, store, marker, hold=hold)
    world.daemons[daemon].freeze()
    held = world.claims().items()
    wait_until(lambda: not held & world.claims().items(), "another flusher finishes the claim", STEP_TIMEOUT_S)
    time.sleep(LEASE_MS / 1000)
    trap.release(deliver=True)
    world.daemons[daemon].thaw()


def frozen(daemon: str, store: str, marker: bytes, hold: bool, world: World, _dice: random.Random) -> None:
    """Frozen there for longer than every time-out."""
    trap = _caught(world, daemon, store, marker, hold=hold)
    world.daemons[daemon].freeze()
    time.sleep(FROZEN_S)
    trap.release(deliver=True)
    world.daemons[daemon].thaw()


def worker_killed(hold: bool, world: World, _dice: random.Random) -> None:
    """One ingest worker dies, not its main process; that ends then by itself."""
    trap = _caught(world, "ingest", "redis", INGEST, hold=hold)
    world.daemons["ingest"].kill_worker()
    trap.release(deliver=False)
    wait_until(
        lambda: not world.daemons["ingest"].running, "the ingest daemon ends when its worker has died", STEP_TIMEOUT_S
    )


def any_time(daemon: str, world: World, dice: random.Random) -> None:
    time.sleep(dice.random())
    world.daemons[daemon].kill()
    time.sleep(dice.random())


def stopped(daemon: str, world: World, _dice: random.Random) -> None:
    """SIGTERM."""
    world.daemons[daemon].end()


def both_flushers(world: World, dice: random.Random) -> None:
    for name in ("flush-a", "flush-b"):
        world.daemons[name].kill()
    time.sleep(dice.random())


# A server ----------------------------------------------------------------------------------------------------------


def server_killed(store: str, world: World, dice: random.Random) -> None:
    time.sleep(dice.random() / 2)
    world.servers[store].kill()
    time.sleep(dice.random())
    world.servers[store].start()


def server_frozen(store: str, world: World, _dice: random.Random) -> None:
    """Longer than every time-out."""
    world.servers[store].freeze()
    time.sleep(FROZEN_S)
    world.servers[store].thaw()


def server_restarted(store: str, world: World, _dice: random.Random) -> None:
    world.servers[store].stop()
    world.servers[store].start()


def ingest_and_redis_killed(world: World, dice: random.Random) -> None:
    """The events are in the spool when their daemon dies too."""
    world.servers["redis"].kill()
    time.sleep(1 + dice.random())
    world.daemons["ingest"].kill()
    world.servers["redis"].start()


def scripts_flushed(world: World, _dice: random.Random) -> None:
    world.redis.script_flush()


def out_of_memory(world: World, dice: random.Random) -> None:
    world.redis.config_set("maxmemory", "1")
    time.sleep(0.5 + dice.random())
    world.redis.config_set("maxmemory", "0")


def mongo_locked(world: World, _dice: random.Random) -> None:
    """mongod answers, but writes wait for longer than every time-out."""
    admin = world.mongo_client.admin
    admin.command("fsync", lock=True)
    time.sleep(FROZEN_S)
    admin.command("fsyncUnlock")


def rows_locked(world: World, _dice: random.Random) -> None:
    """Somebody else's transaction holds the rows for longer than our time-out."""
    holder = threading.Thread(
        target=world.sql, args=(f"SELECT SLEEP({FROZEN_S}) FROM (SELECT id FROM jav LIMIT 1 FOR UPDATE) d",)
    )
    holder.start()
    holder.join()


# The line ----------------------------------------------------------------------------------------------------------


def _lines_to(store: str, world: World) -> list[proxy.Proxy]:
    """`World.up` restores them."""
    return [line for (_, name), line in world.proxies.items() if name == store]


def replies_lost(store: str, world: World, dice: random.Random) -> None:
    """One reply in twenty is lost on every line to the store, for as long as two time-outs."""
    for line in _lines_to(store, world):
        line.lossy(0.05, dice.randrange(2**32))
    time.sleep(2 * TIMEOUT_MS / 1000)


def line_cut(store: str, world: World, dice: random.Random) -> None:
    """Nobody reaches the store for a while."""
    for line in _lines_to(store, world):
        line.cut()
    time.sleep(0.5 + dice.random())


WHEN = ((True, "before"), (False, "after"))
"""Whether the request is held, and what that is in a fault's name."""

BULK_STEPS = tuple((f"bulk {name}", "mongo", marker) for name, marker in BULKS.items())
CLAIM_STEP, FLOOR_STEP, ACK_STEP = ("claim", "redis", CLAIM), ("floor", "mongo", FLOOR), ("ack", "redis", ACK)
LOCK_STEP, UPDATE_STEP = ("GET_LOCK", "mysql", LOCK), ("UPDATE", "mysql", UPDATE)
SETTLE_STEP, UNLOCK_STEP = ("settle", "redis", SETTLE), ("RELEASE_LOCK", "mysql", UNLOCK)
"""The steps of a flusher, in this order: name, store, marker."""

KILLED_AT = (CLAIM_STEP, *BULK_STEPS, ACK_STEP, LOCK_STEP, UPDATE_STEP, SETTLE_STEP, UNLOCK_STEP)
LATE_AT = (CLAIM_STEP, FLOOR_STEP, BULK_STEPS[0], ACK_STEP, LOCK_STEP, UPDATE_STEP, SETTLE_STEP)
LEASE_LOST_AT = (
    *((True, "before", step) for step in (FLOOR_STEP, *BULK_STEPS, ACK_STEP)),
    *((False, "after", step) for step in (CLAIM_STEP, BULK_STEPS[0])),
)

FAULTS: tuple[Fault, ...] = (
    *(Fault(f"ingest killed {when} Lua", partial(killed, "ingest", "redis", INGEST, hold)) for hold, when in WHEN),
    *(Fault(f"ingest's worker killed {when} Lua", partial(worker_killed, hold)) for hold, when in WHEN),
    *(Fault(f"ingest frozen {when} Lua", partial(frozen, "ingest", "redis", INGEST, hold)) for hold, when in WHEN),
    Fault("ingest killed, its Lua call runs late", partial(delivered_late, "ingest", "redis", INGEST)),
    Fault("ingest killed while it spools", ingest_and_redis_killed),
    Fault("ingest stopped", partial(stopped, "ingest")),
    *(
        Fault(f"flusher killed {when} {what}", partial(killed, "flush-a", store, marker, hold))
        for what, store, marker in KILLED_AT
        for hold, when in WHEN
    ),
    *(
        Fault(f"flusher killed, its {what} arrives late", partial(delivered_late, "flush-a", store, marker))
        for what, store, marker in LATE_AT
    ),
    *(
        Fault(
            f"flusher frozen past its lease {when} {what}", partial(frozen_past_lease, "flush-a", store, marker, hold)
        )
        for hold, when, (what, store, marker) in LEASE_LOST_AT
    ),
    *(Fault(f"flusher frozen {when} UPDATE", partial(frozen, "flush-a", "mysql", UPDATE, hold)) for hold, when in WHEN),
    Fault("both flushers killed", both_flushers),
    Fault("flusher stopped", partial(stopped, "flush-a")),
    Fault("ingest killed at any time", partial(any_time, "ingest")),
    Fault("flush-a killed at any time", partial(any_time, "flush-a")),
    Fault("flush-b killed at any time", partial(any_time, "flush-b")),
    *(Fault(f"{store} killed", partial(server_killed, store)) for store in STORES),
    *(Fault(f"{store} frozen past every time-out", partial(server_frozen, store)) for store in STORES),
    *(Fault(f"{store} restarted", partial(server_restarted, store)) for store in STORES),
    *(Fault(f"{store}: replies lost", partial(replies_lost, store)) for store in STORES),
    *(Fault(f"{store}: line cut", partial(line_cut, store)) for store in STORES),
    Fault("redis forgets the scripts", scripts_flushed),
    Fault("redis out of memory", out_of_memory),
    Fault("mongo takes no writes", mongo_locked),
    Fault("mysql rows locked by another", rows_locked),
)

ENDS_NO_PROCESS = tuple(
    fault for fault in FAULTS if not any(part in fault.name for part in ("killed", "stopped", "restarted"))
)
"""After these, every process is the one it was before."""
