"""A mismatch in the format of files: the row of `analytics-artifact.v1`, for any mapped counters.

For `jav.movie` with `view = "views"` and `download = "downloads"` that is: code, key, entity_type, mysql_views,
mysql_downloads, mongo_views, mongo_downloads.
"""

from __future__ import annotations

from daemon.config import ReplicaTable
from daemon.verify.parity.compare import Mismatch

Row = dict[str, str | int | None]


def row_of(mismatch: Mismatch, entity_type: str, table: ReplicaTable) -> Row:
    """`entity_type`: as in the configuration, `jav.movie`. `code` is the label, or the key without one."""
    row: Row = {"code": mismatch.label or mismatch.key, "key": mismatch.key, "entity_type": entity_type}
    for store, amounts in (("mysql", mismatch.mysql), ("mongo", mismatch.mongo)):
        row |= {f"{store}_{column}": amounts[counter] for counter, column in table.columns.items()}
    return row
