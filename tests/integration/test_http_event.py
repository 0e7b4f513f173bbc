"""The single-event path over real sockets: every status the contract names, and what must be in its answer."""

from __future__ import annotations

import datetime as dt
import json
import re
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from daemon.devstack.process import free_port
from tests.kit.system import BATCH, EVENTS, Ingest, System, event, wait_until
from tests.kit.wire import Wire, chunked, head, request, send_body, talk

BYTES_MAX = 65_536
KEY = "a-shop-s-key-0123"
CONFIG = {
    "PRODUCERS__KEYS": json.dumps({"shop": KEY}),
    "ACTIONS": json.dumps(
        {
            "rating": {"value_max": 5, "counters": {"rating_count": "one", "rating_sum": "value"}},
            "favorite": {"value_max": 1},
        }
    ),
    "DOMAINS": json.dumps(
        {
            "jav": {"entity_types": ["movie", "actor", "tag"], "actions": ["view", "download", "rating"]},
            "shop": {"entity_types": ["item", "sku"], "actions": ["view", "favorite"], "entity_id": {"sku": "uuid"}},
        }
    ),
}
ACCEPTED = {"status": "accepted"}
REQUIRED = ("event_id", "domain", "entity_type", "entity_id", "action")
OPTIONAL = ("occurred_at", "value")


def live(system: System) -> dict[str, dict[str, int]]:
    """Entity → field → amount, as it lies in Redis."""
    prefix = "anl:{0}:counters:"
    return {
        key.decode().removeprefix(prefix): {field.decode(): int(n) for field, n in system.redis.hgetall(key).items()}
        for key in system.redis.scan_iter(f"{prefix}*")
    }


def wrong_fields(answer: httpx.Response) -> set[str]:
    """The fields a 422 names, after a look at its shape, which is Laravel's."""
    assert answer.status_code == 422, answer.text
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert set(body) == {"message", "errors"}
    texts = [text for texts in body["errors"].values() for text in texts]
    assert all(isinstance(text, str) and text for text in texts)
    more = len(texts) - 1
    tail = f" (and {more} more error{'s' if more > 1 else ''})" if more else ""
    assert body["message"] == texts[0] + tail
    return set(body["errors"])


# 202 --------------------------------------------------------------------------------------------------------------


def test_a_good_event_is_accepted_and_counted(ingest: Ingest, shared_system: System) -> None:
    answer = ingest.post(event(entity_id="m", value=3))
    assert (answer.status_code, answer.json()) == (202, ACCEPTED)
    assert answer.headers["content-type"] == "application/json"
    assert live(shared_system) == {"jav:movie:m": {"view:2026-02-19": 3}}
    assert shared_system.ledger() == {"accepted:view": 3}


def test_an_id_may_be_a_json_integer(ingest: Ingest, shared_system: System) -> None:
    assert [ingest.post(event(entity_id=id_)).status_code for id_ in (1, "1", -1)] == [202, 202, 202]
    assert live(shared_system) == {"jav:movie:1": {"view:2026-02-19": 2}, "jav:movie:-1": {"view:2026-02-19": 1}}


def test_an_id_that_breaks_the_rule_of_its_type_is_refused_and_read_as_one_never_counted(
    ingest: Ingest, shared_system: System
) -> None:
    sku = {"domain": "shop", "entity_type": "sku", "entity_id": "0F8FAD5B-d9cb-469f-a165-70867728950e"}
    answer = ingest.post(event(**sku))
    assert wrong_fields(answer) == {"entity_id"}
    assert "UUID in lower case" in answer.json()["message"]
    assert live(shared_system) == {}
    read = ingest.client.get(f"/api/v1/analytics/totals/shop/sku/{sku['entity_id']}")
    unknown = ingest.client.get("/api/v1/analytics/totals/shop/sku/0f8fad5b-d9cb-469f-a165-000000000000")
    assert (read.status_code, read.json()["counters"]) == (unknown.status_code, unknown.json()["counters"])
    assert ingest.post(event(**{**sku, "entity_id": sku["entity_id"].lower()})).status_code == 202


