"""Hostile ids and bodies: what is accepted is counted under exactly the id that was sent, and all else is refused.

No operator of MongoDB, no SQL, no Lua and no path comes out of an id, wherever it goes: each accepted one is followed
through Redis and MongoDB.
"""

from __future__ import annotations

import gzip
import json
import unicodedata
from typing import Any

import pytest

from tests.kit.system import Ingest, System, event

TAKEN = {
    "$where": "$where",
    "an operator": '{"$gt":""}',
    "$ in front": "$views",
    "a dot": "a.$b",
    "a field of ours": "base.view",
    "only dots": "...",
    "a parent folder": "../../etc/passwd",
    "a colon": "jav:movie:x",
    "braces of a slot": "{0}",
    "a glob": "*?[a]",
    "SQL in quotes": "x' OR '1'='1",
    "SQL with a comment": "x'; DROP TABLE jav; --",
    "double quotes": '"";SELECT 1',
    "a backslash": "\\",
    "backslash and quote": "\\'",
    "a format": "%s",
    "a named format": "%(a)s",
    "braces of a format": "{0.__class__}",
    "__proto__": "__proto__",
    "constructor": "constructor",
    "NULL": "NULL",
    "a blank inside": "a b",
    "markup": "<script>alert(1)</script>",
    "markup of a terminal": "[/x]",
    "a link of a terminal": "[link=https://evil.example]ok[/link]",
    "a formula": '=HYPERLINK("https://evil.example","x")',
    "plus in front": "+1",
    "at in front": "@SUM(A1)",
    "255 characters": "a" * 255,
    "255 emoji": "\U0001f600" * 255,
    "255 quotes": '"' * 255,
    "composed": unicodedata.normalize("NFC", "bl\u00e5"),
    "decomposed": unicodedata.normalize("NFD", "bl\u00e5"),
}
REFUSED = {
    "nothing": "",
    "256 characters": "a" * 256,
    "a NUL": "a\x00b",
    "ESC": "a\x1b[2J",
    "a newline": "a\nb",
    "a tab": "a\tb",
    "DEL": "a\x7fb",
    "C1": "a\x9bb",
    "a number with a part": 1.5,
    "a boolean": True,
    "nothing at all": None,
    "an operator as an object": {"$gt": ""},
    "a list": ["a"],
}
BODIES = {
    "65,536 digits": b'{"value":' + b"9" * 65_000 + b"}",
    "a number that is too large": b'{"value":1e400}',
    "depth of 30,000": b"[" * 30_000,
    "a deep event": b'{"event_id":' * 5_000 + b"1" + b"}" * 5_000,
    "60,000 keys that are one": b"{" + b'"a":1,' * 10_000 + b'"a":1}',
    "UTF-16": json.dumps(event()).encode("utf-16"),
    "a byte order mark": b"\xef\xbb\xbf" + json.dumps(event()).encode(),
    "gzip": gzip.compress(json.dumps(event()).encode()),
    "a lone surrogate": json.dumps(event(entity_id="\ud800")).encode(),
    "broken UTF-8": json.dumps(event()).encode().replace(b"view", b"vi\xffw"),
    "a NUL behind": json.dumps(event()).encode() + b"\x00",
    "two events": json.dumps(event()).encode() * 2,
    "NaN": b'{"value":NaN}',
    "a comment": json.dumps(event()).encode() + b"// x",
    "a list": json.dumps([event()]).encode(),
    "a text": b'"event"',
    "nothing": b"",
}


@pytest.mark.parametrize("entity_id", TAKEN.values(), ids=TAKEN.keys())
def test_an_accepted_id_is_counted_as_it_was_sent(ingest: Ingest, shared_system: System, entity_id: str) -> None:
    assert ingest.post(event(entity_id=entity_id)).status_code == 202
    assert shared_system.redis.hvals(f"anl:{{0}}:counters:jav:movie:{entity_id}") == [b"1"]
    assert shared_system.redis.smembers("anl:{0}:dirty") == {f"jav:movie:{entity_id}".encode()}


def test_the_ids_arrive_in_mongodb_as_they_were_sent(ingest: Ingest, shared_system: System) -> None:
    for name in shared_system.mongo.list_collection_names():
        shared_system.mongo[name].delete_many({})
    for entity_id in TAKEN.values():
        assert ingest.post(event(entity_id=entity_id)).status_code == 202
    shared_system.flush(MYSQL__URL="")
    found = shared_system.mongo["analytics_entity_totals"].find({}, {"entity_id": 1, "view": 1})
    assert {each["entity_id"]: each["view"] for each in found} == dict.fromkeys(TAKEN.values(), 1)


@pytest.mark.parametrize("entity_id", REFUSED.values(), ids=REFUSED.keys())
def test_a_refused_id_is_named(ingest: Ingest, shared_system: System, entity_id: Any) -> None:
    answer = ingest.post(event(entity_id=entity_id))
    assert answer.status_code == 422
    assert list(answer.json()["errors"]) == ["entity_id"]
    assert shared_system.redis.keys("anl:{*") == []


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES.keys())
def test_a_hostile_body_is_refused_in_few_words(ingest: Ingest, shared_system: System, body: bytes) -> None:
    answer = ingest.post(body)
    assert answer.status_code in (400, 422)
    assert len(answer.content) <= 4_096
    assert shared_system.redis.keys("anl:{*") == []


def test_of_a_key_that_comes_twice_the_last_one_holds(ingest: Ingest, shared_system: System) -> None:
    body = json.dumps(event(entity_id="last")).encode()
    assert ingest.post(b'{"entity_id":"first",' + body[1:]).status_code == 202
    assert shared_system.redis.smembers("anl:{0}:dirty") == {b"jav:movie:last"}
