"""The batch path over real sockets: arrays, envelopes and lines, with good and bad events mixed."""

from __future__ import annotations

import json
import math
from typing import Any

import httpx
import pytest

from daemon.config import Config
from tests.kit.system import BATCH, Ingest, System, event
from tests.kit.wire import head, send_body, talk

BYTES_MAX = 1_048_576
EVENTS_MAX = 2_000
NDJSON = ["application/x-ndjson", "application/ndjson", "application/jsonl", "Application/X-NDJSON; charset=utf-8"]
SHAPES = ["array", "envelope", "lines"]
CONFIG: dict[str, str] = {}


def accepted(counted: int, duplicates: int = 0, rejected: list[tuple[int, set[str]]] | None = None) -> dict[str, Any]:
    return {"status": "accepted", "accepted": counted, "duplicates": duplicates, "rejected": rejected or []}


def outcome(answer: httpx.Response) -> dict[str, Any]:
    """A 202's body, of each rejection the index and the wrong fields."""
    assert answer.status_code == 202, answer.text
    body = answer.json()
    for each in body["rejected"]:
        assert set(each) == {"index", "errors"}
        assert all(isinstance(text, str) and text for texts in each["errors"].values() for text in texts)
    return {**body, "rejected": [(each["index"], set(each["errors"])) for each in body["rejected"]]}


def lines(*items: Any, end: str = "\n") -> bytes:
    return end.join(json.dumps(item) for item in items).encode()


def post(ingest: Ingest, items: list[Any], shape: str) -> httpx.Response:
    if shape == "lines":
        return post_lines(ingest, lines(*items))
    return ingest.post(items if shape == "array" else {"events": items, "sent_by": "x", "user_id": 1}, BATCH)


def post_lines(ingest: Ingest, body: bytes, kind: str = NDJSON[0]) -> httpx.Response:
    return ingest.post(body, BATCH, headers={"content-type": kind})


def calls(system: System) -> int:
    """Scripts run so far, without those that look whether Redis is there: each has an HGETALL (`layout.lua`)."""
    found: dict[str, Any] = system.redis.info("commandstats")
    ran, looked = (int(found.get(f"cmdstat_{name}", {"calls": 0})["calls"]) for name in ("evalsha", "hgetall"))
    return ran - looked


# Shapes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
def test_a_batch_is_counted(ingest: Ingest, shared_system: System, shape: str) -> None:
    assert outcome(post(ingest, [event(value=2), event(value=3)], shape)) == accepted(2)
    assert shared_system.views() == 5


@pytest.mark.parametrize("kind", NDJSON)
def test_the_content_types_of_lines_are_taken(ingest: Ingest, kind: str) -> None:
    assert outcome(post_lines(ingest, lines(event(), event()), kind)) == accepted(2)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\n\n", "\r\n\r\n", "\n \t \n", " \n"])
def test_lines_may_end_as_they_like(ingest: Ingest, end: str) -> None:
    for whole in (
        lines(event(), event(), end=end),
        lines(event(), event(), "", end=end)[:-2],
        b"\n\r\n" + lines(event(), event()),
    ):
        assert outcome(post_lines(ingest, whole)) == accepted(2)


@pytest.mark.parametrize("kind", ["application/json", "text/plain", "application/json; charset=utf-8"])
def test_the_content_types_of_the_single_path_are_taken(ingest: Ingest, kind: str) -> None:
    body = json.dumps([event()]).encode()
    assert outcome(ingest.post(body, BATCH, headers={"content-type": kind})) == accepted(1)


def test_no_content_type_is_taken_for_json(ingest: Ingest) -> None:
    body = json.dumps([event()]).encode()
    assert talk(ingest.url, head(BATCH, content_length=len(body)) + body).json() == accepted(1)


@pytest.mark.parametrize("kind", ["text/html", "application/xml", "text/csv", "application/x-ndjson2"])
def test_other_content_types_are_refused(ingest: Ingest, kind: str) -> None:
    answer = ingest.post(b"[]", BATCH, headers={"content-type": kind})
    assert answer.status_code == 415
    assert "ndjson" in answer.json()["message"]


