"""Running `tallyd backfill` in a test: rows of before, the run in this process, and everything in MongoDB."""

from __future__ import annotations

import asyncio
import json
import threading
from pathlib import Path
from typing import Any

from daemon.config import replica_tables
from daemon.move.backfill import session
from daemon.move.backfill.changes import Change
from daemon.move.backfill.session import Outcome
from tests.kit.system import ROLLUPS, System, event


class Recorder:
    """A watcher that remembers, and stops the run after so many rows."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.rows = 0
        self.changes: list[Change] = []
        self.stopping = threading.Event()
        self._stop_after = stop_after

    def begin(self, name: str, rows: int, done: int) -> None: ...

    def advance(self, rows: int) -> None:
        self.rows += rows
        if self._stop_after is not None and self.rows >= self._stop_after:
            self.stopping.set()

    def change(self, change: Change) -> None:
        self.changes.append(change)


def backfill(
    system: System,
    *,
    recorder: Recorder | None = None,
    chunk: int = 500,
    dry_run: bool = False,
    daily: Path | None = None,
    reconcile: bool = False,
    **env: str,
) -> Outcome:
    """`tallyd backfill`, in this process."""
    config, watcher = system.config(**env), recorder or Recorder()
    return asyncio.run(
        session.run(
            config, replica_tables(config), watcher, watcher.stopping,
            chunk=chunk, dry_run=dry_run, daily=daily, reconcile=reconcile,
        )
    )  # fmt: skip


def add_rows(system: System, rows: dict[str, tuple[int, int]]) -> None:
    """Movies with (views, downloads) of before tallyd."""
    values = ", ".join(f"('{uuid}', {views}, {downloads})" for uuid, (views, downloads) in rows.items())
    system.sql(f"INSERT INTO jav (uuid, views, downloads) VALUES {values}")


def taken_over(system: System, rows: dict[str, tuple[int, int]]) -> None:
    """Movies a and b of these rows are taken over, counted on (3 views of a, a download of b), and in step."""
    add_rows(system, rows)
    backfill(system)
    system.count(event(entity_id="a", value=3), event(entity_id="b", action="download"))
    (views_a, downloads_a), (views_b, downloads_b) = rows["a"], rows["b"]
    drain_until(system, rows | {"a": (views_a + 3, downloads_a), "b": (views_b, downloads_b + 1)})


def legacy_adds(system: System, downloads: int = 0, **views: int) -> None:
    """The application adds to these columns by itself: views to each, and the downloads to all of them."""
    for uuid, amount in views.items():
        statement = "UPDATE jav SET views = views + %s, downloads = downloads + %s WHERE uuid = %s"
        system.sql(statement, amount, downloads, uuid)


def bases(system: System, name: str = "totals") -> dict[str, dict[str, int]]:
    """`_id` → base, of the documents that have one."""
    found = system.mongo[f"analytics_entity_{name}"].find({"base": {"$exists": True}})
    return {document["_id"]: dict(document["base"]) for document in found}


def everything(system: System) -> dict[str, Any]:
    """All rollups, but for the times of writing."""
    without = {"updated_at": 0, "flush_seq": 0}
    return {
        name: {document["_id"]: document for document in system.mongo[f"analytics_entity_{name}"].find({}, without)}
        for name in ROLLUPS
    }


def audited(system: System, *options: str) -> set[tuple[str, str, int]]:
    """(law, counter, difference) of all that `tallyd audit --deep` finds; it has to have compared everything."""
    exit_code, printed = system.tallyd_here("audit", "--deep", "--json", *options)
    report = json.loads(printed)
    assert report["exact"]
    assert report["deep"]
    assert exit_code == (1 if report["broken"] else 0)
    return {(found["law"], found["counter"], found["difference"]) for found in report["broken"]}


def drain_until(system: System, rows: dict[str, tuple[int, int]]) -> None:
    """Flushes, and expects these rows."""
    assert system.flush().replica_error is None
    assert system.replica() == rows
