"""`tallyd explain` shows where each amount of one entity lies, and says what is wrong with it. It changes nothing."""

from __future__ import annotations

import json
from typing import Any

import pytest

from daemon.buffer import scripts
from tests.kit.proxy import Fault, Proxy
from tests.kit.system import System, event
from tests.kit.takeover import add_rows, everything

ONE_SYSTEM = True
TOTALS, DAILY = "analytics_entity_totals", "analytics_entity_daily"


def explain(system: System, id_: str = "a") -> dict[str, Any]:
    before = everything(system)
    code, output = system.tallyd_here("explain", "jav", "movie", id_, "--json")
    assert code == 0, output
    assert everything(system) == before
    found: dict[str, Any] = json.loads(output)
    return found


def leave_in_flight(system: System) -> None:
    """A flusher is killed after MongoDB has its claim, and before Redis knows that."""
    with (
        Proxy(system.stack.redis, scripts.ACK.sha.encode(), Fault.HOLD_REQUEST).running() as proxy,
        system.flusher(FLUSH__INTERVAL_S="0.05", REDIS__URL=proxy.url()) as flusher,
    ):
        assert proxy.tripped.wait(20), "MongoDB has the claim"
        flusher.kill()


def test_each_amount_is_shown_where_it_lies(system: System) -> None:
    add_rows(system, {"a": (100, 5)})
    system.count(event(entity_id="a"), event(entity_id="a"), event(entity_id="a", action="download"))
    assert system.flush().rows == 1
    system.count(event(entity_id="a", value=4), event(entity_id="b"))
    leave_in_flight(system)
    system.count(event(entity_id="a"))
    found = explain(system)
    assert found["still"]
    assert (found["live"], found["days"]) == ({"view": 1}, {"view:2026-02-19": "1"})
    assert found["in_flight"]["amounts"] == {"view": 4}
    assert found["in_flight"]["seq"] == found["last"] == found["floor"]
    totals, *others = found["documents"]
    assert totals["counted"] == {"view": 6, "download": 1}
    assert totals["base"] == {"view": 100, "download": 5}
    assert totals["synced"] == {"view": 2, "download": 1}
    assert [each["bucket"] for each in others] == ["2026-02-19", "2026-W08", "2026-02", "2026"]
    assert found["row"]["columns"] == {"view": 102, "download": 6}
    assert found["findings"] == ["The row differs, and the claim in flight makes it due."]
    assert explain(system, "b")["findings"] == ["jav has no row whose key is this id."]


def test_an_entity_that_is_in_step_has_nothing_wrong(system: System) -> None:
    add_rows(system, {"a": (7, 0)})
    system.count(event(entity_id="a"))
    system.flush()
    assert explain(system)["findings"] == []
    shown = system.on_terminal("explain", "jav", "movie", "a")
    assert "Nothing is wrong with it." in shown
    assert "daily 2026-02-19" in shown


def test_an_entity_that_nobody_counted_is_called_so(system: System) -> None:
    assert "Nothing was ever counted for this entity." in explain(system, "never seen")["findings"]
    code, _ = system.tallyd_here("explain", "jav", "nonsense", "a")
    assert code == 2


def test_another_entity_whose_id_begins_the_same_is_left_out(system: System) -> None:
    system.count(event(entity_id="a"), event(entity_id="a:2026-02-19"), event(entity_id="a 2"))
    system.flush()
    system.mongo[DAILY].update_many({}, {"$set": {"view": "seven"}})
    system.count(event(entity_id="a"), event(entity_id="a:2026-02-19"), event(entity_id="a 2"))
    system.flush()
    found = explain(system)
    assert [each["document"] for each in found["letters"]] == ["jav:movie:a:2026-02-19"]
    assert len(found["documents"]) == 5
    assert any("`tallyd dead show " in finding for finding in found["findings"])
    assert "daily 2026-02-19 holds no number for view: it was edited." in found["findings"]


def test_rollups_that_differ_are_named(system: System) -> None:
    system.count(event(entity_id="a"))
    system.flush()
    system.mongo[DAILY].update_many({}, {"$inc": {"view": 2}})
    assert "view: the daily documents sum to 3, and the totals say 1." in explain(system)["findings"]


def test_a_foreign_value_is_named(system: System) -> None:
    system.redis.hset("anl:{0}:counters:jav:movie:a", "nonsense", "x")
    system.redis.sadd("anl:{0}:dirty", "jav:movie:a")
    assert any(finding.startswith("Redis holds a foreign value") for finding in explain(system)["findings"])
    system.flush()
    [letter] = explain(system)["letters"]
    assert letter["document"] == "jav:movie:a nonsense"


@pytest.mark.parametrize("due", [True, False])
def test_a_row_that_differs_is_due_or_has_to_be_repaired(system: System, *, due: bool) -> None:
    add_rows(system, {"a": (0, 0)})
    system.count(event(entity_id="a"))
    system.flush()
    system.sql("UPDATE jav SET views = 0")
    if due:
        system.redis.zadd("anl:{0}:replica", {"jav:movie:a": 17})
    found = explain(system)
    assert found["due"] == (17 if due else None)
    assert found["findings"] == [
        "The row differs and is due: the next sync sets it."
        if due
        else "The row differs and is not due: `tallyd audit --repair-replica`."
    ]


def test_a_row_that_mysql_refuses_is_named_with_the_reason(system: System) -> None:
    add_rows(system, {"a": (0, 0)})
    system.count(event(entity_id="a"))
    system.flush()
    system.count(event(entity_id="a"))
    system.mongo[TOTALS].update_one({}, {"$set": {"base.view": -10}})
    assert system.flush().refused == 1
    assert any(finding.startswith("MySQL refuses the row: ") for finding in explain(system)["findings"])


def test_a_mysql_that_is_away_hides_nothing_of_the_others(system: System) -> None:
    system.count(event(entity_id="a"))
    code, output = system.tallyd_here(
        "explain", "jav", "movie", "a", "--json", MYSQL__URL="mysql://root@127.0.0.1:1/tallyd"
    )
    assert code == 0
    found = json.loads(output)
    assert found["live"] == {"view": 1}
    assert any(finding.startswith("The row was not read: ") for finding in found["findings"])


def test_an_id_that_mysql_takes_for_another_is_named(system: System) -> None:
    add_rows(system, {"abc": (0, 0)})
    system.count(event(entity_id="ABC"))
    system.flush()
    assert (
        "jav has no row whose key is this id. MySQL takes 'abc' for it, which is another id."
        in explain(system, "ABC")["findings"]
    )


def test_what_a_stranger_chose_is_no_markup(system: System) -> None:
    system.count(event(entity_id="[/x]a\u202eb"))
    system.flush()
    assert r"jav:movie:[/x]a\u202eb" in system.tallyd("explain", "jav", "movie", "[/x]a\u202eb").stdout
