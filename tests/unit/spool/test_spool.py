"""The writing end: whatever the disk does and whatever is raised, each append ends."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from daemon.config import SpoolSection
from daemon.metrics import INGEST
from daemon.spool.segment import Writer, usage
from daemon.spool.spool import Spool
from tests.kit.loop import in_loop
from tests.unit.spool.test_strays import EVENT, HERE


def spool_in(folder: Path, timeout_ms: int = 30_000) -> Spool:
    return Spool(SpoolSection(dir=str(folder), timeout_ms=timeout_ms), lambda: HERE)


def faults() -> float:
    return INGEST.get_sample_value("tallyd_ingest_faults_total", {"what": "spool"}) or 0.0


@in_loop
async def test_a_file_with_another_name_does_not_stop_the_spool(tmp_path: Path) -> None:
    (tmp_path / "#x.seg").touch()
    spool = spool_in(tmp_path)
    async with asyncio.timeout(30):
        assert await spool.append([EVENT])
        await spool.close()


@in_loop
async def test_an_exception_nobody_planned_for_refuses_its_events_and_the_next_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise ValueError("a bug")

    spool = spool_in(tmp_path)
    before = faults()
    with monkeypatch.context() as patch:
        patch.setattr(Writer, "append", fails)
        async with asyncio.timeout(30):
            assert [await each for each in [spool.append([EVENT]) for _ in range(3)]] == [False] * 3
    async with asyncio.timeout(30):
        assert await spool.append([EVENT])
        await spool.close()
    assert usage(tmp_path).segments == 1
    assert faults() == before + 1, "the three went into one write"


@in_loop
async def test_a_disk_that_hangs_refuses_every_event_until_it_moves_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moves, append = threading.Event(), Writer.append

    def hangs(writer: Writer, data: bytes) -> None:
        moves.wait(60)
        append(writer, data)

    spool = spool_in(tmp_path, timeout_ms=200)
    monkeypatch.setattr(Writer, "append", hangs)
    async with asyncio.timeout(30):
        first = spool.append([EVENT])
        await asyncio.sleep(0.05)
        waits = spool.append([EVENT])
        assert (await first, await waits) == (False, False)
        assert spool.stuck
        refused = spool.append([EVENT])
        assert refused.done()
        assert not refused.result()
        moves.set()
        while spool.stuck:  # noqa: ASYNC110  (the test waits for the spool, not the other way round)
            await asyncio.sleep(0.01)
        assert await spool.append([EVENT])
        await spool.close()
