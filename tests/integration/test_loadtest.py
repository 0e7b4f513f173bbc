"""The load test itself: that it passes when every count is right, and that it can fail.

The run is the real one, with stores and daemons of its own; the comparison is shown the session's stores, disturbed.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pymongo
import pytest
import redis

from daemon.devstack import stack
from loadtest.compare import compare
from loadtest.parcels import SPOILT, Parcel, Source
from loadtest.scenarios import BY_NAME, SCENARIOS
from loadtest.tally import Tally, key_of, uuid_of
from loadtest.verdict import complaint
from tests.kit.commands import COMMAND_TIMEOUT_S, ROOT, run
from tests.kit.system import BATCH, Ingest, System, event, wait_until

DAY = dt.date(2026, 2, 19)
STRAY = "jav:movie:nobody-sent-this"


def loadtest(*arguments: str) -> subprocess.CompletedProcess[str]:
    return run([sys.executable, "-m", *arguments])


# A run ------------------------------------------------------------------------------------------------------------


def test_a_steady_run_is_exact_and_leaves_a_report_and_a_page(tmp_path: Path) -> None:
    done = loadtest("loadtest", "steady", "--seconds", "2", "--rate", "100", "--users", "8", "--results", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(next(tmp_path.glob("steady-*.json")).read_bytes())
    assert report["problems"] == []
    assert report["requests"] == report["events"] > 0
    for line in report["accounts"]:
        assert line["accepted"] > 0
        assert len({amount for name, amount in line.items() if name != "counter"}) == 1, line
    page = next(tmp_path.glob("steady-*.html")).read_text()
    assert page.count("<svg") == 2
    assert "Exact: every event" in page
    assert "window.templateArgs" in page, "Locust's own report follows"


def test_a_run_that_is_interrupted_settles_its_accounts_and_fails_if_a_store_was_disturbed(tmp_path: Path) -> None:
    running = subprocess.Popen(
        [sys.executable, "-m", "loadtest", "duplicates", "--seconds", "600", "--results", str(tmp_path / "results")],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        _disturb(tmp_path)
        running.send_signal(signal.SIGINT)
        said, _ = running.communicate(timeout=COMMAND_TIMEOUT_S)
    finally:
        running.kill()
        running.wait()
    assert running.returncode == 1, said
    assert "MongoDB totals: jav:movie:nobody-sent-this view: 1 in place of 0" in " ".join(said.split())
    report = json.loads(next((tmp_path / "results").glob("*.json")).read_bytes())
    assert [difference["what"] for difference in report["differences"]] == [STRAY]
    assert report["failed"] == 0
    assert next(tmp_path.glob("tallyd-load-*/tally.json")).exists(), "the data is kept"


def _disturb(folder: Path) -> None:
    """Waits until events are counted, and puts a document beside theirs."""
    data: list[Path] = []

    def events_are_counted() -> bool:
        data[:] = folder.glob("tallyd-load-*/stack")
        info = stack.load(data[0]) if data else None
        if info is None:
            return False
        with redis.Redis.from_url(info.redis) as client:
            return bool(client.hexists("anl:{0}:ledger", "duplicate:view"))

    wait_until(events_are_counted, "events are counted", 60)
    info = stack.load(data[0])
    assert info is not None
    with pymongo.MongoClient[dict[str, Any]](info.mongo) as client:
        totals = client["tallyd"]["analytics_entity_totals"]
        totals.insert_one({"_id": STRAY, "domain": "jav", "entity_type": "movie", "entity_id": "stray", "view": 1})


def test_an_unknown_scenario_is_wrong_usage_and_none_lists_them() -> None:
    assert loadtest("loadtest", "tsunami").returncode == 2
    listed = loadtest("loadtest")
    assert listed.returncode == 0
    assert all(scenario.name in listed.stdout for scenario in SCENARIOS)


# The comparison -------------------------------------------------------------------------------------------------


@pytest.fixture
def tally(system: System) -> Tally:
    """Three movies, counted and flushed, one of the events sent twice; and a tally that says so."""
    system.add_movies(*(uuid_of(n) for n in range(3)))
    events = [event(entity_id=uuid_of(n), value=n + 1) for n in range(3)]
    events.append(event(entity_id=uuid_of(0), action="download"))
    assert system.count(*events) == 4
    assert system.count(events[1]) == 0
    system.flush()
    entities = {key_of(n): {"view": n + 1} for n in range(3)}
    entities[key_of(0)]["download"] = 1
    return Tally(
        entities=entities,
        days={DAY.isoformat(): {"view": 6, "download": 1}},
        duplicates={"view": 2},
        requests=5,
        events=5,
        failed=0,
        failures={},
        resent=0,
        unsettled=0,
        seconds=1,
        p50_ms=1,
        p95_ms=1,
        p99_ms=1,
    )


def test_the_comparison_finds_nothing_where_all_is_right(system: System, tally: Tally) -> None:
    verdict = compare(tally, system)
    assert verdict.exact
    assert verdict.entities == 3
    assert [(line.counter, line.accepted, line.mysql) for line in verdict.lines] == [("download", 1, 1), ("view", 6, 6)]


DISTURBANCES: dict[str, tuple[Callable[[System], object], str]] = {
    "a total too high": (
        lambda system: system.mongo.analytics_entity_totals.update_one({"_id": key_of(1)}, {"$inc": {"view": 1}}),
        f"MongoDB totals: {key_of(1)} view: 3 in place of 2",
    ),
    "a total lost": (
        lambda system: system.mongo.analytics_entity_totals.delete_one({"_id": key_of(2)}),
        f"MongoDB totals: {key_of(2)} view: 0 in place of 3",
    ),
    "one entity's count moved to another": (
        lambda system: system.mongo.analytics_entity_totals.bulk_write(
            [pymongo.UpdateOne({"_id": key_of(n)}, {"$inc": {"view": n - 1}}) for n in (0, 2)]
        ),
        f"MongoDB totals: {key_of(0)} view: 0 in place of 1",
    ),
    "an entity nobody sent": (
        lambda system: system.mongo.analytics_entity_totals.insert_one({"_id": STRAY, "view": 1}),
        f"MongoDB totals: {STRAY} view: 1 in place of 0",
    ),
    "another day": (
        lambda system: system.mongo["analytics_entity_daily"].update_one({}, {"$set": {"date": "2026-02-20"}}),
        "MongoDB daily: 2026-02-20",
    ),
    "a row too high": (
        lambda system: system.sql("UPDATE jav SET downloads = 1 WHERE uuid = %s", uuid_of(2)),
        f"MySQL: {key_of(2)} download: 1 in place of 0",
    ),
    "a row left behind": (
        lambda system: system.sql("UPDATE jav SET views = 0 WHERE uuid = %s", uuid_of(1)),
        f"MySQL: {key_of(1)} view: 0 in place of 2",
    ),
    "accepted, but not by us": (
        lambda system: system.redis.hincrby("anl:{0}:ledger", "accepted:view", 1),
        "ledger: accepted view: 7 in place of 6",
    ),
    "a duplicate that was not recognised": (
        lambda system: system.redis.hincrby("anl:{0}:ledger", "duplicate:view", -1),
        "ledger: duplicate view: 1 in place of 2",
    ),
    "a dead letter": (
        lambda system: system.mongo["analytics_dead_letters"].insert_one({}),
        "dead letters: all documents: 1 in place of 0",
    ),
}


def test_the_comparison_names_every_kind_of_difference(system: System, tally: Tally) -> None:
    for number, (disturb, named) in enumerate(DISTURBANCES.values(), 1):
        disturb(system)
        verdict = compare(tally, system)
        said = [str(difference) for difference in verdict.differences]
        assert any(each.startswith(named) for each in said), (number, said)


# The answers ------------------------------------------------------------------------------------------------------


def send(ingest: Ingest, parcel: Parcel) -> str:
    """What is wrong with the answer."""
    answer = ingest.post(parcel.body, parcel.path, headers={"content-type": parcel.content_type})
    return complaint(parcel, answer.status_code, answer.content)


def test_every_parcel_is_answered_as_it_says_and_counts_what_it_says(ingest: Ingest, shared_system: System) -> None:
    source = Source(BY_NAME["mixed_invalid"]._replace(invalid_share=0.9), dt.datetime.now(dt.UTC))
    counted = {"view": 0, "download": 0}
    wrong = {f"wrong: {spoilt.name}" for spoilt in SPOILT}
    while wrong:
        parcel = source.next()
        assert send(ingest, parcel) == ""
        wrong.discard(parcel.name)
        for each in parcel.counted:
            counted[each.counter] += each.amount
    batch = Source(BY_NAME["batch"], dt.datetime.now(dt.UTC)).next()
    assert send(ingest, batch) == ""
    for each in batch.counted:
        counted[each.counter] += each.amount
    ledger = shared_system.ledger()
    assert {counter: ledger.get(f"accepted:{counter}", 0) for counter in counted} == counted


def test_an_answer_that_is_not_the_documented_one_is_complained_about() -> None:
    source = Source(BY_NAME["steady"], dt.datetime.now(dt.UTC))
    good, batch = source.next(), Source(BY_NAME["batch"], dt.datetime.now(dt.UTC)).next()
    bad = good._replace(status=422, wrong={0: frozenset({"value"})})
    assert complaint(bad, 422, b'{"errors":{"value":["x"]}}') == ""
    for parcel, status, body in (
        (good, 429, b"{}"),
        (good, 202, b'{"status":"maybe"}'),
        (bad, 202, b'{"status":"accepted"}'),
        (bad, 422, b'{"errors":{"action":["x"]}}'),
        (bad, 422, b'{"errors":{"value":["x"],"action":["x"]}}'),
        (bad, 422, b"not JSON"),
        (batch, 202, b'{"accepted":199,"duplicates":0,"rejected":[]}'),
        (batch, 202, b'{"accepted":199,"duplicates":0,"rejected":[{"index":3,"errors":{"value":["x"]}}]}'),
    ):
        assert complaint(parcel, status, body), (parcel.path == BATCH, status, body)
