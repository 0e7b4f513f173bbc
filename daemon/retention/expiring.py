"""What the current batch has taken out of a rollup and not yet added to the sums of what expired. Reads only."""

from __future__ import annotations

from msgspec import Struct

from daemon.domain.rollup import EXPIRING
from daemon.retention.batch import Batches, Record, State, amounts_of, by_entity
from daemon.rollups.mongo import Json, MongoSink


class Expiring(Struct, frozen=True):
    """If two reads are equal, no batch moved anything between them. `marks`: rollup name → (number, state) of its
    batch.

    `sums`: rollup name → field → amount. `entities`: the keys of the entities in a batch. `through`: rollup name → the
    newest bucket that ever expired.
    """

    marks: dict[str, tuple[int, str]]
    sums: dict[str, dict[str, int]]
    entities: set[str]
    through: dict[str, str]


async def read_expiring(mongo: MongoSink) -> Expiring:
    expiring = Expiring({}, {}, set(), {})
    for kind in EXPIRING:
        batches = Batches(mongo, kind)
        record = await batches.record()
        expiring.marks[kind.name] = (record.n, record.state.value)
        expiring.through[kind.name] = record.through
        expiring.sums[kind.name] = amounts_of(await moving(batches, record))
        if record.state in (State.DELETING, State.FOLDING):
            expiring.entities.update(by_entity(record.documents))
    return expiring


async def moving(batches: Batches, record: Record) -> list[Json]:
    """The batch's documents that are in neither: deleted, and not yet added to the sums of what expired."""
    if record.state is State.DELETING:
        return await batches.deleted(record)
    return await batches.unfolded(record) if record.state is State.FOLDING else []
