"""Two systems on one Redis: neither sees the other, and neither may touch a key of the other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from daemon.buffer.keys import Keys
from tests.kit.servers import Stack
from tests.kit.system import BATCH, System, event, wait_until

NEIGHBOUR = {"TALLYD_REDIS__PREFIX": "shop"}


@pytest.fixture
def neighbour(system: System, stack: Stack, tmp_path: Path) -> Iterator[System]:
    """On the Redis of `system`, as a user that may touch no key but its own."""
    (tmp_path / "shop").mkdir()
    made = System(stack, tmp_path / "shop")
    keys = Keys("shop").acl
    made.redis.execute_command(
        "ACL", "SETUSER", "shop", "reset", "on", ">secret", keys, "+@all", "-@dangerous", "+info"
    )
    made.env |= NEIGHBOUR | {"TALLYD_REDIS__URL": _as_user(stack.redis, "shop:secret")}
    yield made
    made.redis.execute_command("ACL", "DELUSER", "shop")
    made.close()


def _as_user(url: str, user: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=f"{user}@{parts.netloc.rpartition('@')[2]}").geturl()


def prefixes(system: System) -> set[bytes]:
    return {key.partition(b":")[0] for key in system.redis.scan_iter(count=10_000)}


def test_the_same_event_counts_once_in_each(system: System, neighbour: System) -> None:
    same = event(event_id="same", entity_id="a")
    with system.ingest() as ours, neighbour.ingest(RATE_LIMIT__PER_MINUTE="60") as theirs:
        for ingest in (ours, theirs):
            assert ingest.post(same).status_code == 202
            assert "x-tallyd-duplicate" not in ingest.post(event(entity_id="b", value=2)).headers
            assert ingest.post([same, event(entity_id="a")], BATCH).json()["duplicates"] == 1
    assert prefixes(system) == {b"anl", b"shop"}
    for each in (system, neighbour):
        each.tallyd("flush", "--once")
        assert each.rollup("totals") == {"jav:movie:a": {"view": 2}, "jav:movie:b": {"view": 2}}
        each.audit("--deep")
    assert system.redis.hget("anl:layout", "epoch") != system.redis.hget("shop:layout", "epoch")


def test_a_flusher_forgets_event_ids_of_its_own_system_only(system: System, neighbour: System) -> None:
    for prefix in ("anl", "shop"):
        system.redis.sadd(f"{prefix}:{{0}}:seen:1:0", 1)
    with neighbour.flusher():
        wait_until(lambda: not system.redis.exists("shop:{0}:seen:1:0"), "an old window is forgotten")
    assert system.redis.exists("anl:{0}:seen:1:0")


def test_all_commands_look_under_the_prefix(system: System, neighbour: System, tmp_path: Path) -> None:
    neighbour.add_movies("a")
    assert neighbour.count(event(entity_id="a"), event(entity_id="b")) == 2
    assert '"dirty": 2' in neighbour.tallyd("status", "--json").stdout
    assert '"dirty": 0' in system.tallyd("status", "--json").stdout
    assert "scripts" in neighbour.tallyd("doctor", "--json", check=False).stdout
    (tmp_path / "events.ndjson").write_text('{"event_id":"n","domain":"jav","entity_type":"movie","entity_id":"a",'
                                            '"action":"view","occurred_at":"2026-02-19T01:02:03Z"}\n')  # fmt: skip
    neighbour.tallyd("import", str(tmp_path / "events.ndjson"))
    neighbour.tallyd("flush", "--once")
    neighbour.tallyd("backfill", "--reconcile", "--dry-run", check=False)
    neighbour.tallyd("parity-check")
    assert system.redis.exists("shop:imports")
    assert neighbour.replica() == {"a": (2, 0)}
    assert prefixes(system) <= {b"anl", b"shop"}


def test_a_prefix_that_could_be_read_as_something_else_is_refused(system: System) -> None:
    for prefix in ("", "a:b", "a{0}", "A", "0", "a*"):
        assert "redis.prefix" in system.tallyd("config", REDIS__PREFIX=prefix, check=False).stderr
