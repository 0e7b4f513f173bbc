"""A producer's event ids are its own: nobody without its key can use them up, nor can another producer."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from tests.kit.system import BATCH, EVENTS, Ingest, System, event

SHOP, MAGAZINE = "a-shop-s-key-0123", "a-magazine-s-key-0"
CONFIG = {"PRODUCERS__KEYS": json.dumps({"shop": SHOP, "magazine": MAGAZINE}), "RATE_LIMIT__PER_MINUTE": "0"}
IDS = [f"order-{n}-view" for n in range(1_000, 1_020)]


def send(ingest: Ingest, ids: list[str], key: str = "", entity: str = "decoy") -> dict[str, Any]:
    answer = ingest.post(
        [event(event_id=id_, entity_id=entity) for id_ in ids], BATCH, headers={"x-tallyd-key": key} if key else {}
    )
    assert answer.status_code == 202, answer.text
    return dict(answer.json())


def test_ids_that_were_guessed_and_sent_first_swallow_no_event_of_a_producer(
    ingest: Ingest, shared_system: System
) -> None:
    assert send(ingest, IDS)["accepted"] == 20
    assert send(ingest, IDS, MAGAZINE)["accepted"] == 20
    assert send(ingest, IDS, SHOP, "real")["accepted"] == 20
    assert shared_system.redis.hvals("anl:{0}:counters:jav:movie:real") == [b"20"]


def test_an_id_counts_once_for_its_sender_whichever_way_it_comes(ingest: Ingest, shared_system: System) -> None:
    for key in ("", SHOP, MAGAZINE):
        assert send(ingest, IDS, key)["accepted"] == 20
        assert send(ingest, IDS, key)["duplicates"] == 20
        single = ingest.post(event(event_id=IDS[0]), EVENTS, headers={"x-tallyd-key": key} if key else {})
        assert single.status_code == 202
    assert shared_system.ledger() == {"accepted:view": 60, "duplicate:view": 63}


def test_an_id_that_looks_like_a_producers_is_none(ingest: Ingest) -> None:
    assert send(ingest, ["\0shop\0" + id_ for id_ in IDS])["accepted"] == 20
    assert send(ingest, IDS, SHOP)["accepted"] == 20


def test_a_file_of_a_producers_events_meets_those_it_sent(
    ingest: Ingest, shared_system: System, tmp_path: Path
) -> None:
    send(ingest, IDS, SHOP)
    file = tmp_path / "events.ndjson"
    file.write_text("".join(json.dumps(event(event_id=id_)) + "\n" for id_ in IDS))

    def imported(*options: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return shared_system.tallyd("import", "--json", *options, str(file), check=check, **CONFIG)

    refused = imported("--producer", "shoop", check=False)
    assert (refused.returncode, "no key has this name" in refused.stderr) == (2, True)
    total = json.loads(imported("--producer", "shop").stdout)["total"]
    assert (total["counted"], total["duplicates"]) == (0, 20)
    shared_system.redis.delete("anl:imports")
    assert json.loads(imported().stdout)["total"]["counted"] == 20, "without a name they are of no key"
