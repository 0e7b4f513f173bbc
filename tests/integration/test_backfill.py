"""Columns of before tallyd become bases: once, whoever does it and how often, and totals are base + counted."""

from __future__ import annotations

import json
import signal

import pytest

from daemon.errors import ConfigError
from tests.kit.daemon import Daemon
from tests.kit.system import System, event, wait_until
from tests.kit.takeover import Recorder, add_rows, audited, backfill, bases, drain_until, everything

LEGACY = {"a": (100, 5), "b": (0, 0), "c": (7, 1)}
BASES = {f"jav:movie:{uuid}": {"view": views, "download": downloads} for uuid, (views, downloads) in LEGACY.items()}
TAGS = '{"jav": {"tag": {"table": "tags", "key": "id", "columns": {"view": "views"}}}}'


@pytest.fixture
def legacy(system: System) -> System:
    """Three movies, counted before tallyd."""
    add_rows(system, LEGACY)
    return system


def test_columns_become_bases_and_totals_are_base_plus_counted(legacy: System) -> None:
    (tally,) = backfill(legacy).tables
    assert (tally.processed, tally.upserted, tally.unchanged, tally.skipped, tally.due) == (3, 3, 0, 0, 0)
    assert bases(legacy) == BASES
    document = legacy.mongo["analytics_entity_totals"].find_one({"_id": "jav:movie:a"})
    assert document is not None
    del document["updated_at"]
    assert document == {
        "_id": "jav:movie:a", "domain": "jav", "entity_type": "movie", "entity_id": "a", "view": 0, "download": 0,
        "base": {"view": 100, "download": 5}, "synced": {"view": 0, "download": 0}, "source": "migration",
    }  # fmt: skip
    drain_until(legacy, LEGACY)
    legacy.count(event(entity_id="a", value=3), event(entity_id="b", action="download"))
    drain_until(legacy, LEGACY | {"a": (103, 5), "b": (0, 1)})
    assert legacy.rollup("totals") == {"jav:movie:a": {"view": 3}, "jav:movie:b": {"download": 1}, "jav:movie:c": {}}
    assert bases(legacy) == BASES
    assert audited(legacy) == set()
    lines = {line["counter"]: line for line in legacy.audit()["lines"]}
    assert (lines["view"]["applied"], lines["view"]["base"]) == (3, 107)


def test_run_again_it_changes_nothing_also_with_events_in_between(legacy: System) -> None:
    backfill(legacy)
    before = everything(legacy)
    (tally,) = backfill(legacy).tables
    assert (tally.upserted, tally.unchanged) == (0, 3)
    assert everything(legacy) == before
    legacy.count(event(entity_id="a", value=3))
    backfill(legacy)  # live
    legacy.flush()
    legacy.count(event(entity_id="c", value=2))
    (tally,) = backfill(legacy).tables  # flushed, and live
    assert (tally.upserted, tally.unchanged, tally.due) == (0, 3, 0)
    drain_until(legacy, {"a": (103, 5), "b": (0, 0), "c": (9, 1)})
    assert bases(legacy) == BASES
    assert audited(legacy) == set()


def test_a_row_that_nobody_took_over_is_not_overwritten(legacy: System) -> None:
    """The backfill was forgotten: the sync itself keeps what the column said."""
    legacy.count(event(entity_id="a", value=3), event(entity_id="a", action="download"))
    drain_until(legacy, LEGACY | {"a": (103, 6)})
    legacy.count(event(entity_id="a"))
    drain_until(legacy, LEGACY | {"a": (104, 6)})
    assert bases(legacy) == {"jav:movie:a": BASES["jav:movie:a"]}
    (tally,) = backfill(legacy).tables
    assert (tally.upserted, tally.unchanged) == (2, 1)
    assert bases(legacy) == BASES
    assert audited(legacy) == set()


def test_what_was_counted_before_the_row_was_there_comes_on_top_of_it(system: System) -> None:
    system.count(event(entity_id="late", value=4))
    assert system.flush().missing == 1
    add_rows(system, {"late": (10, 0)})
    (tally,) = backfill(system).tables
    assert (tally.upserted, tally.due) == (1, 1)
    drain_until(system, {"late": (14, 0)})
    assert audited(system) == set()


