"""One private system: three servers, one ingest daemon, two flushers, and a proxy between every daemon and store.

Everything can be killed, frozen and started again. The stores are read past the proxies.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tests.kit.daemon import Daemon, Ingest, answer_of
from tests.kit.oracle import COUNTERS, ROLLUPS, Rollups, before
from tests.kit.proxy import Proxy
from tests.kit.servers import Stack
from tests.kit.stores import Stores
from tests.kit.system import System
from tests.kit.wait import POLL_S, wait_until

DATABASE = "tallyd"
READY_TIMEOUT_S = 60.0
DRAIN_TIMEOUT_S = 90.0
LEASE_MS = 700
TIMEOUT_MS = 1_000
"""Of every store. A freeze of `FROZEN_S` is longer than all of them."""
FROZEN_S = 2.2
ROWS_MAX = 500
PATIENCE_MS = "20000"
"""Time-out of the audit, which compares while the machine is busy."""

QUICK = {
    "INGEST__CALL_EVENTS_MAX": "500",
    "REDIS__TIMEOUT_MS": str(TIMEOUT_MS),
    "REDIS__RECONNECT_MS": "50",
    "MONGO__TIMEOUT_MS": str(TIMEOUT_MS),
    "MYSQL__TIMEOUT_MS": str(TIMEOUT_MS),
    "MYSQL__LOCK_TIMEOUT_S": "1",
    "MYSQL__ROWS_MAX": str(ROWS_MAX),
    "SPOOL__PROBE_MS": "100",
    "SPOOL__SEGMENT_BYTES": "262144",
    "FLUSH__LEASE_MS": str(LEASE_MS),
    "FLUSH__INTERVAL_S": "0.2",
    "FLUSH__POLL_MS": "50",
    "FLUSH__THRESHOLD": "100",
    "FLUSH__CLAIM_ENTITIES_MAX": "200",
    "FLUSH__CLAIM_US_MAX": "100",
    "FLUSH__RETRY_MS": "100",
    "FLUSH__RETRY_MAX_MS": "500",
}
"""Short times and small batches, so that a short run meets many of each."""

STORES = ("redis", "mongo", "mysql")
DAEMONS = {"ingest": ("redis",), "flush-a": STORES, "flush-b": STORES}
"""Each daemon and the stores it talks to."""


class World(System):
    """Create it with `raised`. Methods are for one thread, the one that made it."""

    def __init__(self, stack: Stack, proxies: Mapping[tuple[str, str], Proxy], settings: Mapping[str, str]) -> None:
        super().__init__(stack, stack.folder, database=DATABASE)
        self.env |= self.environ(**settings)
        self.shards = self.config().redis.shards
        self.spool = Path(self.config().spool.dir)
        self.servers = stack.servers
        self.proxies = proxies
        self.movies: frozenset[str] = frozenset()
        """Those that have a row."""
        urls = {
            name: {f"{store.upper()}__URL": proxies[name, store].url() for store in stores}
            for name, stores in DAEMONS.items()
        }
        self.serving = Ingest(self, **urls["ingest"])
        flushers = {name: Daemon(self, "flush", name=name, **urls[name]) for name in ("flush-a", "flush-b")}
        self.daemons: dict[str, Daemon] = {"ingest": self.serving, **flushers}

    # Up and down ------------------------------------------------------------------------------------------------

    def up(self) -> None:
        """Everything that does not run is started, every line restored; returns once the ingest daemon is ready."""
        for proxy in self.proxies.values():
            proxy.restore()
        for server in self.servers.values():
            server.start()
        for daemon in self.daemons.values():
            daemon.start()
            daemon.thaw()
        for server in self.servers.values():
            server.thaw()
        wait_until(
            lambda: answer_of(self.serving.url, "/readyz").get("status") == "ready",
            "the ingest daemon is ready",
            READY_TIMEOUT_S,
        )

    def add_movies(self, *uuids: str) -> None:
        """With rows that hold counts of before."""
        self.movies = frozenset(uuids)
        for id_ in sorted(uuids):
            self.sql("INSERT INTO jav (uuid, views, downloads) VALUES (%s, %s, %s)", id_, *before(id_).values())

    # Their content ----------------------------------------------------------------------------------------------

    def claims(self) -> dict[int, bytes]:
        """Shard → the first part of the batch in flight; its seq changes while it grows, and that does not."""
        fields = {shard: self.redis.hkeys(f"anl:{{{shard}}}:claim") for shard in range(self.shards)}
        parts = {shard: [each for each in found if each.startswith(b"payload")] for shard, found in fields.items()}
        return {shard: min(found) for shard, found in parts.items() if found}

    def left(self) -> list[str]:
        """The amounts that are still on their way."""
        found = [f"{path.name} in the spool" for path in self.spool.glob("*.open")]
        found += [f"{path.name} in the spool" for path in self.spool.glob("*.seg")]
        for shard in range(self.shards):
            tag = f"anl:{{{shard}}}"
            found += [f"shard {shard}: {n} dirty" for n in [self.redis.scard(f"{tag}:dirty")] if n]
            found += [f"shard {shard}: claim {seq!r}" for seq in [self.redis.hget(f"{tag}:claim", "seq")] if seq]
            found += [f"shard {shard}: {n} due for MySQL" for n in [self.redis.zcard(f"{tag}:replica")] if n]
        return found

    def drain(self) -> None:
        """Waits until everything that was accepted has arrived everywhere."""
        deadline_s = time.monotonic() + DRAIN_TIMEOUT_S
        while left := self.left():
            assert time.monotonic() < deadline_s, f"not drained within {DRAIN_TIMEOUT_S:g} s: {left}"
            time.sleep(POLL_S)
        counters = [key for shard in range(self.shards) for key in self.redis.scan_iter(f"anl:{{{shard}}}:counters:*")]
        assert not counters, f"live counts of entities that are not dirty: {counters[:5]}"

    def documents(self) -> Rollups:
        """Every document of the five collections, whole but for `updated_at`, `flush_seq`, the base, which has to be
        what the row said before (nobody ran a backfill), and what the row holds, at most what was counted."""
        found: Rollups = {}
        for name in ROLLUPS:
            documents = found[name] = {}
            for document in self.mongo[f"analytics_entity_{name}"].find():
                seq = document.pop("flush_seq")
                assert isinstance(seq, int)
                document.pop("updated_at")
                kind, id_ = document["entity_type"], document["entity_id"]
                mapped = name == "totals" and kind == "movie" and id_ in self.movies
                assert document.pop("base", None) == (before(id_) if mapped else None)
                held = document.pop("synced", {})
                assert all(amount <= document[counter] for counter, amount in held.items())
                documents[document["_id"]] = document
        return found

    def deep_audit(self) -> dict[str, Any]:
        """The report of a patient `tallyd audit --deep`. It has to hold."""
        return self.audit("--deep", check=True, **{f"{name.upper()}__TIMEOUT_MS": PATIENCE_MS for name in STORES})

    def accepted(self) -> dict[str, int]:
        ledger = self.ledger()
        return {counter: ledger.get(f"accepted:{counter}", 0) for counter in COUNTERS}


@contextmanager
def raised(
    path: Path, *, shards: int = 1, appendfsync: str = "always", quick: bool = True, **settings: str
) -> Iterator[World]:
    """A world that is up; everything is stopped at the end.

    `quick`: with the times and sizes of `QUICK` instead of tallyd's defaults. `settings`: keys without TALLYD_.
    """
    with ExitStack() as cleanup:
        stack = cleanup.enter_context(Stack(path, appendfsync=appendfsync))
        proxies = {
            (daemon, store): cleanup.enter_context(Proxy(lambda at=stack.servers[store]: at.url).running())
            for daemon, stores in DAEMONS.items()
            for store in stores
        }
        world = World(stack, proxies, {"REDIS__SHARDS": str(shards), **(QUICK if quick else {}), **settings})
        cleanup.callback(Stores.close, world)  # its databases go with the stack
        for daemon in world.daemons.values():
            cleanup.callback(daemon.kill)
        world.up()
        yield world
