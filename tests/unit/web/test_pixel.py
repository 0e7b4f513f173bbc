"""What the address of a pixel asks for, and who asks beforehand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.domain.entity import ENTITY_ID_CHARS_MAX
from daemon.web.pixel import PIXEL, fields_of, is_prefetch
from daemon.web.query import PARAMETERS_MAX, QUERY_CHARS_MAX


@pytest.mark.parametrize(
    ("query", "fields"),
    [
        (
            "d=jav&t=movie&id=a%2Fb+c&a=view",
            {"domain": "jav", "entity_type": "movie", "entity_id": "a/b c", "action": "view"},
        ),
        ("id=%C3%A9&id=second", {"entity_id": "é"}),
        ("id=a&_=1733&domain=x&event_id=x&value=5", {"entity_id": "a"}),
        ("", {}),
        ("id=%ff", {}),
        ("&".join(["id=a"] * (PARAMETERS_MAX + 1)), {}),
        ("id=a&_=" + "%41" * (QUERY_CHARS_MAX // 3), {}),
        ("id=" + "%F0%9F%8E%AC" * ENTITY_ID_CHARS_MAX, {"entity_id": "🎬" * ENTITY_ID_CHARS_MAX}),
    ],
)
def test_the_parameters_are_fields_of_the_event(query: str, fields: dict[str, str]) -> None:
    assert fields_of(query) == fields


@given(st.one_of(st.text(), st.binary().map(lambda raw: raw.decode("latin-1"))))
def test_any_query_has_fields_or_none(query: str) -> None:
    assert fields_of(query).keys() <= {"domain", "entity_type", "entity_id", "action"}


@pytest.mark.parametrize(
    ("name", "value", "beforehand"),
    [
        ("sec-purpose", "prefetch", True),
        ("sec-purpose", "prefetch;prerender", True),
        ("sec-purpose", "prefetch;anonymous-client-ip", True),
        ("purpose", "prefetch", True),
        ("x-purpose", "preview", True),
        ("x-moz", "Prefetch", True),
        ("sec-purpose", "", False),
        ("accept", "prefetch", False),
    ],
)
def test_what_a_browser_asks_for_beforehand_is_known(name: str, value: str, beforehand: bool) -> None:
    assert is_prefetch(lambda asked: [value] if asked == name else []) == beforehand


def test_the_image_is_a_gif_of_one_pixel_that_nobody_keeps() -> None:
    assert PIXEL.body[:10] == b"GIF89a\1\0\1\0"
    assert PIXEL.body[-1:] == b";"
    assert ("cache-control", "no-store") in PIXEL.headers
