"""Messages between the daemon's main process and its workers, as files in a folder of this run.

Main process → workers: the configuration, read and checked once, so that no worker reads a file that has changed since.
Workers → main process: a pulse each, written by the worker's event loop. A loop that hangs stops writing.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import IO, NamedTuple

import msgspec

from daemon.config import Config

ENV = "TALLYD_RUN_DIR"
"""Names the folder to the workers."""

_PULSE = struct.Struct("=ddQ??dd")


class ConfigSnapshot(msgspec.Struct, frozen=True):
    """The configuration in force; `generation` counts the reloads."""

    generation: int
    config: Config


class Pulse(NamedTuple):
    """A worker's state. Times are of the monotonic clock, which the processes of a machine share."""

    beaten_at: float
    """When its event loop turned, and no call was stuck."""
    busy_at: float
    """When it last had a request to answer; kept only while it is closing."""
    generation: int
    """Of the configuration it works with."""
    closing: bool
    """It answers with `connection: close`."""
    ready: bool
    """It can count."""
    turned_at: float
    """When its event loop turned, whether or not a call was stuck."""
    lag_s: float
    """How late it turned, at most, in the last second."""


class RunDir:
    """The folder. Its name is unique to the run, and no other user may enter it: the configuration holds passwords."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._memory: IO[bytes] | None = None

    def publish(self, snapshot: ConfigSnapshot) -> None:
        """Call it in the main process. The configuration lies in its memory and ends with it; on disk is a link."""
        memory = os.fdopen(os.memfd_create("tallyd-config"), "wb")
        memory.write(msgspec.json.encode(snapshot))
        memory.flush()
        draft = self.path / "config.json.new"
        draft.symlink_to(f"/proc/{os.getpid()}/fd/{memory.fileno()}")
        draft.replace(self.path / "config.json")
        before, self._memory = self._memory, memory
        if before is not None:
            before.close()

    def snapshot(self) -> ConfigSnapshot:
        return msgspec.json.decode((self.path / "config.json").read_bytes(), type=ConfigSnapshot)

    def beat(self, pulse: Pulse) -> None:
        """Writes this process' pulse."""
        # Over the last one, in one write: a reader never meets an empty file.
        file = os.open(self.path / f"pulse-{os.getpid()}", os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            os.pwrite(file, _PULSE.pack(*pulse), 0)
        finally:
            os.close(file)

    def pulse(self, pid: int) -> Pulse | None:
        """The last pulse of a worker; None before its first, which follows its start-up."""
        try:
            return Pulse(*_PULSE.unpack((self.path / f"pulse-{pid}").read_bytes()))
        except (FileNotFoundError, struct.error):  # the latter between creating and writing it
            return None


def of_this_process() -> RunDir | None:
    """The folder of this worker's daemon; None for a worker that runs without our main process."""
    path = os.environ.get(ENV)
    return RunDir(Path(path)) if path else None
