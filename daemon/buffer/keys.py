"""Every key tallyd has in Redis, and which shard an entity or an address belongs to.

The shard is the hash tag, so all keys of one event lie in one slot of a Redis Cluster. `lua/` gets these names as KEYS
and makes longer ones from the prefixes among them; nobody else spells a key.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import dataclass

LAYOUT = "anl:layout"
"""Hash: how this Redis is laid out. See `layout.py`."""

IMPORTS = "anl:imports"
"""Hash: how far each imported file was taken in. See `imports.py`."""


@dataclass(frozen=True)
class ShardKeys:
    """The keys of one shard. Those that end in `prefix` only begin a key."""

    dirty: str
    claim: str
    replica: str
    syncing: str
    """Set: entities whose UPDATE is under way, or was when its flusher died. Of those that are on the replica list
    nobody knows which totals their rows hold."""
    refused: str
    """Hash: entity → why MySQL would not take its row. Those entities are on the replica list, too."""
    ledger: str
    seen: str
    """Hash about the dedupe memory, and the prefix of its sets."""
    counters_prefix: str
    rate_prefix: str
    aside_prefix: str


def shard_keys(shard: int) -> ShardKeys:
    tag = f"anl:{{{shard}}}"
    return ShardKeys(
        dirty=f"{tag}:dirty",
        claim=f"{tag}:claim",
        replica=f"{tag}:replica",
        syncing=f"{tag}:syncing",
        refused=f"{tag}:refused",
        ledger=f"{tag}:ledger",
        seen=f"{tag}:seen",
        counters_prefix=f"{tag}:counters",
        rate_prefix=f"{tag}:rate",
        aside_prefix=f"{tag}:aside",
    )


def shard_of(key: str, shards: int) -> int:
    """The shard of an entity key or a client address: CRC-32 modulo the number of shards."""
    return 0 if shards == 1 else zlib.crc32(key.encode()) % shards


def by_shard(entities: Iterable[str], shards: int) -> dict[int, list[str]]:
    """The entity keys of each shard, for the shards that have any."""
    parts: dict[int, list[str]] = {}
    for entity in entities:
        parts.setdefault(shard_of(entity, shards), []).append(entity)
    return parts
