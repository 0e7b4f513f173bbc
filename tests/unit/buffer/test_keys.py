"""The keys in Redis, and the shard of an entity."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from daemon.buffer.keys import Keys, by_shard, shard_of


@given(st.integers(0, 16_383))
def test_every_key_of_a_shard_has_the_shard_as_its_hash_tag(shard: int) -> None:
    keys = Keys("anl").shard(shard).__dict__.values()
    assert len(set(keys)) == len(keys)
    assert all(key.startswith(f"anl:{{{shard}}}:") for key in keys)


def test_keys_of_all_shards_together_have_no_hash_tag() -> None:
    keys = Keys("anl")
    assert not [key for key in (keys.layout, keys.imports, keys.used, keys.salt_prefix) if "{" in key]


def test_no_key_of_one_prefix_is_one_of_another() -> None:
    def names(prefix: str) -> set[str]:
        keys = Keys(prefix)
        return {keys.layout, keys.imports, keys.used, keys.salt_prefix, *keys.shard(0).__dict__.values()}

    assert all(key.startswith("shop:") for key in names("shop"))
    assert names("shop").isdisjoint(names("anl"))


def test_an_entity_stays_in_its_shard() -> None:
    """What was counted lies there, so these numbers may never change."""
    assert {key: shard_of(key, 16) for key in ("jav:movie:a", "jav:movie:b")} == {"jav:movie:a": 4, "jav:movie:b": 14}


@given(st.text(max_size=300), st.integers(1, 16_384))
def test_every_key_has_a_shard(key: str, shards: int) -> None:
    assert 0 <= shard_of(key, shards) < shards
    assert shard_of(key, 1) == 0


@given(st.lists(st.text(max_size=20)), st.integers(1, 20))
def test_each_item_goes_to_its_shard_in_the_order_it_came(names: list[str], shards: int) -> None:
    found = by_shard(iter(names), shards, str)
    assert all(found.values()), "no shard without items"
    assert found == {
        shard: [name for name in names if shard_of(name, shards) == shard]
        for shard in {shard_of(name, shards) for name in names}
    }
