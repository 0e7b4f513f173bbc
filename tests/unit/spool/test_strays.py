"""Files that lie in a spool by mistake: none blocks, none is deleted, and none holds up the segments beside it."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from daemon.domain.action import Effect
from daemon.domain.event import Event
from daemon.spool.origin import Origin, encode_head
from daemon.spool.record import encode
from daemon.spool.replay import Replayed, Replayer
from daemon.spool.segment import SEALED, SEGMENT_BYTES_MAX, Writer, usage
from tests.kit.loop import in_loop

HERE = Origin(7, 1, 1, 172_800, "127.0.0.1:6379/0")
THERE = Origin(8, 1, 1, 172_800, "elsewhere:6379/0")
NAME = "01764000000000000000-77-0badcafe.seg"
EVENT = Event("id", "jav:movie:m", Effect((("view", "view:2026-02-19", "1"),)))


def make_socket(path: Path) -> None:
    os.mknod(path, stat.S_IFSOCK | 0o600)


STRAYS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "a name of its own": ("#x.seg", Path.touch),
    "digits of another script": ("\u0660" * 20 + NAME[20:], Path.touch),
    "not UTF-8": (os.fsdecode(b"\xff\xfe.seg"), Path.touch),
    "a directory": ("y.seg", Path.mkdir),
    "a directory with our name": (NAME, Path.mkdir),
    "a FIFO": ("y.open", os.mkfifo),
    "a FIFO with our name": (NAME, os.mkfifo),
    "a socket with our name": (NAME, make_socket),
    "a link to /dev/zero": (NAME, lambda path: path.symlink_to("/dev/zero")),
    "a dangling link": (NAME, lambda path: path.symlink_to("nowhere")),
    "a link to a file": (NAME, lambda path: path.symlink_to(__file__)),
    "an empty file": (NAME, Path.touch),
    "garbage": (NAME, lambda path: path.write_bytes(os.urandom(5_000))),
    "a first line that is cut": (NAME, lambda path: path.write_bytes(b"tallyd sp")),
    "for another Redis": (
        NAME,
        lambda path: path.write_bytes(encode_head(Origin(8, 1, 1, 172_800, "elsewhere:6379/0"))),
    ),
    "larger than a segment": (NAME, lambda path: (path.touch(), os.truncate(path, SEGMENT_BYTES_MAX + 1))),
}


def write_segment(folder: Path, origin: Origin = HERE) -> Path:
    writer = Writer(folder, origin)
    writer.append(encode([EVENT]))
    writer.seal()
    return writer.path.with_suffix(SEALED)


@pytest.mark.parametrize("kind", STRAYS)
@in_loop
async def test_a_stray_is_left_and_said_once_and_the_segment_beside_it_is_replayed(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    name, make = STRAYS[kind]
    make(tmp_path / name)
    segment = write_segment(tmp_path)
    sent: list[Event] = []

    async def ingest(events: Sequence[Event]) -> int:
        sent.extend(events)
        return len(events)

    replayer = Replayer(tmp_path, ingest, lambda: HERE, call_events_max=10)
    for _ in range(3):
        done = Replayed()
        await replayer.replay(done)
        assert len(done.strays) == 1
    assert [event.event_id for event in sent] == ["id"]
    assert not segment.exists()
    assert list(tmp_path.iterdir()) == [tmp_path / name]  # noqa: ASYNC240  (nothing else runs)
    [stray] = usage(tmp_path, HERE).strays
    assert stray.name.isascii()
    assert stray.name.isprintable()
    assert [record.message for record in caplog.records].count(
        f"{stray.name} in the spool {tmp_path} is left as it is: {stray.why}."
    ) == 1
    assert usage(tmp_path, HERE).segments == 0


@in_loop
async def test_a_file_that_cannot_be_deleted_is_not_sent_again_at_once(tmp_path: Path) -> None:
    write_segment(tmp_path)
    sent: list[Event] = []

    async def ingest(events: Sequence[Event]) -> int:
        tmp_path.rename(moved)  # noqa: ASYNC240  (nothing else runs)
        sent.extend(events)
        return len(events)

    moved = tmp_path.with_name("moved")
    replayer = Replayer(tmp_path, ingest, lambda: HERE, call_events_max=10)
    await replayer.replay(Replayed())
    moved.rename(tmp_path)
    done = Replayed()
    await replayer.replay(done)
    assert len(sent) == 1
    assert len(done.strays) == 1


def test_the_file_of_a_writer_that_was_killed_before_its_first_record_is_no_stray(tmp_path: Path) -> None:
    for n, content in enumerate((b"", b"tallyd", b"tallyd spool 1", b'tallyd spool 2 {"epo')):
        (tmp_path / NAME.replace("0b", f"{n}b").replace(".seg", ".open")).write_bytes(content)
    assert usage(tmp_path).strays == []


def test_a_spool_that_is_no_folder_is_part_of_the_answer(tmp_path: Path) -> None:
    (tmp_path / "spool").touch()
    assert usage(tmp_path / "spool").error == f"{tmp_path / 'spool'} cannot be read: Not a directory"
    assert usage(tmp_path / "none").error is None
