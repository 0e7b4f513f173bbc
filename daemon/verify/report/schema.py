"""The artifacts as JSON Schema, made from their structs. `tallyd report schema` prints it; nothing else uses it."""

from __future__ import annotations

from typing import Any

import msgspec

from daemon.verify.report.artifact import (
    SCHEMA_VERSION,
    DrillArtifact,
    Manifest,
    ParityArtifact,
    ParityV1,
    RollbackArtifact,
    RollbackV1,
)


def document() -> bytes:
    """The schema. It asks for the fields that every producer writes. The fields that tallyd adds are in `$defs`."""
    minimal = (ParityV1, RollbackV1, Manifest)
    _, components = msgspec.json.schema_components((*minimal, ParityArtifact, RollbackArtifact, DrillArtifact))
    whole: dict[str, Any] = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": SCHEMA_VERSION,
        "anyOf": [{"$ref": f"#/$defs/{each.__name__}"} for each in minimal],
        "$defs": components,
    }
    return msgspec.json.format(msgspec.json.encode(whole), indent=2) + b"\n"
