"""Events of robots: counted, left out or counted apart, and always answered 202."""

from __future__ import annotations

import json

import httpx
import pytest

from daemon.devstack.process import free_port
from tests.kit.system import BATCH, EVENTS, Ingest, System, event, wait_until

SHOP = "a-shop-s-key-0123"
PERSON = {"user-agent": "Mozilla/5.0 (X11; Linux x86_64; rv:133.0) Gecko/20100101 Firefox/133.0"}
ROBOT = {"user-agent": "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)"}
KEYS = {"PRODUCERS__KEYS": json.dumps({"shop": SHOP})}
INTERFACES = pytest.mark.parametrize("interface", ["rsgi", "asgi"])


def send(ingest: Ingest) -> None:
    """Of a person 1 + 2 events, of a robot 1 + 3, of a producer's robot 1."""
    for headers, size in ((PERSON, 2), (ROBOT, 3)):
        assert ingest.post(event(entity_id="m"), EVENTS, headers=headers).json() == {"status": "accepted"}
        assert ingest.post([event(entity_id="m") for _ in range(size)], BATCH, headers=headers).status_code == 202
    keyed = {**ROBOT, "x-tallyd-key": SHOP}
    assert ingest.post(event(entity_id="m"), EVENTS, headers=keyed).status_code == 202


@INTERFACES
def test_robots_are_counted_apart_in_every_place(system: System, interface: str) -> None:
    system.env |= system.environ(BROWSER__ROBOTS="apart", HTTP__INTERFACE=interface, **KEYS)
    with system.ingest() as ingest:
        send(ingest)
        assert system.ledger() == {"accepted:view": 4, "accepted:view_robot": 4}
        system.flush()
        assert system.rollup("totals") == {"jav:movie:m": {"view": 4, "view_robot": 4}}
        read = ingest.client.get("/api/v1/analytics/totals/jav/movie/m", params={"fresh": "1"})
        assert read.json()["counters"] == {"download": 0, "download_robot": 0, "view": 4, "view_robot": 4}
        top = ingest.client.get("/api/v1/analytics/top/jav/movie", params={"counter": "view_robot"})
        assert [(row["entity_id"], row["amount"]) for row in top.json()["rows"]] == [("m", 4)]
    system.audit()


@INTERFACES
def test_robots_are_left_out_and_told_nothing(system: System, interface: str) -> None:
    port = free_port()
    settings = {"HTTP__METRICS_PORT": str(port), "HTTP__INTERFACE": interface, **KEYS}
    with system.ingest(BROWSER__ROBOTS="skip", **settings) as ingest:
        send(ingest)
        assert system.ledger() == {"accepted:view": 4}
        assert ingest.post(event(value=0), EVENTS, headers=ROBOT).status_code == 422
        told = 'tallyd_events_total{outcome="robot"} 4.0'
        wait_until(lambda: told in httpx.get(f"http://127.0.0.1:{port}/metrics").text, "they are in the metrics")


def test_what_robots_send_and_is_left_out_is_paid_for(system: System) -> None:
    with system.ingest(BROWSER__ROBOTS="skip", BUDGET__PER_MINUTE="10") as ingest:
        statuses = [ingest.post(event(), EVENTS, headers=ROBOT).status_code for _ in range(14)]
    assert statuses[0] == 202
    assert statuses[-1] == 429


def test_robots_are_people_unless_the_configuration_says_otherwise(system: System) -> None:
    with system.ingest(**KEYS) as ingest:
        send(ingest)
    assert system.ledger() == {"accepted:view": 8}