def test_a_duplicate_is_accepted_and_not_counted(ingest: Ingest, shared_system: System) -> None:
    same = event(entity_id="m")
    answers = [ingest.post(same) for _ in range(3)]
    assert [answer.json() for answer in answers] == [ACCEPTED] * 3
    assert [answer.headers.get("x-tallyd-duplicate") for answer in answers] == [None, "1", "1"]
    slow = ingest.post(json.dumps(same).encode(), headers={"content-type": "Text/Plain"})  # the long way
    assert (slow.json(), slow.headers["x-tallyd-duplicate"]) == (ACCEPTED, "1")
    assert live(shared_system) == {"jav:movie:m": {"view:2026-02-19": 1}}
    assert shared_system.ledger() == {"accepted:view": 1, "duplicate:view": 3}


def test_one_id_sent_from_many_connections_at_once_is_counted_once(ingest: Ingest, shared_system: System) -> None:
    same = event(entity_id="m")

    def post(_: int) -> int:
        return httpx.post(ingest.url + EVENTS, json=same).status_code

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(post, range(24))) == {202}
    assert shared_system.ledger() == {"accepted:view": 1, "duplicate:view": 23}


@pytest.mark.parametrize(
    "fields",
    [
        {"event_id": "x"},
        {"event_id": "é" * 255},
        {"event_id": "😀" * 255},
        {"event_id": "any form \n\t\x00 at all"},
        {"entity_id": "42"},
        {"entity_id": "/a/path?with=query#and:colons"},
        {"entity_id": "漢" * 255},
        {"entity_id": " "},
        {"entity_id": "{0}"},
        {"entity_type": "actor"},
        {"entity_type": "tag"},
        {"action": "download"},
        {"action": "rating", "value": 5},
        {"domain": "shop", "entity_type": "item", "action": "favorite"},
        {"value": None},
        {"value": 1},
        {"value": 100},
        {"occurred_at": "2026-02-19T10:00:00.123456789012345Z"},
        {"occurred_at": "2016-12-31T23:59:60Z"},
        {"occurred_at": "0001-01-01T12:00:00Z"},
        {"user_id": 7},
        {"user_id": {"any": ["thing"]}, "counter": "download", "views": 10**6, "": None},
    ],
)  # fmt: skip
def test_it_takes(ingest: Ingest, shared_system: System, fields: dict[str, Any]) -> None:
    sent = event(**fields)
    answer = ingest.post(sent)
    assert (answer.status_code, answer.json()) == (202, ACCEPTED)
    assert set(live(shared_system)) == {f"{sent['domain']}:{sent['entity_type']}:{sent['entity_id']}"}


@pytest.mark.parametrize(("value", "amount"), [(None, 1), (1, 1), (7, 7), ("absent", 1)])
def test_a_value_that_is_null_or_absent_is_one(ingest: Ingest, shared_system: System, value: Any, amount: int) -> None:
    sent = event(entity_id="m", value=value)
    if value == "absent":
        del sent["value"]
    assert ingest.post(sent).status_code == 202
    assert live(shared_system) == {"jav:movie:m": {"view:2026-02-19": amount}}


def test_an_action_moves_the_configured_counters(ingest: Ingest, shared_system: System) -> None:
    for stars in (5, 3):
        assert ingest.post(event(entity_id="m", action="rating", value=stars)).status_code == 202
    assert live(shared_system) == {"jav:movie:m": {"rating_count:2026-02-19": 2, "rating_sum:2026-02-19": 8}}


def test_of_a_name_given_twice_the_last_wins(ingest: Ingest, shared_system: System) -> None:
    for early in ('"value": 2, "entity_id": "a"', '"value": "two", "entity_id": 5', '"value": 1e400, "entity_id": ""'):
        rest = json.dumps(event(entity_id="b", value=7))[1:]
        assert ingest.post(f"{{{early}, {rest}".encode()).status_code == 202
    assert live(shared_system) == {"jav:movie:b": {"view:2026-02-19": 21}}


def test_the_utc_date_decides(ingest: Ingest, shared_system: System) -> None:
    for at in ("2026-02-19T23:30:00-02:00", "2026-02-20T06:59:59+07:00", "2016-12-31T23:59:60Z"):
        ingest.post(event(entity_id="m", occurred_at=at))
    assert live(shared_system) == {"jav:movie:m": {"view:2026-02-20": 1, "view:2026-02-19": 1, "view:2016-12-31": 1}}


def test_the_far_future_is_counted_under_the_servers_day(ingest: Ingest, shared_system: System) -> None:
    before = dt.datetime.now(dt.UTC).date()
    assert ingest.post(event(entity_id="m", occurred_at="9998-01-01T00:00:00Z")).status_code == 202
    days = {f"view:{day}" for day in (before, dt.datetime.now(dt.UTC).date())}
    assert live(shared_system)["jav:movie:m"].keys() <= days


