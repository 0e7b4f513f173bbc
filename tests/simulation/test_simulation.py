"""100 nodes that fail as they please, and small worlds that fail more often: each acknowledged event counts once.

Seeds are fixed. `just simulate` takes new ones. Shards are held only by faults that no crash explains.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.simulation.model import Rules
from tests.simulation.world import ONE_SHARD, SPLIT, Faults, Outcome, Size, World

WORLDS = 20
WORLDS_MAX = 1_000
"""Until one with a rule switched off must be wrong. Most are within 20."""
LOSSES = Faults(wipe=15, restart=60, fail_over=20, isolate=0, lag=0, away=0, kill_host=0, lose_host=0, mongo_away=0)
QUICK = ONE_SHARD._replace(flushers=2, tick_us=30_000)


def outcomes(
    size: Size = ONE_SHARD, faults: Faults | None = None, rules: Rules | None = None, *, worlds: int = WORLDS
) -> Iterator[Outcome]:
    return (World(seed, size, faults, rules).run() for seed in range(worlds))


def test_each_acknowledged_event_counts_once_on_100_nodes() -> None:
    assert Size().nodes == 100
    outcome = World(1).run()
    assert outcome.is_exact, outcome
    assert not outcome.held
    assert outcome.acknowledged > 5_000
    assert all(n for kind, n in outcome.faults.items() if getattr(Faults(), kind)), outcome.faults


@pytest.mark.parametrize(
    ("size", "faults"),
    [
        (ONE_SHARD, Faults()),
        (ONE_SHARD, SPLIT),
        (ONE_SHARD._replace(pairs=2, shards=4, flushers=6, ticks=600), Faults()),
        (ONE_SHARD._replace(replicas=0), Faults()),
        (ONE_SHARD._replace(skew_us=2_000_000), Faults()),
        (ONE_SHARD._replace(kept=10), Faults()),
    ],
    ids=["one shard", "isolated primaries", "four shards", "no replicas", "clocks that differ", "a short journal"],
)
def test_each_acknowledged_event_counts_once_and_no_shard_is_held(size: Size, faults: Faults) -> None:
    for seed, outcome in enumerate(outcomes(size, faults)):
        assert outcome.is_exact, (seed, outcome)
        assert not outcome.held, (seed, outcome)


@pytest.mark.parametrize(
    "faults",
    [
        Faults(wipe=10),
        Faults(mongo_older=10),
        Faults(take_over_stale=10),
        Faults(wipe=5, mongo_older=5, take_over_stale=5),
    ],
    ids=["Redis loses its memory", "MongoDB is restored", "a stale replica takes over", "all of it"],
)
def test_what_nobody_can_keep_is_all_that_is_missing(faults: Faults) -> None:
    for seed, outcome in enumerate(outcomes(faults=faults)):
        assert outcome.is_exact, (seed, outcome)


def test_a_stale_replica_that_takes_over_is_held() -> None:
    assert any(outcome.held for outcome in outcomes(faults=Faults(take_over_stale=10)))


def test_one_seed_is_one_course() -> None:
    assert World(7, ONE_SHARD).run() == World(7, ONE_SHARD).run()


# A simulation that cannot fail proves nothing: with a rule switched off, it does -------------------------------------


@pytest.mark.parametrize(
    ("rules", "size", "faults", "wrong"),
    [
        (Rules(confirm=False, amend=False), ONE_SHARD, Faults(), "doubled"),
        (Rules(resend=False), ONE_SHARD, Faults(), "lost"),
        (Rules(compare=False), ONE_SHARD, SPLIT, "doubled"),
        (Rules(rename=False), ONE_SHARD, SPLIT, "doubled"),
        (Rules(dedupe=False), ONE_SHARD, Faults(), "doubled"),
        (Rules(in_order=False), ONE_SHARD, SPLIT, "lost"),
        (Rules(nonce=False, clock=False), ONE_SHARD, SPLIT, "doubled"),
        (Rules(own_epoch=False), QUICK, LOSSES, "lost"),
        (Rules(one_memory=False, own_epoch=False), QUICK, LOSSES, "lost"),
        (Rules(in_flight=False), ONE_SHARD, SPLIT, "held"),
    ],
    ids=lambda value: (
        ", ".join(name for name, on in value._asdict().items() if not on) if isinstance(value, Rules) else ""
    ),
)
def test_some_count_is_wrong_without_the_rule(rules: Rules, size: Size, faults: Faults, wrong: str) -> None:
    assert any(getattr(outcome, wrong) for outcome in outcomes(size, faults, rules, worlds=WORLDS_MAX))


def test_two_histories_that_give_the_same_seqs_double_nothing() -> None:
    for seed, outcome in enumerate(outcomes(faults=SPLIT, rules=Rules(clock=False))):
        assert outcome.is_exact, (seed, outcome)
