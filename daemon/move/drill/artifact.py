"""The artifact that a drill writes, beside those of a report."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

from daemon.move.drill.rollback import Drilled
from daemon.verify.report import archive
from daemon.verify.report.artifact import SCHEMA_VERSION, DrillArtifact


def write(folder: Path, drilled: Drilled) -> tuple[str, DrillArtifact]:
    """Writes rollback/drill-YYYY-MM-DD.json (UTC) and adds it to the folder's manifest. Returns its name and content.

    Raises FileError.
    """
    now = dt.datetime.now(dt.UTC).replace(microsecond=0)
    outcome = "Every step held." if drilled.ok else "A step failed: see steps."
    artifact = DrillArtifact(
        schema_version=SCHEMA_VERSION, artifact_type="rollback", artifact_date=now.date(), generated_at=now,
        ingest_route_present=drilled.ingest_route_present,
        legacy_movie_view_route_present=drilled.legacy_movie_view_route_present,
        notes=f"A drill on servers of its own, with the demo table. {outcome}", steps=drilled.steps,
    )  # fmt: skip
    name = f"rollback/drill-{now.date()}.json"
    archive.update_manifest(folder, {name: archive.write(folder, name, artifact)}, now)
    return name, artifact
