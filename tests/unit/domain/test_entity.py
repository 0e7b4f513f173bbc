"""An entity and its key."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.domain.entity import Entity, parse_entity

names = st.from_regex(r"[a-z][a-z0-9_]{0,31}", fullmatch=True)


@given(names, names, st.text(min_size=1, max_size=255))
def test_an_entity_is_known_by_its_key(domain: str, kind: str, id_: str) -> None:
    entity = Entity(domain, kind, id_)
    assert parse_entity(entity.key) == entity


@pytest.mark.parametrize("key", ["", ":", "::", "jav", "jav:movie", "jav:movie:", ":movie:x", "jav::x", ":::"])
def test_a_key_that_names_no_entity_is_none(key: str) -> None:
    assert parse_entity(key) is None


@given(st.text(max_size=40))
def test_no_text_is_too_odd_for_an_entity(text: str) -> None:
    parse_entity(text)
