"""The road itself: what the tests of the producers lean on."""

from __future__ import annotations

import http.client
import json
from collections import Counter
from urllib.parse import urlsplit

import pytest

from tests.clients.conftest import EVENTS, Road
from tests.kit.events import event

ATTEMPTS_MAX = 1_000


def send(road: Road, body: dict[str, object], timeout_s: float = 0.3) -> int | None:
    """The status; None without an answer."""
    connection = http.client.HTTPConnection(urlsplit(road.url).netloc, timeout=timeout_s)
    try:
        connection.request("POST", EVENTS, json.dumps(body), {"content-type": "application/json"})
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def test_a_producer_that_repeats_what_was_not_answered_is_counted_exactly(road: Road) -> None:
    expected: Counter[tuple[str, str]] = Counter()
    road.faulty(seed=7, lost=0.2, refused=0.2)
    for number in range(60):
        body = event(entity_id=f"movie-{number % 3}", action="download" if number % 2 else "view", value=1)
        expected[str(body["entity_id"]), str(body["action"])] += 1
        if number == 20:
            road.restart()
        if number == 40:
            road.restart(kill=True)
        assert any(send(road, body) == 202 for _ in range(ATTEMPTS_MAX))
    assert road.proxy.lost
    assert road.proxy.refused
    road.counted(expected, resent=True)


def test_an_amount_that_was_never_tracked_is_found(road: Road) -> None:
    assert send(road, event(entity_id="a", value=2), timeout_s=5) == 202
    with pytest.raises(AssertionError):
        road.counted({("a", "view"): 1})
