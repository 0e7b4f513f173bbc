"""`enabled = false`: the columns of MySQL are the application's. Nothing of tallyd writes them, and what both counted
meanwhile is there when it is switched on again."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest

from daemon.buffer import scripts
from daemon.config import NOTHING_MAPPED
from daemon.move.backfill.run import UNKNOWN
from tests.kit.daemon import Daemon
from tests.kit.proxy import Fault, Proxy
from tests.kit.system import WAIT_TIMEOUT_S, System, event, wait_until
from tests.kit.takeover import audited, backfill, bases, drain_until, legacy_adds, taken_over

ONE_SYSTEM = True

LEGACY = {"a": (100, 5), "b": (10, 0), "c": (7, 1)}
OFF = {"ENABLED": "false"}
NOWHERE = "mysql://root@127.0.0.1:1/nowhere"
LEFT_ALONE = "enabled = false: MySQL's columns are the application's"


@pytest.fixture
def counted(system: System) -> Iterator[System]:
    """Three movies that were taken over, counted on, and are in step."""
    taken_over(system, LEGACY)
    yield system
    assert not system.redis.exists("anl:{0}:syncing")


def test_no_command_writes_a_column_and_nothing_is_lost_on_the_way_back(counted: System) -> None:
    counted.count(event(entity_id="a", value=4))
    assert counted.flush(MYSQL__URL=NOWHERE).replica_error is not None, "a is due"
    counted.count(event(entity_id="b", value=2))  # dirty
    legacy_adds(counted, a=20, b=5, c=1)
    theirs = {"a": (123, 5), "b": (15, 1), "c": (8, 1)}

    done = counted.tallyd("flush", "--once", **OFF)
    assert f"{LEFT_ALONE}; 2 entities stay due" in done.stdout
    checked = counted.tallyd("parity-check", "--all", "--wait", check=False, **OFF)
    assert f"{LEFT_ALONE}; 2 entities stay due" in checked.stderr
    refused = counted.tallyd("audit", "--repair-replica", check=False, **OFF)
    assert refused.returncode == 2
    assert "--repair-replica: enabled = false" in " ".join(refused.stderr.split())
    with counted.flusher(FLUSH__INTERVAL_S="0.05", **OFF):
        counted.count(event(entity_id="c", value=6))
        wait_until(lambda: counted.redis.zcard("anl:{0}:replica") == 3, "it flushes")
        assert counted.rollup("totals")["jav:movie:c"] == {"view": 6}
    assert counted.replica() == theirs

    legacy_adds(counted, a=1)
    (tally,) = backfill(counted, reconcile=True).tables
    assert (tally.upserted, tally.problems) == (3, 0)
    drain_until(counted, {"a": (128, 5), "b": (17, 1), "c": (14, 1)})
    assert audited(counted) == set()


def test_the_flush_daemon_leaves_the_columns_from_the_reload_on(counted: System) -> None:
    file = counted.scratch / "tallyd.toml"
    file.write_text("")
    with Daemon(counted, "flush", CONFIG=str(file), FLUSH__INTERVAL_S="0.05") as daemon:
        daemon.says("MySQL replica on for jav.movie, but not for jav.actor, jav.tag")
        counted.count(event(entity_id="a", value=4))
        wait_until(lambda: counted.replica()["a"] == (107, 5), "it sets the row")
        file.write_text("enabled = false\n")
        daemon.send(signal.SIGHUP)
        daemon.says("MySQL replica off (enabled = false)")
        legacy_adds(counted, a=20)
        counted.count(event(entity_id="a", value=5))
        wait_until(lambda: counted.rollup("totals")["jav:movie:a"] == {"view": 12}, "it flushes")
        assert counted.replica()["a"] == (127, 5)
        assert backfill(counted, reconcile=True).tables[0].problems == 0
        file.write_text("")
        daemon.send(signal.SIGHUP)
        wait_until(lambda: counted.replica()["a"] == (132, 5), "it sets the row again")
        assert daemon.end() == 0
    assert audited(counted) == set()


def test_a_mapping_that_ended_is_said_at_start_and_by_the_audit(system: System) -> None:
    """One more type ends the built-in mapping."""
    more = {"DOMAINS": '{"jav": {"entity_types": ["movie", "series"], "actions": ["view"]}}'}
    with system.flusher(**more) as daemon:
        daemon.says("MySQL replica off (no entity type is mapped)")
        daemon.says(NOTHING_MAPPED)
    report = system.audit(**more)
    assert (report["mapped"], report["unmapped"]) == ([], ["jav.movie", "jav.series"])
    assert NOTHING_MAPPED in system.tallyd("audit", **more).stdout
    report = system.audit()
    assert (report["mapped"], report["unmapped"]) == (["jav.movie"], ["jav.actor", "jav.tag"])
    assert "MySQL was compared for jav.movie. No table: jav.actor, jav.tag." in system.tallyd("audit").stdout


class Death(NamedTuple):
    """A flusher killed when it meets the marker. `carried_out`: by what the test sees that the request was, if its
    reply is lost. `is_known`: whether it can be told what the rows hold."""

    store: str
    marker: bytes
    carried_out: Callable[[System], bool] | None
    is_known: bool


def is_marked(system: System) -> bool:
    return bool(system.redis.exists("anl:{0}:syncing"))


def is_set(system: System) -> bool:
    return system.replica()["a"] == (107, 5)


BEGIN, UPDATE, END = scripts.BEGIN_SYNC.sha.encode(), b"UPDATE `jav`", b"\r\nSREM\r\n"
DEATHS = {
    "before the mark": Death("redis", BEGIN, None, is_known=True),
    "after the mark": Death("redis", BEGIN, is_marked, is_known=False),
    "before the columns": Death("mysql", UPDATE, None, is_known=False),
    "after the columns": Death("mysql", UPDATE, is_set, is_known=False),
    "before the mark goes": Death("redis", END, None, is_known=False),
    "after the mark went": Death("redis", END, lambda system: not is_marked(system), is_known=True),
    "before it is settled": Death("redis", scripts.SETTLE.sha.encode(), None, is_known=True),
}


@pytest.mark.parametrize("death", DEATHS.values(), ids=DEATHS.keys())
def test_rows_that_were_being_set_when_the_flusher_died(counted: System, death: Death) -> None:
    """Where nobody can tell whether the columns hold the older totals or the newer, the base stays as it is."""
    variable = f"{death.store.upper()}__URL"
    fault = Fault.LOSE_REPLY if death.carried_out else Fault.HOLD_REQUEST
    with (
        Proxy(counted.env[f"TALLYD_{variable}"], death.marker, fault).running() as proxy,
        counted.flusher(FLUSH__INTERVAL_S="0.05", **{variable: proxy.url()}) as flusher,
    ):
        counted.count(event(entity_id="a", value=4), event(entity_id="b", value=2))
        assert proxy.tripped.wait(WAIT_TIMEOUT_S)
        if carried_out := death.carried_out:
            wait_until(lambda: carried_out(counted), "the request is carried out")
        flusher.kill()
    legacy_adds(counted, a=20, c=1)
    (tally,) = backfill(counted, reconcile=True).tables
    assert (f"jav:movie:a: {UNKNOWN}" in tally.problems_listed) == (not death.is_known)
    assert bases(counted)["jav:movie:a"] == {"view": 120 if death.is_known else 100, "download": 5}
    drain_until(counted, {"a": (127 if death.is_known else 107, 5), "b": (12, 1), "c": (8, 1)})
    legacy_adds(counted, b=20)
    assert backfill(counted, reconcile=True).tables[0].problems == 0
    assert bases(counted)["jav:movie:b"] == {"view": 30, "download": 0}