@pytest.mark.parametrize("absent", [True, False])
@pytest.mark.parametrize("path", [EVENTS, BATCH, "ndjson"])
def test_an_event_that_does_not_say_when_counts_under_the_servers_day(
    ingest: Ingest, shared_system: System, path: str, absent: bool
) -> None:
    sent = event(entity_id="m", occurred_at=None)
    if absent:
        del sent["occurred_at"]
    before = dt.datetime.now(dt.UTC).date()
    if path == "ndjson":
        body = json.dumps(sent).encode() + b"\n{}\n"  # the other line is refused, so each is judged by itself
        assert ingest.post(body, BATCH, headers={"content-type": "application/x-ndjson"}).json()["accepted"] == 1
    else:
        assert ingest.post([sent] if path == BATCH else sent, path).status_code == 202
    days = {f"view:{day}" for day in (before, dt.datetime.now(dt.UTC).date())}
    assert live(shared_system)["jav:movie:m"].keys() <= days
    assert shared_system.ledger() == {"accepted:view": 1}


def test_an_event_that_does_not_say_when_counts_on_the_day_of_its_first_arrival(
    ingest: Ingest, shared_system: System
) -> None:
    """The id decides. So a resend is a duplicate, whatever day it says or arrives on."""
    first = event(entity_id="m", occurred_at="2026-02-19T23:59:59Z")
    again = {name: value for name, value in first.items() if name != "occurred_at"}
    assert [ingest.post(each).status_code for each in (first, again)] == [202, 202]
    assert live(shared_system) == {"jav:movie:m": {"view:2026-02-19": 1}}
    assert shared_system.ledger() == {"accepted:view": 1, "duplicate:view": 1}


# 400 --------------------------------------------------------------------------------------------------------------

GOOD = json.dumps(event(entity_id="m")).encode()


@pytest.mark.parametrize(
    "body",
    [
        b"", b" ", b"\x00", b"{", b"}", b"nope", b"NaN", b"{'event_id': 1}", GOOD[:-1], GOOD + b"x", GOOD + GOOD,
        GOOD[:-1] + b",}", b"\xef\xbb\xbf" + GOOD, GOOD.decode().encode("utf-16"),
        GOOD.replace(b'"m"', b'"\xff"'), GOOD.replace(b'"m"', b'"\xed\xa0\x80"'), GOOD.replace(b'"m"', b'"\xc0\x80"'),
        GOOD.replace(b'"m"', b'"\\ud800"'), GOOD.replace(b'"m"', b'"\\udc00\\ud800"'), GOOD.replace(b'"m"', b'"\x01"'),
        GOOD[:-1] + b', "note": "\xff"}', GOOD[:-1] + b', "\xff": 1}', GOOD[:-1] + b', "note": "\\ud800"}',
        b"[" * 30_000, b'{"a":' * 10_000, GOOD[:-1] + b', "a": ' + b"[" * 20_000 + b"]" * 20_000 + b"}",
        b"[" * 20_000 + b"]" * 20_000,
    ],
)  # fmt: skip
def test_what_is_not_json_is_refused(ingest: Ingest, shared_system: System, body: bytes) -> None:
    answer = ingest.post(body)
    assert answer.status_code == 400
    assert set(answer.json()) == {"message"}
    assert shared_system.redis.keys("anl:{*") == []


@pytest.mark.parametrize("end", ["sends no more", "ends the chunks early"])
def test_a_body_that_was_cut_off_is_not_counted_however_whole_it_looks(
    ingest: Ingest, shared_system: System, end: str
) -> None:
    with Wire(ingest.url) as wire:
        if end == "sends no more":
            wire.send(request(GOOD, content_length=len(GOOD) + 10))
        else:
            wire.send(head(content_type="application/json", transfer_encoding="chunked") + chunked(GOOD, end=False))
        wire.end()
        assert wire.answer().status == 400
    assert shared_system.redis.keys("anl:{*") == []


@pytest.mark.parametrize("garbage", [b"nonsense\r\n\r\n", head(nonsense="\x00"), head().replace(b"1.1", b"9.9")])
def test_what_is_not_http_is_refused(ingest: Ingest, garbage: bytes) -> None:
    with Wire(ingest.url) as wire:
        wire.send(garbage)
        wire.end()
        assert wire.rest().startswith(b"HTTP/1.1 400 ")
    assert ingest.post(event()).status_code == 202


