"""Several flush daemons share the shards, without anybody who hands them out."""

from __future__ import annotations

from contextlib import ExitStack

from daemon.devstack.process import free_port
from tests.kit.metrics import Listener
from tests.kit.system import System, event, wait_until

FLUSHERS, ENTITIES = 4, 400
MANY_CLAIMS = {
    "TALLYD_REDIS__SHARDS": "16",
    "TALLYD_FLUSH__CLAIM_ENTITIES_MAX": "2",
    "TALLYD_FLUSH__INTERVAL_S": "0.5",
    "TALLYD_FLUSH__LEASE_MS": "1000",
}


def count(system: System) -> None:
    system.count(*(event(entity_id=f"m{n}") for n in range(ENTITIES)))


def total(system: System) -> int:
    return sum(counters["view"] for counters in system.rollup("totals").values())


def claims(listener: Listener) -> float:
    return listener.samples().get("tallyd_flush_claims_total", 0.0)


def test_four_flush_daemons_share_the_shards_and_the_others_go_on_if_one_is_killed(system: System) -> None:
    system.env |= MANY_CLAIMS
    listeners = [Listener(free_port()) for _ in range(FLUSHERS)]
    with ExitStack() as stack:
        flushers = [stack.enter_context(system.flusher(FLUSH__METRICS_PORT=str(each.port))) for each in listeners]
        for each in listeners:
            each.says({"tallyd_flush_claims_total": 0.0})
        count(system)
        wait_until(lambda: total(system) == ENTITIES, "all is flushed")
        shares = [claims(each) for each in listeners]
        assert min(shares) >= sum(shares) * 0.05, shares
        count(system)
        wait_until(lambda: total(system) > ENTITIES, "they are at it")
        flushers[0].kill()
        wait_until(lambda: total(system) == 2 * ENTITIES, "the others have its shards")
    assert system.tallyd("audit", "--deep").returncode == 0
