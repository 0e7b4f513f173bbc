"""The largest rows of MySQL beside the largest totals of MongoDB: a first look after a backfill. Reads only."""

from __future__ import annotations

from itertools import zip_longest

from msgspec import Struct

from daemon.config import ReplicaTable
from daemon.domain.rollup import TOTALS
from daemon.replica.mysql import MysqlSink
from daemon.rollups.errors import store_error
from daemon.rollups.mongo import MongoSink

LARGEST = 5
RANKED_ROWS = 100
"""Rows of MySQL that are read. Those without a key are left out: no total can be theirs."""


class Place(Struct, frozen=True):
    """One place of the two lists. None where a list is shorter."""

    mysql_id: str | None
    mysql: int | None
    mongo_id: str | None
    mongo: int | None


class Comparison(Struct, frozen=True):
    name: str
    counter: str
    places: list[Place]

    @property
    def equal(self) -> bool:
        """Whether the amounts are equal, place by place. Equal amounts may come in any order."""
        return all(place.mysql == place.mongo for place in self.places)


async def compare(mongo: MongoSink, mysql: MysqlSink, entity_type: tuple[str, str], table: ReplicaTable) -> Comparison:
    """By the first mapped counter. Raises StoreError. MongoDB reads all totals of the type: the sum has no index."""
    counter = next(iter(table.columns))
    ranked = [row async for part in mysql.ranked(table, RANKED_ROWS, RANKED_ROWS) for row in part if row.id]
    rows = [(row.id, row.values[counter]) for row in ranked[:LARGEST]]
    amount = {"$sum": [f"${counter}", f"$base.{counter}"]}  # a missing field, or one that is no number, is 0
    with store_error(mongo.address):
        cursor = await mongo.collection(TOTALS).aggregate(
            [
                {"$match": {"domain": entity_type[0], "entity_type": entity_type[1]}},
                {"$project": {"entity_id": 1, "amount": amount}},
                {"$sort": {"amount": -1, "entity_id": 1}},
                {"$limit": LARGEST},
            ]
        )
        totals = [(document["entity_id"], int(document["amount"])) async for document in cursor]
    places = [Place(*left, *right) for left, right in zip_longest(rows, totals, fillvalue=(None, None))]
    return Comparison(".".join(entity_type), counter, places)
