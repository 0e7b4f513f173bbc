"""The progress bar of an import: one line a file, in bytes read (of a gzipped file, of its compressed size)."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from daemon.importer.source import Source


class ProgressBar:
    """A `Watcher` on standard error; `shown` false: a silent one."""

    def __init__(self, *, shown: bool) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=not shown,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._progress.stop()

    def begin(self, source: Source) -> None:
        self._task = self._progress.add_task(Path(source.name).name, total=source.size_bytes)

    def advance(self, source: Source) -> None:
        assert self._task is not None
        self._progress.update(self._task, completed=source.done_bytes)
