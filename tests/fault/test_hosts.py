"""Several ingest hosts on one Redis: each has a spool of its own disk, and one of them is lost while it spools."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kit.proxy import Proxy
from tests.kit.spools import SPOOLS, make_silent
from tests.kit.system import Ingest, System, event, wait_until


@pytest.fixture
def away(system: System) -> Iterator[Proxy]:
    """The way of host B to Redis."""
    with Proxy(system.env["TALLYD_REDIS__URL"]).running() as proxy:
        yield proxy


def host_b(system: System, away: Proxy, folder: Path) -> Ingest:
    return Ingest(system, REDIS__URL=away.url(), SPOOL__DIR=str(folder), SPOOL__PROBE_MS="50", REDIS__RECONNECT_MS="50")


def reports(system: System) -> dict[str, dict[str, Any]]:
    """By the folder."""
    said = [json.loads(text) for text in system.redis.hgetall(SPOOLS).values()]
    return {report["dir"]: report for report in said}


def post(ingest: Ingest, events: list[dict[str, Any]]) -> None:
    for one in events:
        assert ingest.post(one).status_code == 202


def test_a_host_is_lost_while_it_spools_and_its_folder_is_replayed_elsewhere(
    system: System, away: Proxy, tmp_path: Path
) -> None:
    folder, brought = tmp_path / "b", tmp_path / "brought"
    shared = [event(entity_id="both") for _ in range(5)]
    with system.ingest() as a:
        with host_b(system, away, folder) as b:
            post(b, [event(entity_id="b") for _ in range(10)])
            wait_until(lambda: len(reports(system)) == 2, "both hosts have reported")
            away.cut()
            post(b, [event(entity_id="b") for _ in range(10)])
            post(b, shared)
            assert b.client.get("/readyz").json() == {"status": "spooling"}
            b.kill()
        post(a, shared)  # their producer had no answer of B, as far as it knows
        post(a, [event(entity_id="a") for _ in range(10)])
        assert a.client.get("/readyz").json() == {"status": "ready"}, "the other host does not notice"
        assert not list(Path(system.env["TALLYD_SPOOL__DIR"]).glob("*.open"))
        system.flush()
        make_silent(system)
        audit = system.audit()
        assert [each["report"]["dir"] for each in audit["spools"]] == [str(folder)]
        assert "has not reported for" in system.tallyd("audit").stdout
        told = system.tallyd("status").stdout
        assert f"The spool {folder}" in told.replace("\n", " ")
        shutil.copytree(folder, brought)
        replayed = system.tallyd("replay", "--from", str(brought)).stdout
        assert replayed.startswith("15 events of 1 segments replayed: 10 were new")
        assert str(folder) not in reports(system)
    system.flush()
    assert {key: counters["view"] for key, counters in system.rollup("totals").items()} == {
        "jav:movie:a": 10, "jav:movie:b": 20, "jav:movie:both": 5,
    }  # fmt: skip
    assert system.audit()["spools"] == []


def test_a_host_that_spools_says_so_once_redis_hears_it_again(system: System, away: Proxy, tmp_path: Path) -> None:
    with host_b(system, away, tmp_path / "b") as b:
        away.cut()
        post(b, [event()])
        away.restore()
        wait_until(lambda: reports(system), "it has reported")
        assert b.end() == 0
    assert reports(system) == {}, "it stopped with an empty spool: nothing of it is left to wait for"


def test_a_report_of_a_lost_spool_is_forgotten_by_its_name(system: System, away: Proxy, tmp_path: Path) -> None:
    with host_b(system, away, tmp_path / "b") as b:
        wait_until(lambda: reports(system), "it has reported")
        b.kill()
    [known] = json.loads(system.tallyd("spools", "list", "--json").stdout)
    assert known["report"]["dir"] == str(tmp_path / "b")
    assert known["name"] in system.tallyd("spools", "list").stdout
    assert system.tallyd("spools", "forget", "nobody", check=False).returncode == 1
    assert system.tallyd("spools", "forget", known["name"]).returncode == 0
    assert reports(system) == {}
