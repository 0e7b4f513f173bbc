"""The artifacts as JSON Schema. The file beside this one is what `document` returns; a test compares them, and
`tallyd report schema` prints it.
"""

from __future__ import annotations

from pathlib import Path
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

FILE = Path(__file__).with_name(f"{SCHEMA_VERSION}.schema.json")


def document() -> bytes:
    """An artifact is valid by what every producer writes; what tallyd adds is in `$defs`, under its own names."""
    minimal = (ParityV1, RollbackV1, Manifest)
    _, components = msgspec.json.schema_components((*minimal, ParityArtifact, RollbackArtifact, DrillArtifact))
    whole: dict[str, Any] = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": SCHEMA_VERSION,
        "anyOf": [{"$ref": f"#/$defs/{each.__name__}"} for each in minimal],
        "$defs": components,
    }
    return msgspec.json.format(msgspec.json.encode(whole), indent=2) + b"\n"
