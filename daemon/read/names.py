"""What MySQL says of entities beside their counts. Without MySQL reads are answered all the same, without names."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from daemon.config import Config, replica_tables
from daemon.errors import StoreError
from daemon.read.stores import Stores


class Names:
    """Of one configuration."""

    def __init__(self, config: Config, stores: Stores) -> None:
        self._tables = replica_tables(config)
        self._stores = stores

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
