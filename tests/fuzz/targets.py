"""What is fuzzed. Each target takes bytes, and raises AssertionError if something does not hold. `TARGETS` lists them.

Any other exception is a finding, too. Inputs come from the network (decode), from a file of the operator
(configuration, log), from a disk that lost power (spool), and from a Redis that others write to (claim).
"""

from __future__ import annotations

import asyncio
import json
import struct
import tempfile
import zlib
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

import msgspec

from daemon import config as configuration
from daemon.buffer.wire import part_amounts
from daemon.domain.event import Event
from daemon.domain.rejection import Rejection
from daemon.domain.rollup import COMPLETE
from daemon.errors import ConfigError
from daemon.importer.classify import Classifier, recognise
from daemon.importer.lines import Lines, Position, fresh_digest
from daemon.importer.outcome import Format, LeftOut, Refusal
from daemon.ingest import response
from daemon.ingest.decode import Batch, Decoder, Unreadable, build_catalogue
from daemon.rollups.build import build
from daemon.spool import record
from daemon.spool.origin import Origin, decode_head, encode_head
from daemon.spool.record import Damage
from daemon.spool.replay import Replayed, Replayer
from tests.kit.commands import ROOT
from tests.kit.events import event

T = TypeVar("T")

NOW_S = 1_800_000_000.0
REPLAYED_EVERY = 64
"""A replay writes files: so only one segment in so many is replayed."""
ANSWER_BYTES_MAX = 8_192
"""The largest answer to a batch without a good event."""


class Target(NamedTuple):
    """`check` is called with an input. `words` are bytes that inputs are made of."""

    name: str
    check: Callable[[bytes], None]
    seeds: tuple[bytes, ...]
    words: tuple[bytes, ...] = ()


# Bodies of events ---------------------------------------------------------------------------------------------------

_config = configuration.load(environ={"TALLYD_INGEST__MAX_AGE_S": "0"})
_decoder = Decoder(build_catalogue(_config), batch_events_max=_config.http.batch_events_max, clock=lambda: NOW_S)
_BLANKS = b" \t\r\n"


class _Envelope(msgspec.Struct):
    events: list[msgspec.Raw]


_items = msgspec.json.Decoder(list[msgspec.Raw]).decode
_envelope = msgspec.json.Decoder(_Envelope).decode
_values = msgspec.json.Decoder(msgspec.Raw).decode_lines


def single(body: bytes) -> None:
    """The fast way takes no event that the slow one refuses, and each as the same event."""
    fast, found = _decoder.good(body), _decoder.single(body)
    assert isinstance(found, Event | Rejection | Unreadable)
    if isinstance(found, Event):
        # Of a key that comes twice the last one counts. The fast way stops at a first one that is wrong.
        assert fast in (found, None)
        assert _decoder.admit(json.loads(body)) == found
    else:
        assert fast is None
        assert isinstance(found, Unreadable) or found.errors


def batch(body: bytes) -> None:
    """An event of a batch gets the verdict that it gets alone, as an item and as a line. Refusals are short."""
    found = _decoder.batch(body)
    assert isinstance(found, Batch | Rejection | Unreadable)
    if not isinstance(found, Batch):
        return
    array = body.lstrip(_BLANKS)[:1] == b"["
    items = _items(body) if array else _envelope(body).events
    if not found.events:
        assert len(response.batch_invalid(found).body) <= ANSWER_BYTES_MAX
    lines = [bytes(item).replace(b"\n", b" ") for item in items]
    _agree(found, [_decoder.single(line) for line in lines])
    as_lines = _decoder.lines(b"\n".join(lines))
    assert isinstance(as_lines, Batch)
    assert _without_size(as_lines) == _without_size(found)


def ndjson(body: bytes) -> None:
    """Each line gets the verdict that it gets alone.

    msgspec reads values, and does not look where they end: while all lines together are JSON, a line may hold several
    events, or an event several lines. Those bodies are left out here.
    """
    found = _decoder.lines(body)
    assert isinstance(found, Batch | Rejection)
    lines = [line for line in body.split(b"\n") if line and not line.isspace()]
    try:
        values = _values(body)
    except (ValueError, RecursionError):
        values = []
    in_lines = len(values) == len(lines) and not any(b"\n" in bytes(value) for value in values)
    if isinstance(found, Batch) and (in_lines or not values):
        _agree(found, [_decoder.single(line) for line in lines])


def _agree(found: Batch, alone: list[Event | Rejection | Unreadable]) -> None:
    assert found.events == [each for each in alone if isinstance(each, Event)]
    refused = [index for index, each in enumerate(alone) if not isinstance(each, Event)]
    assert [index for index, _ in found.rejected] == refused[: len(found.rejected)]
    assert bool(found.rejected) == bool(refused)


