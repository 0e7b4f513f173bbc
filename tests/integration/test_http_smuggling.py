"""Requests whose length can be read in two ways: each is refused, or its connection ends, and none hides another.

Each case is sent by itself and followed by a whole event whose id says that it was smuggled. The server may answer the
first request as it likes. The hidden event may be counted only if no other reading of the bytes is possible.
"""

from __future__ import annotations

import json
import re

import pytest

from tests.kit.events import EVENTS, event
from tests.kit.system import Ingest, System
from tests.kit.wire import Wire

GOOD = json.dumps(event(entity_id="outer")).encode()
HIDDEN = json.dumps(event(entity_id="hidden")).encode()
SMUGGLED = (
    b"POST %b HTTP/1.1\r\nhost: t\r\nconnection: close\r\ncontent-type: application/json\r\n"
    b"content-length: %d\r\n\r\n%b" % (EVENTS.encode(), len(HIDDEN), HIDDEN)
)  # fmt: skip
CHUNKED_GOOD = b"%x\r\n%b\r\n0\r\n\r\n" % (len(GOOD), GOOD)

LENGTH = b"content-length: %d\r\n"
SHORT, WHOLE = LENGTH % 5, LENGTH % len(GOOD)
OVER_ALL = LENGTH % (len(CHUNKED_GOOD) + len(SMUGGLED))
TE = b"transfer-encoding: chunked\r\n"

TWO_READINGS = {
    "length and chunks": OVER_ALL + TE,
    "chunks and length": TE + OVER_ALL,
    "chunked, identity": b"transfer-encoding: chunked, identity\r\n",
    "vertical tab before chunked": b"transfer-encoding:\x0bchunked\r\n",
    "form feed before chunked": b"transfer-encoding:\x0cchunked\r\n",
    "blank before the colon": b"transfer-encoding : chunked\r\n",
    "tab before the colon": b"transfer-encoding\t: chunked\r\n",
    "chunked in quotes": b'transfer-encoding: "chunked"\r\n',
    "xchunked": b"transfer-encoding: xchunked\r\n",
    "folded": b"transfer-encoding:\r\n chunked\r\n",
    "a NUL in the name": b"transfer\x00-encoding: chunked\r\n",
    "a bare CR before it": b"x: y\rtransfer-encoding: chunked\r\n",
    "length with a plus": b"content-length: +5\r\n",
    "length with a minus": b"content-length: -1\r\n",
    "lengths in a list": b"content-length: 5, 5\r\n",
    "unlike lengths in a list": b"content-length: 5, 6\r\n",
    "unlike lengths": SHORT + WHOLE,
    "length of 2^64": b"content-length: 18446744073709551616\r\n",
    "length of 2^64 + 5": b"content-length: 18446744073709551621\r\n",
    "length in hexadecimal": b"content-length: 0x5\r\n",
    "length with a blank inside": b"content-length: 1 0\r\n",
    "length with an underscore": b"content-length: 1_0\r\n",
    "length in Arabic digits": "content-length: \N{ARABIC-INDIC DIGIT FIVE}\r\n".encode(),
    "no length that is a number": b"content-length: five\r\n",
    "length is empty": b"content-length: \r\n",
    "length folded": b"content-length:\r\n 5\r\n",
    "length before a bare LF": b"content-length: 5\n",
}  # fmt: skip
ONE_READING = {
    "a length": WHOLE,
    "the same length twice": WHOLE + WHOLE,
    "chunked twice": TE + TE,
    "identity, chunked": b"transfer-encoding: identity, chunked\r\n",
}
"""Who reads them at all reads them so: what follows the body is a request of its own."""
BAD_CHUNKS = {
    "size with a plus": b"+5\r\n",
    "size with a minus": b"-5\r\n",
    "size with 0x": b"0x5\r\n",
    "size of 2^64": b"10000000000000000\r\n",
    "size of 2^64 + 5": b"10000000000000005\r\n",
    "no size": b"\r\n",
    "size with a blank before": b" 5\r\n",
    "size before a bare LF": b"5\n",
    "size with a NUL": b"5\x00\r\n",
    "an endless extension": b"5;" + b"a" * 20_000 + b"\r\n",
    "an extension with a CR": b"5;a\rb\r\n",
    "data without an end": b"5\r\n{}   X",
}  # fmt: skip

CONFIG = {"HTTP__BODY_TIMEOUT_MS": "1000"}
QUIET_S = 1.5
"""A body that is waited for is given up by then."""


@pytest.mark.parametrize("headers", TWO_READINGS.values(), ids=TWO_READINGS.keys())
def test_a_length_with_two_readings_hides_no_event(ingest: Ingest, shared_system: System, headers: bytes) -> None:
    first = b"POST %b HTTP/1.1\r\nhost: t\r\ncontent-type: application/json\r\n%b\r\n" % (EVENTS.encode(), headers)
    statuses = sent(ingest, first + CHUNKED_GOOD + SMUGGLED)
    assert hidden_was_not_counted(ingest, shared_system), statuses
    assert statuses[0] in (202, 400, 408, 411, 413, 415, 422, 431, 501), statuses


@pytest.mark.parametrize("chunk", BAD_CHUNKS.values(), ids=BAD_CHUNKS.keys())
def test_a_malformed_chunk_is_refused_and_ends_the_connection(
    ingest: Ingest, shared_system: System, chunk: bytes
) -> None:
    first = b"POST %b HTTP/1.1\r\nhost: t\r\ncontent-type: application/json\r\n%b\r\n" % (EVENTS.encode(), TE)
    statuses = sent(ingest, first + chunk + b"{}   \r\n0\r\n\r\n" + SMUGGLED)
    assert hidden_was_not_counted(ingest, shared_system), statuses
    assert statuses[0] in (400, 422), statuses


def test_chunks_are_refused_in_http_1_0(ingest: Ingest, shared_system: System) -> None:
    first = b"POST %b HTTP/1.0\r\nhost: t\r\ncontent-type: application/json\r\n%b\r\n" % (EVENTS.encode(), TE)
    assert sent(ingest, first + CHUNKED_GOOD + SMUGGLED)[:1] == [400]
    assert hidden_was_not_counted(ingest, shared_system)


@pytest.mark.parametrize("headers", ONE_READING.values(), ids=ONE_READING.keys())
def test_what_follows_a_whole_body_is_a_request_of_its_own(
    ingest: Ingest, shared_system: System, headers: bytes
) -> None:
    first = b"POST %b HTTP/1.1\r\nhost: t\r\ncontent-type: application/json\r\n%b\r\n" % (EVENTS.encode(), headers)
    body = CHUNKED_GOOD if headers.startswith(b"transfer") else GOOD
    assert sent(ingest, first + body + SMUGGLED) == [202, 202]
    assert not hidden_was_not_counted(ingest, shared_system)


def sent(ingest: Ingest, data: bytes) -> list[int]:
    """The statuses of all answers. The sending side stays open: a server may drop requests behind its end."""
    with Wire(ingest.url) as wire:
        wire.send(data)
        return [int(status) for status in re.findall(rb"HTTP/1\.[01] (\d{3}) ", wire.until_quiet(QUIET_S))]


def hidden_was_not_counted(ingest: Ingest, system: System) -> bool:
    """Looks after one more event has been counted: whatever came before it is counted by then."""
    assert ingest.post(event(entity_id="after")).status_code == 202
    return not system.redis.exists("anl:{0}:counters:jav:movie:hidden")