def test_a_counter_that_gets_a_column_later_takes_that_column_over(legacy: System) -> None:
    only_views = '{"jav": {"movie": {"table": "jav", "key": "uuid", "columns": {"view": "views"}}}}'
    legacy.count(event(entity_id="a"), event(entity_id="a", action="download"))
    legacy.flush(REPLICA=only_views)
    assert legacy.replica()["a"] == (101, 5)
    assert backfill(legacy).tables[0].due == 1
    drain_until(legacy, LEGACY | {"a": (101, 6)})


def test_a_null_column_is_a_base_of_0(system: System) -> None:
    system.sql("ALTER TABLE jav MODIFY views BIGINT NULL")
    system.sql("INSERT INTO jav (uuid, views) VALUES ('a', NULL), ('b', NULL)")
    system.count(event(entity_id="b"))
    system.flush()
    backfill(system)
    assert bases(system) == {f"jav:movie:{id_}": {"view": 0, "download": 0} for id_ in "ab"}
    assert system.replica() == {"a": (None, 0), "b": (1, 0)}


def test_a_dry_run_prints_exactly_what_a_run_changes(legacy: System) -> None:
    legacy.count(event(entity_id="a"))
    legacy.flush()
    before = everything(legacy)
    printed = legacy.tallyd("backfill", "--dry-run").stdout.splitlines()
    expected = [
        f"{key} {counter} base none → {amount}"
        for key, base in BASES.items()
        if key != "jav:movie:a"
        for counter, amount in base.items()
    ]
    assert printed[: len(expected)] == expected
    assert not any("→" in line for line in printed[len(expected) :])
    assert everything(legacy) == before
    assert not list(legacy.mongo["analytics_backfills"].find())
    *changes, summary = map(json.loads, legacy.tallyd("backfill", "--dry-run", "--json").stdout.splitlines())
    assert changes[0] == {"entity": "jav:movie:b", "counter": "view", "before": None, "after": 0}
    assert summary["tables"][0]["upserted"] == 2
    assert backfill(legacy).tables[0].upserted == 2
    recorder = Recorder()
    backfill(legacy, dry_run=True, recorder=recorder)
    assert recorder.changes == []


def test_rows_whose_key_is_no_entity_id_are_skipped_and_listed(legacy: System) -> None:
    legacy.sql("ALTER TABLE jav MODIFY uuid VARCHAR(300) NULL")
    for key in (None, None, "", "tab\there", "x" * 256, "x" * 255):
        legacy.sql("INSERT INTO jav (uuid, views) VALUES (%s, 1)", key)
    ids = [row[0] for row in legacy.sql("SELECT id FROM jav WHERE uuid IS NULL")]
    for chunk in (1, 500):
        (tally,) = backfill(legacy, chunk=chunk).tables
        assert (tally.processed, tally.skipped) == (9, 5)
        assert {f"jav id {id_}: uuid is NULL" for id_ in ids} < set(tally.skipped_listed)
        assert any(r"'tab\there'" in line for line in tally.skipped_listed)
    assert set(bases(legacy)) == BASES.keys() | {f"jav:movie:{'x' * 255}"}
    printed = legacy.tallyd("backfill").stdout
    assert f"jav id {ids[0]}: uuid is NULL" in printed


def test_integer_keys_are_entity_ids_too(system: System) -> None:
    system.env["TALLYD_REPLICA"] = TAGS
    system.sql("CREATE TABLE tags (id INT PRIMARY KEY, views INT NOT NULL)")
    system.sql("INSERT INTO tags VALUES (-1, 1), (2, 20), (10, 100)")
    (tally,) = backfill(system, chunk=1).tables
    assert (tally.upserted, tally.skipped) == (2, 1)
    assert bases(system) == {"jav:tag:2": {"view": 20}, "jav:tag:10": {"view": 100}}
    system.count(event(entity_type="tag", entity_id="10"))
    system.flush()
    assert system.sql("SELECT id, views FROM tags ORDER BY id") == [(-1, 1), (2, 20), (10, 101)]