def _without_size(found: Batch) -> tuple[list[Event], list[int]]:
    return found.events, [index for index, _ in found.rejected]


# The configuration --------------------------------------------------------------------------------------------------

_scratch = tempfile.TemporaryDirectory(prefix="tallyd-fuzz-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None)
_toml = Path(_scratch.name) / "tallyd.toml"


def config(text: bytes) -> None:
    """A file is a configuration or a ConfigError; the masked configuration can be shown."""
    _toml.write_bytes(text)
    try:
        loaded = configuration.load(_toml, environ={})
    except ConfigError:
        return
    msgspec.json.encode(configuration.masked(loaded))


def environment(text: bytes) -> None:
    """The same of variables: each line is `NAME=value`."""
    pairs = (line.partition("=") for line in text.decode(errors="replace").split("\n"))
    try:
        configuration.load(
            environ={f"TALLYD_{name}": value for name, _, value in pairs} | {"TALLYD_CONFIG": "/dev/null"}
        )
    except ConfigError:
        return


# Segments of the spool ----------------------------------------------------------------------------------------------

_SPOOLED = tuple(_decoder.single(json.dumps(event(event_id=f"e{n}", entity_id=f"m{n}")).encode()) for n in range(4))
HERE = Origin(7, 1, 1, 172_800, "127.0.0.1:6379/0")
HEADER = encode_head(HERE)
_segment = Path(_scratch.name) / "spool" / f"{1:020}-1-{0:08x}.seg"


def spool(data: bytes) -> None:
    """Records and damage lie end to end, and what is replayed are the records' events, once, in order.

    A first byte that is odd makes the rest a payload with a right checksum, which mutations alone never hit.
    """
    decode_head(data)
    segment = HEADER + (_wrapped(data[1:]) if data[:1] and data[0] % 2 else data[1:])
    at, events = len(HEADER), []
    for part in record.scan(segment, at):
        if isinstance(part, Damage):
            assert at == part.start < part.end
            assert not part.torn or part.end == len(segment)
        else:
            assert part.end > at
            events += part.events
        at = part.end
    assert at == len(segment)
    if zlib.crc32(data) % REPLAYED_EVERY == 0:
        replay(segment, events)


def replay(segment: bytes, events: list[Event]) -> None:
    """Replays a segment that holds these events."""
    assert _plain(_replayed(segment)) == _plain(events)


def _plain(events: list[Event]) -> list[tuple[object, ...]]:
    return [(each.event_id, each.entity, each.effect.increments) for each in events]


def _wrapped(payload: bytes) -> bytes:
    length = struct.pack(">I", len(payload))
    return record.MARKER + length + struct.pack(">I", zlib.crc32(payload, zlib.crc32(length))) + payload


def _replayed(segment: bytes) -> list[Event]:
    _segment.parent.mkdir(exist_ok=True)
    _segment.write_bytes(segment)
    taken: list[Event] = []

    async def ingest(events: list[Event]) -> int:
        taken.extend(events)
        return len(events)

    asyncio.run(Replayer(_segment.parent, ingest, lambda: HERE, call_events_max=3).replay(Replayed()))
    assert not _segment.exists()
    for aside in (_segment.parent / "damaged").glob("*"):
        aside.unlink()
    return taken


# Access logs --------------------------------------------------------------------------------------------------------

_weblog = Classifier(configuration.load(ROOT / "ops" / "weblog.example.toml", environ={}))
_LINE_BYTES_MAX = 256


def log(content: bytes) -> None:
    """Lines and their ids do not depend on how a file is cut into chunks, and each line has one outcome.

    The first byte says where the content is cut.
    """
    cut, content = (content[0], content[1:]) if content else (0, b"")
    whole, in_two = _lines(content), _lines(content[:cut], content[cut:])
    assert whole == in_two
    assert sum(len(line) for line, _ in whole) <= len(content)
    for chosen in (recognise(content), Format.COMBINED, Format.NDJSON):
        classify = _weblog.of(chosen)
        for line, line_id in whole:
            assert isinstance(classify(line, lambda known=line_id: known), Event | LeftOut | Refusal)  # type: ignore[misc]


def _lines(*chunks: bytes) -> list[tuple[bytes, str]]:
    lines = Lines(_LINE_BYTES_MAX, Position(), fresh_digest())
    found = [(line, lines.line_id()) for chunk in chunks for line in lines.feed(chunk)]
    rest = lines.rest()
    return [*found, (rest, lines.line_id())] if rest else found


# Parts of a claim ---------------------------------------------------------------------------------------------------


def claim(data: bytes) -> None:
    """Whatever a hash of Redis holds under the names of counters, the part of a claim that carries it is read, and each
    pair is an amount of the rollups or malformed. The input are the hashes: entities, fields and amounts between NULs.
    """
    texts = data.split(b"\x00")
    entities = [texts[at : at + 5] for at in range(0, len(texts), 5)]
    flat: list[bytes | int] = []
    for entity, *texts_after in entities:
        pairs = len(texts_after) // 2
        flat += [entity, pairs, *texts_after[: 2 * pairs]]

    async def unfold(_: bytes) -> list[Any]:
        return flat

    amounts = _result(part_amounts(b"1", _cmsgpack(flat), unfold))
    assert len(amounts) == len(entities)
    rollup = build(amounts)
    counted = sum(len(pairs) for _, pairs in amounts) - len(rollup.malformed)
    totals = next(iter(rollup.documents.values()))
    assert counted >= len(totals)
    assert all(rollup.documents[kind] or not counted for kind in COMPLETE)


def _result(work: Coroutine[Any, Any, T]) -> T:
    """Of a coroutine that waits for nothing: a loop for each input would take most of the time."""
    try:
        work.send(None)
    except StopIteration as end:
        return cast("T", end.value)
    raise AssertionError("it waits")


def _cmsgpack(flat: list[bytes | int]) -> bytes:
    """As Redis' cmsgpack writes it: a text is a raw, and is not checked for UTF-8."""
    packed = (bytes([each]) if isinstance(each, int) else struct.pack(">BI", 0xDB, len(each)) + each for each in flat)
    return struct.pack(">BI", 0xDD, len(flat)) + b"".join(packed)


# --------------------------------------------------------------------------------------------------------------------

_GOOD = json.dumps(event(event_id="e")).encode()
_BAD = json.dumps(event(event_id="e", value=0, action="steal")).encode()
_EVENT_WORDS = (
    *(f'"{name}":'.encode() for name in event()),
    b'"view"', b'"download"', b'"jav"', b'"movie"', b'"events":[', b'"user_id":null', b"null", b"true", b"1e400", b"-0",
    b"18446744073709551616", b"0.1", b'"2026-02-19T10:00:00Z"', b'"2026-02-30T23:59:60+24:00"', b"\\u0000", b"\\ud800",
    b"\\u202e", b"\xef\xbb\xbf", b"\xf0\x9f\x98\x80",
)  # fmt: skip
_SPOOL_SEED = record.encode([each for each in _SPOOLED if isinstance(each, Event)])
assert isinstance(_decoder.good(_GOOD), Event), "the seeds have to be taken"
_LOG_LINE = (
    b'host - - [17/May/2015:10:05:03 +0000] "GET /a.html?q HTTP/1.1" 200 12 "-" "Mozilla/5.0 (X11; Linux) Firefox/1"\n'
)
_EXAMPLES = tuple((ROOT / "ops" / name).read_bytes() for name in ("tallyd.example.toml", "weblog.example.toml"))
_VARIABLES = (
    b"REDIS__URL=redis://x\nDOMAINS={\"a\": {\"entity_types\": [\"b\"]}}\nFLUSH__INTERVAL_S=1e3\n"
    b"PRODUCERS__KEYS={\"shop\": \"a-shop-s-key-0123\"}"
)  # fmt: skip

TARGETS = (
    Target("single", single, (_GOOD, _BAD, b"{}"), _EVENT_WORDS),
    Target(
        "batch", batch, (b"[%b,%b]" % (_GOOD, _BAD), b'{"events":[%b]}' % _GOOD, b"[{},1,null]"), _EVENT_WORDS
    ),
    Target("ndjson", ndjson, (_GOOD + b"\n\n" + _BAD + b"\n", b"{}\n1\n["), _EVENT_WORDS),
    Target(
        "config", config, (*_EXAMPLES, b"[http]\nport = 1\n[domains.a]\nentity_types = ['b']\n"),
        (b"[replica.jav.movie]", b"[[import.routes]]", b"[actions.a]", b"value_max = ", b"url = 'redis://", b"= true"),
    ),
    Target("environment", environment, (_VARIABLES,), (b"__", b"TALLYD_", b"[[[[", b'{"')),
    Target(
        "spool", spool, (b"\x00" + _SPOOL_SEED * 2, b"\x01" + _SPOOL_SEED[12:]),
        (record.MARKER,),
    ),
    Target(
        "log", log, (b"\x10" + _LOG_LINE * 2, b"\x05" + _GOOD + b"\n"),
        (b'"GET ', b" HTTP/1.1", b"\\x22", b'\\"', b"[17/May/2015:10:05:03 +0000]", b"http://h/", b"%2e", b'" 200 -'),
    ),
    Target(
        "claim", claim, (b"jav:movie:a\x00view:2026-01-01\x001\x00download:2026-01-01\x00-3\x00x\x00y",),
        (b"jav:movie:", b"view:2026-02-30", b"\x00", b"9223372036854775807", b"\xff", b"1e3", b"0x10"),
    ),
)  # fmt: skip