def test_a_batch_may_arrive_in_chunks(ingest: Ingest, shared_system: System) -> None:
    body = json.dumps([event() for _ in range(50)]).encode()
    assert send_body(ingest.url, body, BATCH, chunk_bytes=999) == 202
    assert shared_system.views() == 50


# Good and bad, duplicates -----------------------------------------------------------------------------------------

BAD: list[tuple[Any, set[str]]] = [
    ({}, {"event_id", "domain", "entity_type", "entity_id", "action"}),
    (event(value=0), {"value"}),
    (event(value=1e300), {"value"}),
    (event(event_id="", occurred_at="now"), {"event_id", "occurred_at"}),
    (event(entity_id="a\x00b"), {"entity_id"}),
    (5, {"event"}),
    ("text", {"event"}),
    (None, {"event"}),
    ([event()], {"event"}),
]


@pytest.mark.parametrize("shape", SHAPES)
def test_good_events_count_although_others_are_bad(ingest: Ingest, shared_system: System, shape: str) -> None:
    items: list[Any] = [event()]
    rejected = []
    for bad, fields in BAD:
        rejected.append((len(items), fields))
        items += [bad, event()]
    assert outcome(post(ingest, items, shape)) == accepted(len(BAD) + 1, 0, rejected)
    assert shared_system.views() == len(BAD) + 1


@pytest.mark.parametrize(
    "broken", [b"{", b"nope", b"\xff", b'{"event_id": "\xff"}', b"[" * 5_000, lines(event())[:-1], b"\x00"]
)
def test_a_line_that_is_not_json_is_rejected_alone(ingest: Ingest, shared_system: System, broken: bytes) -> None:
    body = b"\n".join([lines(event()), b"", broken, lines(event()), lines(event(value=0))])
    found = outcome(post_lines(ingest, body))
    assert found == accepted(2, 0, [(1, {"event"}), (3, {"value"})]), "blank lines have no number"
    assert shared_system.views() == 2


def test_a_line_with_broken_text_in_an_ignored_field_is_rejected_alone(ingest: Ingest) -> None:
    """Whether another line is bad decides nothing about this one."""
    odd = lines(event())[:-1] + b', "note": "\xff"}'
    assert outcome(post_lines(ingest, b"\n".join([lines(event()), odd]))) == accepted(1, 0, [(1, {"event"})])
    assert outcome(post_lines(ingest, b"\n".join([lines({}), odd, lines(event())])))["accepted"] == 1


def test_duplicates_are_told(ingest: Ingest, shared_system: System) -> None:
    first, second = event(), event()
    assert outcome(ingest.post([first, second, first], BATCH)) == accepted(2, 1)
    assert outcome(ingest.post([first, event(), second, {}], BATCH))["duplicates"] == 2
    assert outcome(ingest.post([first, second], BATCH)) == accepted(0, 2)
    assert shared_system.ledger() == {"accepted:view": 3, "duplicate:view": 5}


def test_an_id_sent_alone_is_recognised_in_a_batch(ingest: Ingest) -> None:
    same = event()
    assert ingest.post(same).status_code == 202
    assert outcome(ingest.post([same], BATCH)) == accepted(0, 1)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_batch_without_a_good_event_is_wrong(ingest: Ingest, shared_system: System, shape: str) -> None:
    answer = post(ingest, [bad for bad, _ in BAD], shape)
    assert answer.status_code == 422
    body = answer.json()
    named = {f"events.{index}.{field}" for index, (_, fields) in enumerate(BAD) for field in fields}
    assert set(body["errors"]) == named
    first = next(iter(body["errors"].values()))[0]
    assert body["message"] == f"{first} (and {len(named) - 1} more errors)"
    assert shared_system.redis.keys("anl:{*") == []


@pytest.mark.parametrize("shape", SHAPES)
def test_a_batch_of_mistakes_gets_a_short_answer(ingest: Ingest, shared_system: System, shape: str) -> None:
    answer = post(ingest, [{}] * 2_000, shape)
    assert (answer.status_code, len(answer.content) <= 4_096) == (422, True)
    listed = {name.split(".")[1] for name in answer.json()["errors"]}
    assert 0 < len(listed) == 2_000 - answer.json()["rejected_more"]
    some = post(ingest, [*[event(value=0)] * 1_000, event(), *[5] * 900, event()], shape)
    assert (some.status_code, len(some.content) <= 4_096) == (202, True)
    told = some.json()
    assert (told["accepted"], told["rejected"][0]["index"], "value" in told["rejected"][0]["errors"]) == (2, 0, True)
    assert len(told["rejected"]) + told["rejected_more"] == 1_900
    assert shared_system.views() == 2


