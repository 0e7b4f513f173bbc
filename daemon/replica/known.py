"""Which entities have a row, for the types whose table says `known = true`. The flusher asks before it writes a claim.

On a connection of its own: the shard's other one may hold the lock of a sync meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from daemon.config import ReplicaTable
from daemon.domain.entity import Entity
from daemon.replica.mysql import MysqlSink


class KnownIds:
    """Methods raise StoreError if MySQL fails or doesn't answer in time."""

    def __init__(self, mysql: MysqlSink, tables: Mapping[tuple[str, str], ReplicaTable]) -> None:
        self._mysql = mysql
        self._tables = {name: table for name, table in tables.items() if table.known}

    async def lacking(self, entities: Iterable[Entity]) -> set[str]:
        """The keys of these entities that have to have a row, and have none. Asks nothing about other types."""
        asked: dict[tuple[str, str], list[str]] = {}
        for domain, kind, id_ in entities:
            if (domain, kind) in self._tables:
                asked.setdefault((domain, kind), []).append(id_)
        lacking: set[str] = set()
        for (domain, kind), ids in asked.items():
            found = await self._mysql.having_rows(self._tables[domain, kind], ids)
            lacking.update(f"{domain}:{kind}:{id_}" for id_ in ids if id_ not in found)
        return lacking
