"""Redis 7.0 with a restricted default user drops every transaction of its append-only file when it restarts.

The daemons notice, say so, and go on with a new epoch: nothing is counted twice, and the audit holds.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import redis

from tests.kit.kill import Kill, held, kills
from tests.kit.servers import RedisServer
from tests.kit.system import System, event, wait_until

URL = "redis://tallyd:secret@127.0.0.1:{port}/0"
ACL = "user tallyd on >secret ~* &* +@all\nuser default {default}\n"
FAST = {"TALLYD_REDIS__TIMEOUT_MS": "500", "TALLYD_SPOOL__PROBE_MS": "50", "TALLYD_REDIS__RECONNECT_MS": "50"}
RESTRICTED, GOOD = "off", "off nopass ~* &* +@all"


class Hardened(RedisServer):
    """With a user of tallyd's, and this rule for the default user."""

    def __init__(self, folder: Path, default: str) -> None:
        folder.mkdir()
        file = folder / "users.acl"
        file.write_text(ACL.format(default=default))
        super().__init__(7, folder, "--appendonly", "yes", "--appendfsync", "always", "--aclfile", str(file))
        self._description = msgspec.structs.replace(self._description, url=URL)

    def restart(self) -> None:
        self.stop()
        self.start()

    def marked(self, before: object = None) -> object:
        """Waits for marks, without which nothing is noticed, and for others than `before`. Returns them."""
        with self.client() as client:
            wait_until(lambda: client.hget("anl:layout", "alone") not in (None, before), "the daemons leave marks")
            return client.hget("anl:layout", "alone")


@pytest.fixture(params=[RESTRICTED])
def hardened(request: pytest.FixtureRequest, system: System, tmp_path: Path) -> Iterator[Hardened]:
    with Hardened(tmp_path / "redis", request.param) as server:
        system.env |= FAST
        system.use_redis(server)
        yield server


def total(system: System) -> int:
    return sum(counters["view"] for counters in system.rollup("totals").values())


def epoch(system: System) -> int:
    return int(system.redis.hget("anl:layout", "epoch") or 0)


def test_both_daemons_go_on_with_a_new_epoch_and_nothing_is_counted_twice(system: System, hardened: Hardened) -> None:
    system.add_movies("m0", "m1", "m2")
    with system.ingest() as ingest, system.flusher(FLUSH__INTERVAL_S="0.2") as flusher:
        for n in range(20):
            assert ingest.post(event(entity_id=f"m{n % 3}")).status_code == 202
        hardened.marked()
        rewrite(system.redis)  # the state that Redis falls back to holds counts, live ones too
        hardened.marked(before=hardened.marked())  # what came after the last mark can be lost unnoticed
        wait_until(lambda: total(system) == 20, "they are flushed")
        before = epoch(system)
        hardened.restart()
        wait_until(lambda: epoch(system) > before, "a new epoch begins")
        wait_until(lambda: ingest.client.get("/readyz").json() == {"status": "ready"}, "it counts in Redis again")
        for n in range(10):
            assert ingest.post(event(entity_id=f"m{n % 3}")).status_code == 202
        wait_until(lambda: total(system) == 30, "the new ones are flushed, and no old one again")
        assert "user default off nopass ~* &* +@all" in ingest.text() + flusher.text()
        assert "A new epoch begins" in ingest.text() + flusher.text()
    system.flush()
    assert total(system) == 30
    assert system.audit("--deep")["exact"]


def rewrite(client: redis.Redis) -> None:
    client.bgrewriteaof()
    wait_until(lambda: not client.info("persistence")["aof_rewrite_in_progress"], "the file is rewritten")
    wait_until(lambda: not client.info("persistence")["aof_rewrite_scheduled"], "none is scheduled")


def test_it_happens_again_at_each_restart(system: System, hardened: Hardened) -> None:
    epochs = []
    with system.ingest() as ingest:
        for _ in range(3):
            assert ingest.post(event()).status_code == 202
            hardened.marked()
            epochs.append(epoch(system))
            hardened.restart()
            wait_until(lambda: epoch(system) > epochs[-1], "a new epoch begins")
    assert epochs == sorted(set(epochs))
    system.flush()
    assert system.audit()["holds"]


@pytest.mark.parametrize("hardened", [GOOD], indirect=True)
def test_with_the_good_rule_nothing_is_lost(system: System, hardened: Hardened) -> None:
    with system.ingest() as ingest:
        for _ in range(10):
            assert ingest.post(event()).status_code == 202
        hardened.marked()
        before = epoch(system)
        hardened.restart()
        wait_until(lambda: ingest.post(event()).status_code == 202, "it counts again")
        assert "transaction" not in ingest.text()
    assert epoch(system) == before
    system.flush()
    assert total(system) >= 11
    assert system.audit()["holds"]


@kills("daemon.buffer.layout")
def test_a_daemon_killed_while_it_begins_an_epoch_leaves_it_to_the_next(
    system: System, hardened: Hardened, kill: Kill
) -> None:
    """Two shards. What is flushed before stays counted once."""
    system.env["TALLYD_REDIS__SHARDS"] = "2"
    with system.ingest() as ingest:
        for n in range(12):
            assert ingest.post(event(entity_id=f"m{n}")).status_code == 202
        hardened.marked()
        rewrite(system.redis)
    system.flush()
    assert total(system) == 12
    before = epoch(system)
    hardened.restart()
    with held(system, kill, "flush", REDIS__TIMEOUT_MS="20000") as process:
        process.wait()
        process.kill()
    with system.ingest() as ingest:
        wait_until(lambda: epoch(system) > before, "a new epoch begins")
        assert ingest.post(event(entity_id="m1")).status_code == 202
    assert system.redis.hget("anl:layout", "next") is None
    system.flush()
    assert total(system) == 13
    assert system.audit("--deep")["exact"]


@pytest.mark.parametrize(("hardened", "severity"), [(RESTRICTED, "fatal"), (GOOD, "ok")], indirect=["hardened"])
def test_doctor_finds_it_before_it_happens(system: System, hardened: Hardened, severity: str) -> None:
    assert hardened.running
    done = system.tallyd("doctor", "--json", check=False)
    [found] = [each for each in msgspec.json.decode(done.stdout) if each["check"] == "redis.default_user"]
    assert found["severity"] == severity
    if severity == "fatal":
        assert "ACL SETUSER default off nopass" in found["fix"]