def test_a_stopped_run_goes_on_behind_its_last_chunk(system: System) -> None:
    rows = {f"m{n:02}": (n, 0) for n in range(20)}
    add_rows(system, rows)
    (tally,) = backfill(system, chunk=3, recorder=Recorder(stop_after=6)).tables
    assert tally.processed == 6
    assert len(bases(system)) == 6
    outcome = backfill(system, chunk=3)
    (tally,) = outcome.tables
    assert (tally.rows_before, tally.processed, tally.upserted) == (6, 14, 14)
    assert {key.removeprefix("jav:movie:"): base["view"] for key, base in bases(system).items()} == {
        id_: views for id_, (views, _) in rows.items()
    }
    (tally,) = backfill(system).tables  # the next begins anew
    assert (tally.rows_before, tally.processed, tally.unchanged) == (0, 20, 20)


def test_more_than_64_bits_hold_is_listed_and_left_alone(legacy: System) -> None:
    legacy.sql("UPDATE jav SET views = 18446744073709551615 WHERE uuid = 'b'")
    legacy.count(event(entity_id="b"), event(entity_id="c"))
    done = legacy.flush()
    assert (done.rows, done.refused) == (1, 1)
    done = legacy.tallyd("backfill", check=False)
    assert done.returncode == 1
    assert "jav:movie:b: its columns say more than 64 bits hold" in done.stdout
    assert legacy.replica() == LEGACY | {"b": (2**64 - 1, 0), "c": (8, 1)}


def test_an_empty_table_and_the_verification(system: System) -> None:
    printed = system.tallyd("backfill", "--json").stdout
    assert json.loads(printed)["tables"][0]["processed"] == 0
    add_rows(system, {f"m{n}": (n * 1_000, 0) for n in range(8)} | {"[/x]": (8_000, 0)})
    printed = system.tallyd("backfill").stdout
    lines = [line.split() for line in printed.splitlines()]
    assert ["│", "1", "│", "[/x]", "│", "8,000", "│", "[/x]", "│", "8,000", "│"] in lines
    assert ["│", "2", "│", "m7", "│", "7,000", "│", "m7", "│", "7,000", "│"] in lines
    assert "They differ" not in printed
    system.sql("UPDATE jav SET views = 1 WHERE uuid = 'm7'")
    assert "They differ" in system.tallyd("backfill").stdout


def test_a_disagreement_is_audits_to_find_and_never_taken_for_a_base(legacy: System) -> None:
    backfill(legacy)
    legacy.count(event(entity_id="a", value=3))
    legacy.flush()
    legacy.sql("UPDATE jav SET views = views - 50 WHERE uuid = 'a'")
    backfill(legacy)
    assert audited(legacy) == {("replica", "view", -50)}
    assert audited(legacy, "--repair-replica") == set()
    assert legacy.replica() == LEGACY | {"a": (103, 5)}
    assert bases(legacy) == BASES


def test_a_terminal_sees_how_it_comes_along(legacy: System) -> None:
    shown = legacy.on_terminal("backfill")
    assert "jav.movie, rows" in shown
    assert "/s" in shown


def test_ctrl_c_ends_it_after_the_chunk_and_says_how_to_go_on(system: System) -> None:
    add_rows(system, {f"m{n:03}": (n, 0) for n in range(200)})
    with Daemon(system, "backfill", "--chunk", "1") as running:
        wait_until(lambda: len(bases(system)) > 3, "it is on its way")
        running.send(signal.SIGINT)
        assert running.process.wait(20) == 128 + signal.SIGINT
        assert "Run the same command again to go on." in running.text()
    (tally,) = backfill(system).tables
    assert tally.rows_before > 3
    assert len(bases(system)) == 200


def test_other_shards_are_refused(legacy: System) -> None:
    backfill(legacy)
    legacy.env["TALLYD_REDIS__SHARDS"] = "2"
    with pytest.raises(ConfigError, match="laid out differently"):
        backfill(legacy)


def test_with_two_shards(legacy: System) -> None:
    legacy.env["TALLYD_REDIS__SHARDS"] = "2"
    legacy.count(*(event(entity_id=id_) for id_ in LEGACY))
    backfill(legacy)
    drain_until(legacy, {id_: (views + 1, downloads) for id_, (views, downloads) in LEGACY.items()})
    legacy.sql("UPDATE jav SET views = views + 10")
    (tally,) = backfill(legacy, reconcile=True).tables
    assert tally.upserted == 3
    assert audited(legacy) == set()