# 401, 404, 405, 415 -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["", KEY])
def test_a_producer_may_say_who_it_is(ingest: Ingest, key: str) -> None:
    assert ingest.post(event(), headers={"X-Tallyd-Key": key}).status_code == 202


@pytest.mark.parametrize("key", ["x", KEY + "x", KEY[:-1], KEY.upper(), "shop", "é" * 20])
def test_an_unknown_key_is_refused(ingest: Ingest, shared_system: System, key: str) -> None:
    answer = talk(ingest.url, request(GOOD, X_Tallyd_Key=key))
    assert answer.status == 401
    assert set(answer.json()) == {"message"}
    assert KEY not in answer.body.decode()
    assert shared_system.redis.keys("anl:{*") == []


@pytest.mark.parametrize(
    "path", ["/", "/api/v1/analytics", EVENTS + "/", EVENTS + "x", EVENTS.upper(), "/" + EVENTS, "/healthz/", "/%00"]
)
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
def test_there_is_nothing_elsewhere(ingest: Ingest, path: str, method: str) -> None:
    answer = talk(ingest.url, head(path, method, content_length=0))
    assert answer.status == 404
    assert set(answer.json()) == {"message"}


@pytest.mark.parametrize("path", [EVENTS, EVENTS + "/batch"])
@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD", "TRACE", "BREW"])
def test_events_are_posted_and_nothing_else(ingest: Ingest, path: str, method: str) -> None:
    answer = ingest.client.request(method, path)
    assert answer.status_code == 405
    assert answer.headers["allow"] == "POST"
    if method == "HEAD":
        assert answer.content == b""


@pytest.mark.parametrize("path", ["/healthz", "/livez", "/readyz", "/version"])
def test_state_is_looked_at_and_not_changed(ingest: Ingest, path: str) -> None:
    assert ingest.client.get(path).status_code == 200
    looked = ingest.client.head(path)
    assert (looked.status_code, looked.content) == (200, b"")
    for method in ("POST", "PUT", "DELETE"):
        refused = ingest.client.request(method, path)
        assert refused.status_code == 405
        assert set(refused.headers["allow"].split(", ")) == {"GET", "HEAD"}


@pytest.mark.parametrize(
    "kind",
    [
        "application/json", "text/plain", "APPLICATION/JSON", "Text/Plain", "application/json; charset=utf-8",
        "application/json;charset=UTF-8", "text/plain ; charset=utf-8", "application/json; a=b; c=d",
    ],
)  # fmt: skip
def test_these_content_types_are_taken(ingest: Ingest, kind: str) -> None:
    assert ingest.post(GOOD, headers={"content-type": kind}).status_code == 202


def test_no_content_type_is_taken_for_json(ingest: Ingest, shared_system: System) -> None:
    assert talk(ingest.url, head(content_length=len(GOOD)) + GOOD).status == 202
    assert live(shared_system)


@pytest.mark.parametrize(
    "kind",
    [
        "text/html", "application/xml", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x",
        "application/x-ndjson", "application/jsonx", "application", "json", "*/*", "application/json, text/html",
    ],
)  # fmt: skip
def test_other_content_types_are_refused(ingest: Ingest, shared_system: System, kind: str) -> None:
    answer = ingest.post(GOOD, headers={"content-type": kind})
    assert answer.status_code == 415
    assert "application/json" in answer.json()["message"]
    assert shared_system.redis.keys("anl:{*") == []


# 413 --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk_bytes", [0, 10_000], ids=["length", "chunks"])
def test_the_largest_body_is_taken(ingest: Ingest, chunk_bytes: int) -> None:
    assert send_body(ingest.url, GOOD.ljust(BYTES_MAX), chunk_bytes=chunk_bytes) == 202


@pytest.mark.parametrize("chunk_bytes", [0, 10_000], ids=["length", "chunks"])
@pytest.mark.parametrize("size", [BYTES_MAX + 1, 200_000, 5_000_000])
def test_a_larger_body_is_refused_and_the_client_can_read_so(
    ingest: Ingest, shared_system: System, size: int, chunk_bytes: int
) -> None:
    for _ in range(5):
        assert send_body(ingest.url, GOOD.ljust(size), chunk_bytes=chunk_bytes) == 413
    assert shared_system.redis.keys("anl:{*") == []


