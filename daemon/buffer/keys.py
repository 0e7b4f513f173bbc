"""Every key tallyd has in Redis, and which shard an entity or an address belongs to.

The shard is the hash tag, so all keys of one event lie in one slot of a Redis Cluster. The scripts in `lua/` get these
names as KEYS, and make longer ones from the prefixes among them. Nobody else spells a key.

A script that touches keys under a prefix must have the prefix itself in its KEYS. No such key exists, and that protects
the others while a cluster moves the slot: Redis refuses the script (TRYAGAIN, ASK), because one of its keys is missing.
Without the prefix, the script would begin, and fail halfway at a key that has moved already.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Self, TypeVar

from daemon.config import RedisSection, is_cluster

T = TypeVar("T")


@dataclass(frozen=True)
class ShardKeys:
    """The keys of one shard. Those that end in `prefix` only begin a key."""

    layout: str
    """Hash: in a cluster, how this shard is laid out. See `layout.py`."""
    dirty: str
    claim: str
    due: str
    """Sorted set: entities whose MySQL row must be set, scored by the seq that made them due."""
    syncing: str
    """Set: entities whose UPDATE is under way, or was when its flusher died. If such an entity is due, nobody knows
    which totals its row holds."""
    refused: str
    """Hash: entity → why MySQL refused its row. These entities are due, too."""
    ledger: str
    seen: str
    """Hash about the dedupe memory, and the prefix of its sets."""
    counters_prefix: str
    rate_prefix: str
    visit_prefix: str
    """Strings that expire: who did what to which entity lately, as a hash."""
    aside_prefix: str


class Keys:
    """All keys of one system. Names are built once, at a start."""

    def __init__(self, prefix: str, *, cluster: bool = False) -> None:
        """`prefix`: `redis.prefix`. Two systems on one Redis have different ones. `cluster`: what belongs to no shard
        lies beside shard 0, in its slot."""
        self.prefix = prefix
        self.are_of_cluster = cluster
        if cluster:
            prefix += ":{0}"
        self.layout = f"{prefix}:layout"
        """Hash: how this Redis is laid out. See `layout.py`."""
        self.imports = f"{prefix}:imports"
        """Hash: how far each imported file was taken in. See `imports.py`."""
        self.used = f"{prefix}:keys"
        """Hash: id of a producer's key → when it was last used, in seconds since the epoch."""
        self.spools = f"{prefix}:spools"
        """Hash: name of a spool → what it held when its host last reported. See `spool/register.py`."""
        self.salt_prefix = f"{prefix}:salt"
        """String: the secret of a day that visitors are hashed with. It expires. See `ingest/visitors.py`."""
        self.acl = f"~{self.prefix}:*"
        """What a user of Redis may touch."""

    @classmethod
    def of(cls, section: RedisSection) -> Self:
        return cls(section.prefix, cluster=is_cluster(section.url))

    def layout_of(self, shard: int) -> str:
        """The layout that a shard goes by. In a cluster each has its own."""
        return self.shard(shard).layout if self.are_of_cluster else self.layout

    def shard(self, number: int) -> ShardKeys:
        return _shard_keys(f"{self.prefix}:{{{number}}}")


def _shard_keys(tag: str) -> ShardKeys:
    return ShardKeys(
        layout=f"{tag}:layout",
        dirty=f"{tag}:dirty",
        claim=f"{tag}:claim",
        due=f"{tag}:replica",
        syncing=f"{tag}:syncing",
        refused=f"{tag}:refused",
        ledger=f"{tag}:ledger",
        seen=f"{tag}:seen",
        counters_prefix=f"{tag}:counters",
        rate_prefix=f"{tag}:rate",
        visit_prefix=f"{tag}:visit",
        aside_prefix=f"{tag}:aside",
    )


def shard_of(key: str, shards: int) -> int:
    """The shard of an entity key or a client address: CRC-32 modulo the number of shards."""
    return 0 if shards == 1 else zlib.crc32(key.encode()) % shards


def by_shard(items: Iterable[T], shards: int, key: Callable[[T], str]) -> dict[int, list[T]]:
    """The items of each shard, in their order; only shards that have some. `key`: the entity key of an item."""
    if shards == 1:
        together = list(items)
        return {0: together} if together else {}
    found: dict[int, list[T]] = {}
    for item in items:
        found.setdefault(shard_of(key(item), shards), []).append(item)
    return found
