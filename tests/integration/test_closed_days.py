"""A day that is over: nobody without a key adds to it any more, while a producer and an import may."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path

from tests.kit.system import EVENTS, Ingest, System, event

WINDOW_S = 172_800
SHOP = "a-shop-s-key-0123"
CONFIG = {"PRODUCERS__KEYS": json.dumps({"shop": SHOP}), "INGEST__MAX_AGE_S": str(WINDOW_S)}


def ago(seconds: int) -> str:
    return (dt.datetime.now(dt.UTC) - dt.timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


def test_an_event_of_a_closed_day_without_a_key_is_refused_with_the_bound(
    ingest: Ingest, shared_system: System
) -> None:
    late = ingest.post(event(occurred_at=ago(WINDOW_S + 60)))
    assert late.status_code == 422
    assert late.json()["errors"] == {
        "occurred_at": ["The occurred at field must not be more than 172800 seconds in the past."]
    }
    assert shared_system.ledger() == {}
    assert ingest.post(event(occurred_at=ago(WINDOW_S - 600))).status_code == 202


def test_a_producer_may_still_add_to_a_closed_day(ingest: Ingest, shared_system: System) -> None:
    assert ingest.post(event(occurred_at="2024-02-29T10:00:00Z"), EVENTS, headers={"x-tallyd-key": SHOP}).is_success
    assert shared_system.ledger() == {"accepted:view": 1}


def test_an_import_may_too(ingest: Ingest, shared_system: System, tmp_path: Path) -> None:
    file = tmp_path / "events.ndjson"
    file.write_text(json.dumps(event(occurred_at="2024-02-29T10:00:00Z")) + "\n")
    done = shared_system.tallyd("import", "--json", str(file), **CONFIG)
    assert json.loads(done.stdout)["total"]["counted"] == 1