def test_a_length_too_large_is_refused_before_the_body_is_sent(ingest: Ingest) -> None:
    with Wire(ingest.url) as wire:
        wire.send(head(content_type="application/json", content_length=BYTES_MAX + 1))
        answer = wire.answer()
    assert answer.status == 413
    assert str(BYTES_MAX) in answer.json()["message"]


def test_a_head_too_large_is_refused(ingest: Ingest) -> None:
    with Wire(ingest.url) as wire:
        wire.send(head(cookie="x" * 100_000, content_length=0))
        assert wire.answer().status == 431


# 422 --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("event_id", [None, "", "x" * 256, "é" * 256, "😀" * 256, 5, 1.5, True, [], {}, ["x"]]),
        ("entity_id", [None, "", "x" * 256, "漢" * 256, 1.0, True, 2**63, [], {}]),
        ("entity_id", [f"a{control}b" for control in "\x00\x01\t\n\r\x1b\x1f\x7f\x80\x85\x9f"]),
        ("domain", [None, "", "nosuch", "JAV", "jav ", 5, True, [], {}]),
        ("entity_type", [None, "", "nosuch", "Movie", "movies", "item", 5, [], {}]),
        ("action", [None, "", "nosuch", "VIEW", "favorite", "rating_sum", 5, [], {}]),
        ("value", [0, -1, 101, 10**6, 2**63, 2**64, -(2**63) - 1, 10**30]),
        ("value", [1.0, 1.5, 1e2, -0.0, "1", "", True, False, [], {}]),
        ("occurred_at", ["", 5, 1771495200, True, [], {}, "now", "x" * 10_000]),
        ("occurred_at", ["2026-02-19", "2026-02-19T10:00:00", "2026-02-30T10:00:00Z", "٢٠٢٦-02-19T10:00:00Z"]),
    ],
)  # fmt: skip
def test_a_wrong_field_is_named(ingest: Ingest, shared_system: System, field: str, values: list[Any]) -> None:
    for value in values:
        assert wrong_fields(ingest.post(event(**{field: value}))) == {field}, value
    assert shared_system.redis.keys("anl:{*") == []


@pytest.mark.parametrize("field", REQUIRED)
def test_a_missing_field_is_named(ingest: Ingest, field: str) -> None:
    sent = event()
    del sent[field]
    assert wrong_fields(ingest.post(sent)) == {field}


@pytest.mark.parametrize("number", ["1e400", "-1e400", "1" * 4_000, "0.1e-400", "-0.0"])
def test_a_number_of_any_size_is_a_wrong_value_and_not_broken_json(ingest: Ingest, number: str) -> None:
    body = json.dumps(event(value="HERE")).replace('"HERE"', number)
    assert wrong_fields(ingest.post(body.encode())) == {"value"}


def test_the_bounds_of_a_value_are_its_actions(ingest: Ingest) -> None:
    for action, value in (("rating", 6), ("rating", 0), ("view", 101)):
        assert wrong_fields(ingest.post(event(action=action, value=value))) == {"value"}
    two = event(domain="shop", entity_type="item", action="favorite", value=2)
    assert wrong_fields(ingest.post(two)) == {"value"}


@pytest.mark.parametrize(
    "fields", [{"entity_type": "item"}, {"action": "favorite"}, {"entity_type": "item", "action": "favorite"}]
)
def test_what_belongs_to_another_domain_is_wrong_here(ingest: Ingest, fields: dict[str, str]) -> None:
    assert wrong_fields(ingest.post(event(**fields))) == set(fields)


def test_every_wrong_field_is_named_at_once(ingest: Ingest) -> None:
    assert wrong_fields(ingest.post({})) == set(REQUIRED)
    everything = {name: [] for name in (*REQUIRED, *OPTIONAL)}
    assert wrong_fields(ingest.post(everything)) == set(everything)
    some = event(event_id="", entity_id="a\nb", value=0, occurred_at="yesterday")
    assert wrong_fields(ingest.post(some)) == {"event_id", "entity_id", "value", "occurred_at"}


@pytest.mark.parametrize("body", [b"[]", b"[1]", b"null", b"5", b"true", b'"text"', b"[" + GOOD + b"]", b"1e400"])
def test_json_that_is_no_event_is_wrong_as_a_whole(ingest: Ingest, body: bytes) -> None:
    assert wrong_fields(ingest.post(body)) == {"event"}