# Sizes ------------------------------------------------------------------------------------------------------------


def test_the_largest_batch_is_counted(ingest: Ingest, shared_system: System) -> None:
    items = [event(event_id=f"e{n}", entity_id=f"m{n % 100}") for n in range(EVENTS_MAX)]
    assert outcome(ingest.post(items, BATCH)) == accepted(EVENTS_MAX)
    assert outcome(post_lines(ingest, lines(*items))) == accepted(0, EVENTS_MAX)
    assert shared_system.views() == EVENTS_MAX


def test_a_batch_is_counted_in_calls_that_hold_redis_up_shortly(ingest: Ingest, shared_system: System) -> None:
    items = [event(event_id=f"e{n}") for n in range(EVENTS_MAX - 1)]
    before = calls(shared_system)
    assert outcome(ingest.post([*items, items[0]], BATCH)) == accepted(EVENTS_MAX - 1, 1)
    assert calls(shared_system) - before == math.ceil(EVENTS_MAX / Config().ingest.call_events_max)
    assert shared_system.views() == EVENTS_MAX - 1


def assert_no_batch(answer: httpx.Response) -> None:
    assert answer.status_code == 422
    assert set(answer.json()["errors"]) == {"events"}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("bad", [0, 1, EVENTS_MAX + 1])
def test_a_larger_batch_is_wrong_as_a_whole(ingest: Ingest, shared_system: System, bad: int, shape: str) -> None:
    answer = post(ingest, [{}] * bad + [event() for _ in range(EVENTS_MAX + 1 - bad)], shape)
    assert_no_batch(answer)
    assert "2000" in answer.json()["message"]
    assert shared_system.redis.keys("anl:{*") == []


@pytest.mark.parametrize(
    "body", [b"[]", b" [ ] ", b"{}", b'{"events": []}', b'{"events": null}', b'{"events": {}}', b'{"events": 5}',
             b'{"event": []}', b"null", b"5", b'"x"', b"1e400", lines(event())]
)  # fmt: skip
def test_a_body_without_a_list_of_events_is_wrong_also_a_single_event(ingest: Ingest, body: bytes) -> None:
    assert_no_batch(ingest.post(body, BATCH))


@pytest.mark.parametrize("body", [b"", b"\n", b" \r\n \n"])
def test_no_lines_are_no_batch(ingest: Ingest, body: bytes) -> None:
    assert_no_batch(post_lines(ingest, body))


@pytest.mark.parametrize(
    "body", [b"", b" ", b"[", b"[1,]", b"[]x", b"\xff", b'["\xff"]', b"[" * 5_000, b'{"events": [}',
             lines(event(), event())]
)  # fmt: skip
def test_what_is_not_json_is_refused(ingest: Ingest, shared_system: System, body: bytes) -> None:
    answer = ingest.post(body, BATCH)
    assert answer.status_code == 400
    assert set(answer.json()) == {"message"}
    assert shared_system.redis.keys("anl:{*") == []


@pytest.mark.parametrize("chunk_bytes", [0, 50_000], ids=["length", "chunks"])
def test_a_batch_of_the_largest_size_is_taken_and_a_larger_one_refused(ingest: Ingest, chunk_bytes: int) -> None:
    for size, status in ((BYTES_MAX, 202), (BYTES_MAX + 1, 413), (5_000_000, 413)):
        body = json.dumps([event()]).encode().ljust(size)
        assert send_body(ingest.url, body, BATCH, chunk_bytes=chunk_bytes) == status, size


def test_of_a_name_given_twice_the_last_wins(ingest: Ingest) -> None:
    good = json.dumps([event()])
    assert outcome(ingest.post(f'{{"events": 5, "events": [], "events": {good}}}'.encode(), BATCH)) == accepted(1)
