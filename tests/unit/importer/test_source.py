"""Files and pipes, gzipped or not, whole or damaged."""

from __future__ import annotations

import contextlib
import gzip
import os
import threading
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from daemon.importer.source import CHUNK_BYTES, FileSource, Source, StoppedError, StreamSource, UnreadableError

CONTENT = b"".join(b"line %d %d\n" % (n, n * n) for n in range(60_000))
assert len(CONTENT) > 3 * CHUNK_BYTES

Open = Callable[[bytes], Source]


@pytest.fixture(params=["file", "pipe"])
def open_source(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Open]:
    """Makes a source of either kind with this content."""
    opened: list[Source] = []
    descriptors: list[int] = []

    def as_file(content: bytes) -> Source:
        path = tmp_path / "any-name"
        path.write_bytes(content)
        opened.append(FileSource(path, threading.Event()))
        return opened[-1]

    def as_pipe(content: bytes) -> Source:
        reading, writing = os.pipe()
        descriptors.append(reading)

        def write() -> None:
            with contextlib.suppress(BrokenPipeError), os.fdopen(writing, "wb") as pipe:
                pipe.write(content[:1])  # the two magic bytes may arrive one by one
                pipe.flush()
                pipe.write(content[1:])

        threading.Thread(target=write, daemon=True).start()
        opened.append(StreamSource(reading, "pipe", threading.Event()))
        return opened[-1]

    yield as_file if request.param == "file" else as_pipe
    for source in opened:
        source.close()
    for descriptor in descriptors:
        os.close(descriptor)


PACKED = {
    "plain": CONTENT,
    "gzip": gzip.compress(CONTENT),
    "several members": gzip.compress(CONTENT[:7]) + gzip.compress(b"") + gzip.compress(CONTENT[7:]),
    "padded": gzip.compress(CONTENT) + b"\0" * 1_000,
}


@pytest.mark.parametrize("packed", PACKED.values(), ids=PACKED)
def test_the_content_comes_whole_and_from_any_place(open_source: Open, packed: bytes) -> None:
    source = open_source(packed)
    first = next(iter(source.chunks(0, again=True)))
    assert CONTENT.startswith(first)
    assert b"".join(source.chunks(0, again=True)) == CONTENT
    assert b"".join(source.chunks(300_001)) == CONTENT[300_001:]
    assert source.done_bytes == len(packed)


def test_an_empty_file_has_no_chunks(open_source: Open) -> None:
    assert list(open_source(b"").chunks(0)) == []


def test_what_compresses_well_comes_in_chunks_of_bounded_size(open_source: Open) -> None:
    packed = gzip.compress(b"\n" * 50_000_000)
    sizes = [len(chunk) for chunk in open_source(packed).chunks(0)]
    assert sum(sizes) == 50_000_000
    assert max(sizes) <= CHUNK_BYTES


@pytest.mark.parametrize("cut", [3, 100_000])
def test_of_a_gzip_file_that_is_cut_off_everything_before_the_cut_is_read(open_source: Open, cut: int) -> None:
    packed = gzip.compress(CONTENT)[:-cut] if cut == 3 else gzip.compress(CONTENT)[:cut]
    found: list[bytes] = []
    with pytest.raises(UnreadableError, match="cut off"):
        found.extend(open_source(packed).chunks(0))
    assert b"".join(found) == zlib.decompressobj(31).decompress(packed)
    assert CONTENT.startswith(b"".join(found))


def test_damaged_gzip_data_is_an_error(open_source: Open) -> None:
    packed = bytearray(gzip.compress(CONTENT))
    packed[-6] ^= 0xFF
    with pytest.raises(UnreadableError, match="damaged"):
        list(open_source(bytes(packed)).chunks(0))


def test_a_pipe_keeps_what_will_be_asked_for_again_on_disk_not_in_memory(open_source: Open) -> None:
    content = CONTENT * 20
    source = open_source(content)
    assert sum(len(chunk) for chunk in source.chunks(0, again=True)) == len(content)
    assert b"".join(source.chunks(len(content) - 5)) == content[-5:]
    if isinstance(source, StreamSource):
        assert source._spool._rolled  # type: ignore[attr-defined]


def test_waiting_for_a_silent_pipe_ends_when_told() -> None:
    reading, writing = os.pipe()
    stopping = threading.Event()
    source = StreamSource(reading, "pipe", stopping)
    os.write(writing, b"first\n")
    chunks = source.chunks(0)
    assert next(chunks) == b"first\n"
    threading.Timer(0.1, stopping.set).start()
    with pytest.raises(StoppedError):
        next(chunks)
    source.close()
    os.close(writing)
    os.close(reading)


def test_reading_a_file_ends_when_told(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(CONTENT)
    stopping = threading.Event()
    chunks = FileSource(path, stopping).chunks(0)
    next(chunks)
    stopping.set()
    with pytest.raises(StoppedError):
        next(chunks)
