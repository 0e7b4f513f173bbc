"""`known = true`: only ids that MySQL has are written as documents. The others are dead letters, by the operator's word
counted after all."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

import pytest

from daemon.domain.rollup import COMPLETE
from daemon.errors import ConfigError, MysqlStoreError, StoreError
from daemon.flush.flusher import Flusher
from daemon.rollups.dead_letters import UNKNOWN_ID
from tests.kit.proxy import Fault, Proxy
from tests.kit.system import System, event, expected_rollups, wait_until
from tests.kit.takeover import audited

ONE_SYSTEM = True

DAY = dt.date(2026, 2, 19)
TABLE = {"table": "jav", "key": "uuid", "columns": {"view": "views", "download": "downloads"}}
KNOWN = json.dumps({"jav": {"movie": TABLE | {"known": True}}})
NOT_KNOWN = json.dumps({"jav": {"movie": TABLE}})
NOWHERE = "mysql://root@127.0.0.1:1/nowhere"


@pytest.fixture
def knowing(system: System) -> System:
    system.env["TALLYD_REPLICA"] = KNOWN
    return system


def count(system: System, *events: dict[str, Any]) -> None:
    assert system.count(*events) == len(events)


def letters(system: System) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(system.tallyd("dead", "list", "--json").stdout)
    return found


def test_known_and_unknown_ids_of_one_claim_part(knowing: System) -> None:
    """Types without `known`, and types without a table, are not asked about."""
    knowing.add_movies("a", "b")
    count(
        knowing, event(entity_id="a", value=2), event(entity_id="b", action="download"), event(entity_id="ghost"),
        event(entity_id="A", value=3), event(entity_id="a ", value=4), event(entity_type="actor", entity_id="ghost"),
    )  # fmt: skip
    done = knowing.flush()
    assert (done.dead, done.missing, done.rows) == (3 * len(COMPLETE), 0, 2)

    counted = [
        ("jav:movie:a", "view", DAY, 2), ("jav:movie:b", "download", DAY, 1), ("jav:actor:ghost", "view", DAY, 1)
    ]  # fmt: skip
    assert knowing.rollups() == expected_rollups(counted)
    assert knowing.replica() == {"a": (2, 0), "b": (0, 1)}
    assert {letter["reason"] for letter in letters(knowing)} == {UNKNOWN_ID}
    totals = [letter for letter in letters(knowing) if letter["collection"] == "analytics_entity_totals"]
    assert {letter["document"]: letter["deltas"] for letter in totals} == {
        "jav:movie:ghost": {"view": 1}, "jav:movie:A": {"view": 3}, "jav:movie:a ": {"view": 4}
    }  # fmt: skip
    assert audited(knowing) == set()
    ledger = knowing.ledger()
    assert (ledger["dead:view"], ledger["flushed:view"], ledger["unknown"]) == (8, 3, 8)
    assert "8 counts of ids that MySQL did not have" in " ".join(knowing.tallyd("status").stdout.split())


def test_an_unknown_id_is_never_due(knowing: System) -> None:
    count(knowing, event(entity_id="ghost"))
    knowing.flush(MYSQL__ROWS_MAX="1")
    assert knowing.rollups() == expected_rollups([])
    assert not knowing.redis.exists("anl:{0}:replica")
    assert knowing.ledger().get("missing", 0) == 0


def test_a_retry_takes_an_unknown_id_in(knowing: System) -> None:
    count(knowing, event(entity_id="late", value=5))
    knowing.flush()
    knowing.add_movies("late")
    count(knowing, event(entity_id="late", value=2))
    knowing.flush()
    assert knowing.replica() == {"late": (2, 0)}
    assert audited(knowing) == set()
    knowing.tallyd("dead", "retry", "--all")
    assert knowing.flush().replica_error is None
    assert knowing.rollups() == expected_rollups([("jav:movie:late", "view", DAY, 7)])
    assert knowing.replica() == {"late": (7, 0)}
    assert letters(knowing) == []
    assert audited(knowing) == set()


def test_a_row_that_was_deleted_is_unknown_from_then_on(knowing: System) -> None:
    knowing.add_movies("a")
    count(knowing, event(entity_id="a"))
    knowing.flush()
    knowing.sql("DELETE FROM jav")
    count(knowing, event(entity_id="a", value=3))
    knowing.flush()
    assert knowing.rollups() == expected_rollups([("jav:movie:a", "view", DAY, 1)])
    assert audited(knowing) == set()
    knowing.tallyd("dead", "drop", letters(knowing)[0]["id"])
    assert audited(knowing) == set()


def test_more_ids_than_mysql_is_asked_about_at_once(knowing: System) -> None:
    movies = [f"m{n}" for n in range(40)]
    knowing.add_movies(*movies[::2])
    count(knowing, *(event(entity_id=movie) for movie in movies))
    knowing.flush(MYSQL__ROWS_MAX="7")
    assert knowing.rollups() == expected_rollups([(f"jav:movie:{movie}", "view", DAY, 1) for movie in movies[::2]])
    assert audited(knowing) == set()


def test_counts_wait_while_mysql_is_away(knowing: System) -> None:
    """Also those of a claim that has a known type beside others. One without goes on."""
    knowing.add_movies("a")
    count(knowing, event(entity_type="actor", entity_id="x"))
    assert knowing.flush(MYSQL__URL=NOWHERE).replica_error is None
    assert knowing.rollup("totals") == {"jav:actor:x": {"view": 1}}

    count(knowing, event(entity_id="a"), event(entity_id="ghost"), event(entity_type="actor", entity_id="x"))
    with pytest.raises(MysqlStoreError):
        knowing.flush(MYSQL__URL=NOWHERE)
    assert knowing.rollup("totals") == {"jav:actor:x": {"view": 1}}
    assert audited(knowing) == set()
    assert knowing.flush(FLUSH__LEASE_MS="300").replica_error is None
    counted = [("jav:movie:a", "view", DAY, 1), ("jav:actor:x", "view", DAY, 2)]
    assert knowing.rollups() == expected_rollups(counted)
    assert audited(knowing) == set()


def test_the_daemon_goes_on_by_itself_when_mysql_is_back(knowing: System) -> None:
    knowing.add_movies("a")
    with Proxy(knowing.env["TALLYD_MYSQL__URL"]).running() as proxy:
        proxy.cut()
        quick = {"FLUSH__INTERVAL_S": "0.05", "FLUSH__LEASE_MS": "300"}
        with knowing.flusher(MYSQL__URL=proxy.url(), **quick) as flusher:
            count(knowing, event(entity_id="a"), event(entity_id="ghost"))
            wait_until(lambda: "Flushing shard 0 failed: MySQL" in flusher.text(), "it cannot ask MySQL")
            assert knowing.rollup("totals") == {}
            proxy.restore()
            wait_until(lambda: knowing.replica() == {"a": (1, 0)}, "it goes on")
            assert "1 counts of 1 ids that MySQL does not have" in flusher.text()
    assert knowing.rollups() == expected_rollups([("jav:movie:a", "view", DAY, 1)])
    assert audited(knowing) == set()


def test_a_claim_whose_lookup_got_no_answer_is_applied_once(knowing: System) -> None:
    knowing.add_movies("a")
    count(knowing, event(entity_id="a"), event(entity_id="ghost"))
    asked = b"SELECT CAST(d.k"
    with (
        Proxy(knowing.env["TALLYD_MYSQL__URL"], asked, Fault.LOSE_REPLY).running() as proxy,
        pytest.raises(StoreError),
    ):
        knowing.flush(MYSQL__URL=proxy.url(), MYSQL__TIMEOUT_MS="300")
    knowing.flush(FLUSH__LEASE_MS="300")
    assert knowing.rollups() == expected_rollups([("jav:movie:a", "view", DAY, 1)])
    assert audited(knowing) == set()


@pytest.mark.parametrize("replica", [None, NOT_KNOWN], ids=["no mapping of one's own", "a mapping without it"])
def test_by_default_every_id_is_written_and_mysql_is_not_asked(system: System, replica: str | None) -> None:
    if replica is not None:
        system.env["TALLYD_REPLICA"] = replica
    count(system, event(entity_id="ghost"))
    assert system.flush(MYSQL__URL=NOWHERE).replica_error is not None
    assert system.rollups() == expected_rollups([("jav:movie:ghost", "view", DAY, 1)])
    (floor,) = system.mongo["analytics_flush_floors"].find()
    assert floor.keys() == {"_id", "seq", "journal", "domains"}
    assert letters(system) == []


def test_known_ids_need_mysql(knowing: System) -> None:
    """Else a configuration that has lost its address would silently take every id."""
    with pytest.raises(ConfigError, match=r"mysql\.url"):
        Flusher(knowing.config(MYSQL__URL=""))
