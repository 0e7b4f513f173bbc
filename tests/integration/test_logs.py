"""What the daemons log: every line in one format, Granian's too, with the fields that tell where it comes from."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from typing import Any

import pytest

from daemon.buffer.connection import Connection
from daemon.buffer.counters import Claim, Counters, Limits
from daemon.buffer.layout import Layout
from daemon.buffer.wire import Amounts
from daemon.domain.claim import NO_CLAIM
from daemon.metrics import FLUSH
from tests.kit.daemon import Daemon
from tests.kit.system import BATCH, EVENTS, System, event

ONE_SYSTEM = True

TEXT = re.compile(
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00 (?P<level>[A-Z]+) +(?P<logger>[\w.]+) \[(?P<fields>[^]]*)\] \S"
)


def entries(daemon: Daemon) -> list[dict[str, Any]]:
    return [json.loads(line) for line in daemon.text().splitlines()]


def test_every_line_of_ingest_is_json_and_says_where_it_comes_from(system: System) -> None:
    with system.ingest(HTTP__WORKERS="2", LOG__FORMAT="json") as ingest:
        for line in ("Started worker-1", "Started worker-2", "Ready"):
            ingest.says(line)
    found = entries(ingest)
    assert {each["run_id"] for each in found} == {ingest.run_id}
    assert {each["logger"].partition(".")[0] for each in found} == {"_granian", "daemon"}
    started = {each["worker"]: each["pid"] for each in found if "Started worker" in each["message"]}
    assert started.keys() == {1, 2}
    assert len({*started.values(), ingest.pid}) == 3
    assert [each["pid"] for each in found if each["message"].startswith("Ready")] == [ingest.pid]
    assert all("worker" not in each for each in found if each["pid"] == ingest.pid)


def test_every_line_of_ingest_is_text_of_one_form(system: System) -> None:
    with system.ingest() as ingest:
        ingest.says("Ready")
    lines = [TEXT.match(line) for line in ingest.text().splitlines()]
    assert lines
    assert all(lines), ingest.text()
    assert {line["logger"] for line in lines if line} > {"_granian", "daemon.ingest.process.supervisor"}


def test_the_level_is_that_of_granians_lines_too(system: System) -> None:
    with system.ingest(LOG__LEVEL="warning") as ingest:
        pass
    assert "_granian" not in ingest.text()


def test_the_flusher_names_the_shard(system: System) -> None:
    system.count(event())
    with system.flusher(LOG__FORMAT="json", LOG__LEVEL="debug", FLUSH__INTERVAL_S="0.1") as flusher:
        flusher.says("entities, ")
    assert [each["shard"] for each in entries(flusher) if " entities, " in each["message"]] == [0]
    assert {each["run_id"] for each in entries(flusher)} == {flusher.run_id}


@pytest.mark.parametrize("command", ["ingest", "flush"])
def test_the_last_line_of_a_daemon_that_cannot_start_is_json_too(system: System, command: str) -> None:
    system.count(event())
    done = system.tallyd(command, LOG__FORMAT="json", REDIS__SHARDS="2", check=False)
    assert done.returncode == 2
    last = [json.loads(line) for line in done.stderr.splitlines()][-1]
    assert last["level"] == "critical"
    assert "redis.layout: shards is 1" in last["message"]


# Request ids ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("interface", ["rsgi", "asgi"])
def test_a_refused_request_is_logged_with_its_id_and_a_counted_one_is_not(system: System, interface: str) -> None:
    def identified(number: int) -> dict[str, Any]:
        return {"headers": {"x-request-id": f"id-{number}"}}

    with system.ingest(LOG__FORMAT="json", HTTP__INTERFACE=interface) as ingest:
        statuses = [
            ingest.post(event(), **identified(0)).status_code,
            ingest.post(event(action="no such"), **identified(1)).status_code,
            ingest.post(b"{", **identified(2)).status_code,
            ingest.post([event(action="no such")], BATCH, **identified(3)).status_code,
            ingest.client.get("/nowhere", **identified(4)).status_code,
            ingest.post(event(action="no such")).status_code,
        ]
        ingest.says("id-4")
    assert statuses == [202, 422, 400, 422, 404, 422]
    found = [each for each in entries(ingest) if each["logger"] == "daemon.ingest.refusals"]
    assert [each["request_id"] for each in found] == ["id-1", "id-2", "id-3", "id-4"]
    assert [each["level"] for each in found] == ["info"] * 4
    assert found[0]["message"].startswith(f"POST {EVENTS}: 422. ")
    assert found[0]["worker"] == 1


def test_an_event_that_no_store_takes_is_logged_with_its_id(system: System) -> None:
    with system.ingest(LOG__FORMAT="json", REDIS__URL="redis://127.0.0.1:1/0", SPOOL__DIR="") as ingest:
        assert ingest.post(event(), headers={"x-request-id": "id-1"}).status_code == 503
        ingest.says("id-1")
    (found,) = [each for each in entries(ingest) if "request_id" in each]
    assert (found["request_id"], found["level"]) == ("id-1", "warning")


# Take-overs -------------------------------------------------------------------------------------------------------


class Content(list[tuple[str, list[tuple[str, str]]]]):
    def add(self, amounts: Amounts) -> None:
        self.extend(amounts)


async def leave_a_claim(system: System, owner: str) -> None:
    """As a flusher does that dies with the claim in flight, its lease being over."""
    config = system.config()
    connection = Connection(config.redis, Layout(config))
    claim = await Counters(connection, 0, Limits.of(config)).claim(
        Content, owner=owner, floor=NO_CLAIM, lease_ms=0, entities_max=9, fields_max=9, us_max=1_000_000
    )
    assert isinstance(claim, Claim)
    await connection.close()


def takeovers() -> float:
    return FLUSH.get_sample_value("tallyd_claim_takeovers_total") or 0


def test_a_claim_that_is_taken_over_is_logged_and_counted(system: System, caplog: pytest.LogCaptureFixture) -> None:
    system.count(event())
    asyncio.run(leave_a_claim(system, "old-host:17:ab"))
    before = takeovers()
    with caplog.at_level(logging.WARNING):
        system.flush()
    assert takeovers() == before + 1
    (said,) = [each.getMessage() for each in caplog.records if "taken over" in each.getMessage()]
    assert said.startswith("Shard 0: the claim in flight is taken over from old-host:17:ab,")


def test_a_claim_of_ones_own_is_no_takeover(system: System, caplog: pytest.LogCaptureFixture) -> None:
    before = takeovers()
    system.count(event())
    with caplog.at_level(logging.WARNING):
        system.flush()
    assert takeovers() == before
    assert "taken over" not in caplog.text
