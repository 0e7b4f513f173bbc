"""The MySQL rows of entities, beside their counts. Without MySQL reads are answered all the same, without names."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from daemon.config import Config, replica_tables
from daemon.errors import StoreError
from daemon.read.gate import RefusedReadError
from daemon.read.stores import Stores

AWAY = "MySQL cannot be asked at the moment, and only MySQL has the labels."
NOT_INDEXED = "Nobody can be found by the label: its column has no index. tallyd doctor says more."


class Names:
    """Of one configuration."""

    def __init__(self, config: Config, stores: Stores) -> None:
        self._tables = replica_tables(config)
        self._stores = stores
        self._found_max = config.read.top_limit_max

    def has_label(self, domain: str, entity_type: str) -> bool:
        """Whether `find` may be asked."""
        table = self._tables.get((domain, entity_type))
        return table is not None and bool(table.label)

    async def find(self, domain: str, entity_type: str, label: str) -> dict[str, dict[str, Any]]:
        """The same as `rows`, of the entities with this label. Raises RefusedReadError if MySQL can't say which."""
        try:
            found = await self._stores.labelled(self._tables[domain, entity_type], label, self._found_max)
        except StoreError as error:
            self._stores.note(error)
            raise RefusedReadError(AWAY) from None
        if found is None:
            raise RefusedReadError(NOT_INDEXED)
        return found

    async def rows(self, domain: str, entity_type: str, ids: Collection[str]) -> dict[str, dict[str, Any]] | None:
        """Entity id → the `enrich` columns of its row; None if there are none to be had."""
        table = self._tables.get((domain, entity_type))
        if table is None or not table.enrich:
            return None
        try:
            return await self._stores.describe(table, list(ids))
        except StoreError as error:
            self._stores.note(error)
            return None
