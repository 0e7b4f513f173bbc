"""Heads that no good client sends: too many, too long, twice. Each interface gives the same answer."""

from __future__ import annotations

import json
from itertools import count

import pytest

from tests.kit.events import EVENTS, event
from tests.kit.system import Ingest, System
from tests.kit.wire import Wire, chunked, head, request

KEY, OTHER_KEY = "a-shop-s-key-0123", "another-shop-s-key"
CONFIG = {"PRODUCERS__KEYS": json.dumps({"shop": KEY, "other": OTHER_KEY})}
_numbers = count()


def body() -> bytes:
    return json.dumps(event(entity_id=f"m{next(_numbers)}")).encode()


def status(ingest: Ingest, data: bytes) -> int:
    with Wire(ingest.url) as wire:
        wire.send(data)
        return wire.answer().status


def doubled(sent: bytes, *lines: bytes) -> bytes:
    """A good request for this body with these further lines in its head."""
    return b"".join(
        [
            b"POST %b HTTP/1.1\r\nhost: t\r\ncontent-length: %d\r\n" % (EVENTS.encode(), len(sent)),
            *(line + b"\r\n" for line in lines),
            b"\r\n" + sent,
        ]
    )


@pytest.mark.parametrize(
    ("keys", "expected"),
    [((KEY, "wrong"), 202), (("wrong", KEY), 401), ((KEY, OTHER_KEY), 202)],
    ids=["good, bad", "bad, good", "two good"],
)
def test_of_two_keys_the_first_counts(ingest: Ingest, keys: tuple[str, str], expected: int) -> None:
    lines = [b"content-type: application/json", *(b"x-tallyd-key: " + key.encode() for key in keys)]
    assert status(ingest, doubled(body(), *lines)) == expected


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [((b"application/json", b"image/png"), 202), ((b"image/png", b"application/json"), 415)],
    ids=["good, bad", "bad, good"],
)
def test_of_two_content_types_the_first_counts(ingest: Ingest, kinds: tuple[bytes, bytes], expected: int) -> None:
    assert status(ingest, doubled(body(), *(b"content-type: " + kind for kind in kinds))) == expected


def test_more_headers_than_a_hundred_are_refused(ingest: Ingest) -> None:
    many = {f"x_{n}": n for n in range(101)}
    assert status(ingest, head(EVENTS, content_length=0, **many)) == 431


def test_a_head_far_over_its_limit_is_refused(ingest: Ingest) -> None:
    assert status(ingest, head(EVENTS, content_length=0, x="a" * 100_000)) == 431


def test_a_path_far_over_its_limit_is_refused(ingest: Ingest) -> None:
    with Wire(ingest.url) as wire:
        wire.send(head(f"/{'a' * 70_000}", "GET"))
        assert wire.answer().status in (414, 431)


def test_a_key_in_a_trailer_is_no_key(ingest: Ingest, shared_system: System) -> None:
    """RSGI refuses every trailer, ASGI does not see them. None of the two takes the key for one."""
    begin = head(EVENTS, content_type="application/json", transfer_encoding="chunked", trailer="x-tallyd-key")
    sent = begin + chunked(body(), end=False) + b"0\r\nx-tallyd-key: %b\r\n\r\n" % b"wrong-key-wrong-key"
    assert status(ingest, sent) in (202, 400)


@pytest.mark.parametrize(
    ("path", "meant"),
    [("/%68ealthz", "/healthz"), ("/readyz?x", "/readyz"), ("//healthz", ""), ("/./healthz", ""), ("/healthz/", "")],
)
def test_a_path_is_compared_decoded_and_as_it_stands(ingest: Ingest, path: str, meant: str) -> None:
    """A proxy that forbids a path has to decode it, too. Dots and slashes are not resolved."""
    assert status(ingest, head(path, "GET")) == (status(ingest, head(meant, "GET")) if meant else 404)


def test_the_decoded_way_in_takes_events_by_the_same_rules(ingest: Ingest) -> None:
    assert status(ingest, request(body(), EVENTS.replace("events", "%65vents"))) == 202
    assert status(ingest, request(b"{}", EVENTS.replace("events", "%65vents"))) == 422