def test_only_the_wrong_fields_are_named_when_an_ignored_one_is_odd(ingest: Ingest) -> None:
    assert wrong_fields(ingest.post(event(value=0, user_id={"a": [1e300]}, note="\U0001f600"))) == {"value"}


# Connections ------------------------------------------------------------------------------------------------------


def test_a_query_string_changes_nothing(ingest: Ingest) -> None:
    assert talk(ingest.url, request(GOOD, EVENTS + "?value=5&x")).status == 202
    assert ingest.client.get("/healthz?x=1").status_code == 200


def test_a_connection_carries_many_requests(ingest: Ingest) -> None:
    with Wire(ingest.url) as wire:
        for body, status in ((GOOD, 202), (b"{", 400), (b"{}", 422), (GOOD, 202)):
            wire.send(request(body))
            assert wire.answer().status == status
        wire.send(head("/nosuch", "GET"))
        assert wire.answer().status == 404
        wire.send(request(GOOD, content_type="text/html"))
        assert wire.answer().status == 415
        wire.send(request(GOOD))
        assert wire.answer().status == 202


def test_pipelined_requests_are_answered_in_order(ingest: Ingest, shared_system: System) -> None:
    bodies = [json.dumps(event(entity_id=f"m{n}")).encode() for n in range(30)]
    with Wire(ingest.url) as wire:
        wire.send(b"".join(request(body) + request(b"{}") for body in bodies))
        assert [wire.answer().status for _ in range(60)] == [202, 422] * 30
    assert len(live(shared_system)) == 30


@pytest.mark.parametrize("size", [1, 7, 100])
def test_a_body_may_arrive_in_pieces(ingest: Ingest, size: int) -> None:
    pieces = [GOOD[at : at + size] for at in range(0, len(GOOD), size)]
    with Wire(ingest.url) as wire:
        wire.send(head(content_type="application/json", content_length=len(GOOD)))
        for piece in pieces[:20]:
            wire.send(piece)
            time.sleep(0.001)
        wire.send(b"".join(pieces[20:]))
        assert wire.answer().status == 202
        wire.send(head(content_type="application/json", transfer_encoding="chunked") + chunked(*pieces))
        assert wire.answer().status == 202


def test_a_client_that_asks_before_it_sends_is_told_to_go_on(ingest: Ingest) -> None:
    with Wire(ingest.url) as wire:
        wire.send(head(content_type="application/json", content_length=len(GOOD), expect="100-continue"))
        assert [wire.line(), wire.line()] == [b"HTTP/1.1 100 Continue\r\n", b"\r\n"]
        wire.send(GOOD)
        assert wire.answer().status == 202


def test_healthz_says_which_daemon_it_is(ingest: Ingest) -> None:
    body = ingest.client.get("/healthz").json()
    assert body["status"] == "ok"
    assert {"version", "run_id", "pid"} <= body.keys()
    assert ingest.client.get("/readyz").json() == {"status": "ready"}


def test_metrics_tell_what_became_of_the_events(system: System) -> None:
    port = free_port()
    with system.ingest(HTTP__METRICS_PORT=str(port), HTTP__WORKERS="2") as ingest:
        assert ingest.client.get("/metrics").status_code == 404, "a stranger gets none"

        def events() -> dict[str, float]:
            lines = httpx.get(f"http://127.0.0.1:{port}/metrics").text.splitlines()
            found = (re.match(r'tallyd_events_total\{outcome="(\w+)"\} (\S+)', line) for line in lines)
            return {match[1]: float(match[2]) for match in found if match}

        same = event()
        for body in (same, same, {}, [event(), same, {}, 5]):
            ingest.post(body, BATCH if isinstance(body, list) else EVENTS)
        expected = {"counted": 2, "duplicate": 2, "limited": 0, "rejected": 3, "robot": 0}
        wait_until(lambda: events() == expected, f"the metrics of both workers say {expected}")


def test_metrics_wait_for_a_port_that_another_has(system: System) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with system.ingest(HTTP__METRICS_PORT=str(port)) as ingest:
            ingest.says("Metrics wait for port")
            assert ingest.post(event()).status_code == 202
            taken.close()
            wait_until(lambda: _answers(f"http://127.0.0.1:{port}/metrics"), "the port is free")


def _answers(url: str) -> bool:
    try:
        return httpx.get(url).status_code == 200
    except httpx.TransportError:
        return False
