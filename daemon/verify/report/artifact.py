"""The artifacts of `analytics-artifact.v1` as structs, and their JSON Schema, which `tallyd report schema` prints.

`ParityV1` and `RollbackV1` hold the fields that every producer of the schema writes, and each other producer's verifier
asks for. `ParityArtifact`, `CheckArtifact`, `RollbackArtifact` and `DrillArtifact` are what tallyd writes.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from daemon.verify.parity import Tally

SCHEMA_VERSION: Literal["analytics-artifact.v1"] = "analytics-artifact.v1"

Count = Annotated[int, Meta(ge=0)]
Instant = Annotated[
    str, Meta(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(Z|[+-]\d\d:\d\d)$", extra_json_schema={"format": "date-time"})
]
Amounts = dict[str, int]
Row = Annotated[
    dict[str, str | int | None],
    Meta(
        description="A row of MySQL beside its totals: mysql_<column> and mongo_<column> for each mapped column.",
        extra_json_schema={"required": ["code"], "patternProperties": {"^(mysql|mongo)_": {"type": "integer"}}},
    ),
]


class ParityV1(Struct, kw_only=True):
    """Whether MySQL said what MongoDB said. `limit`: of the rows that were compared."""

    schema_version: Literal["analytics-artifact.v1"]
    artifact_type: Literal["parity"]
    artifact_date: dt.date
    generated_at: str
    limit: Count
    checked: Count
    mismatches: Count
    rows: list[Row]


class RollbackV1(Struct, kw_only=True):
    """Whether the application could go back to counting by itself. A route that did not answer is not present, and
    `notes` says so."""

    schema_version: Literal["analytics-artifact.v1"]
    artifact_type: Literal["rollback"]
    generated_at: str
    ingest_route_present: bool
    legacy_movie_view_route_present: bool
    notes: list[str]


class Disagreement(Struct, frozen=True):
    """An entity of which a bucket holds more than one it lies in. `inner`, `outer`: "daily 2026-02-19", "totals". The
    hours of a day are one: "hourly 2026-02-19"."""

    entity: str
    counter: str
    inner: str
    inner_amount: int
    outer: str
    outer_amount: int


class Agreement(Struct, frozen=True):
    """Whether each day lies within its week, month, year and total. `entities`: how many of those active that day were
    compared, at most as many as the report's limit. `some`: of the disagreements."""

    entities: Count
    disagreements: Count
    some: list[Disagreement]


class Day(Struct, frozen=True):
    """What is known of the artifact's day. `sums`: its daily documents, per counter. `live`: counted in Redis and not
    claimed yet. `in_flight`: claimed, and perhaps in `sums` already. `expired`: its daily documents were given up by
    the configured retention, so `sums` holds only what came late."""

    date: dt.date
    sums: Amounts
    live: Amounts
    in_flight: Amounts
    expired: bool
    agreement: Agreement


class Waiting(Struct, frozen=True):
    """What is on its way, now: amounts per counter, entities, rows, letters, and the spool of this machine."""

    live: Amounts
    in_flight: Amounts
    dirty_entities: Count
    due_rows: Count
    dead_letters: Count
    spool_segments: Count
    spool_bytes: Count

    @property
    def is_nothing(self) -> bool:
        amounts = (*self.live.values(), *self.in_flight.values())
        return not any((*amounts, self.due_rows, self.dead_letters, self.spool_segments))


class ParityArtifact(ParityV1, kw_only=True):
    """One a day. The parity is that of `generated_at`; `day` is about the day."""

    generated_at: Instant
    types: list[Tally]
    pending: Waiting
    day: Day


class CheckArtifact(ParityV1, kw_only=True):
    """The result of `parity-check`. `limit` 0: every row was compared. `pending`: rows that a flush makes equal."""

    generated_at: Instant
    types: list[Tally]
    pending: Count


class RollbackArtifact(RollbackV1, kw_only=True):
    """`enabled`: the switch, as this machine's configuration has it. `checked`: all rows. `safe`: MySQL equals MongoDB
    and nothing waits, so no count is lost if the application goes on from its columns."""

    artifact_date: dt.date
    generated_at: Instant
    enabled: bool
    pending: Waiting
    checked: Count
    mismatches: Count
    mysql_equals_mongo: bool
    safe: bool


class Step(Struct, frozen=True):
    """A step of a drill: what was done, what was found, and whether that is what had to be."""

    step: str
    found: str
    ok: bool


class DrillArtifact(RollbackV1, kw_only=True):
    """A rollback that was rehearsed (`daemon.move.drill`), up to the first step that failed.

    Its routes are those of the drill's own servers. One that the drill did not reach is not present.
    """

    artifact_date: dt.date
    generated_at: Instant
    steps: list[Step]


class FileSum(Struct, frozen=True):
    bytes: Count
    sha256: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")]


class Manifest(Struct, kw_only=True):
    """Every file beside it, by its path."""

    schema_version: Literal["analytics-artifact.v1"]
    artifact_type: Literal["manifest"]
    generated_at: Instant
    files: dict[str, FileSum]


OF_EVERY_PRODUCER: dict[str, type[Struct]] = {"parity": ParityV1, "rollback": RollbackV1, "manifest": Manifest}
"""`artifact_type` → the fields that every producer writes."""
OF_TALLYD: dict[str, type[Struct]] = {
    "parity": ParityArtifact, "check": CheckArtifact, "rollback": RollbackArtifact, "drill": DrillArtifact,
    "manifest": Manifest,
}  # fmt: skip
"""The fields that tallyd writes. The `artifact_type` of a check is parity, of a drill rollback."""


def instant(at: dt.datetime) -> str:
    """As an artifact says it: to the second, in UTC."""
    return f"{at.astimezone(dt.UTC):%Y-%m-%dT%H:%M:%SZ}"


def has_own_fields(artifact: Mapping[str, Any]) -> bool:
    """Whether it has fields besides those of every producer, as each artifact of tallyd has."""
    kind = OF_EVERY_PRODUCER.get(str(artifact.get("artifact_type")))
    return kind is not None and bool(artifact.keys() - {field.name for field in msgspec.structs.fields(kind)})


def encode(artifact: Struct | dict[str, Any]) -> bytes:
    """As it is written: indented, the keys in the order of the struct."""
    plain: Any = msgspec.to_builtins(artifact)
    return msgspec.json.format(msgspec.json.encode(plain), indent=2) + b"\n"


def schema() -> bytes:
    """It asks for the fields that every producer writes. The fields that tallyd adds are in `$defs`."""
    _, components = msgspec.json.schema_components((*OF_EVERY_PRODUCER.values(), *OF_TALLYD.values()))
    return encode(
        {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "title": SCHEMA_VERSION,
            "anyOf": [{"$ref": f"#/$defs/{each.__name__}"} for each in OF_EVERY_PRODUCER.values()],
            "$defs": components,
        }
    )
