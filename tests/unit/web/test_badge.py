"""The badge is an image whatever its label says."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.web.badge import LABEL_CHARS_MAX, badge

SVG = "{http://www.w3.org/2000/svg}"


def texts(label: str, amount: int = 1_234_567) -> list[str | None]:
    """What it shows, read as XML."""
    image = ElementTree.fromstring(badge(label, amount).body)
    assert {each.tag for each in image.iter()} == {f"{SVG}{name}" for name in ("svg", "title", "rect", "g", "text")}
    return [each.text for each in image.iter(f"{SVG}text")]


def test_it_shows_a_label_and_a_number() -> None:
    assert texts("views") == ["views", "1,234,567"]


@pytest.mark.parametrize(
    ("label", "shown"),
    [
        ("<script>alert(1)</script>", "<script>alert(1)</script>"),
        ('"><img onerror=x>', '"><img onerror=x>'),
        ("&lt;&#x0;", "&lt;&#x0;"),
        ("a\0b\x1bc\ud800d\u202ee\ufffef", "abcdef"),
        ("{number} {0}", "{number} {0}"),
        ("再生数", "再生数"),
        ("x" * 500, "x" * LABEL_CHARS_MAX),
    ],
)
def test_a_label_is_text_and_nothing_else(label: str, shown: str) -> None:
    assert texts(label) == [shown, "1,234,567"]


def test_a_badge_without_a_label_shows_the_number() -> None:
    assert texts("", 0) == [None, "0"]


@given(st.text(), st.integers(0, 2**63 - 1))
def test_any_label_makes_an_image(label: str, amount: int) -> None:
    assert texts(label, amount)[1] == f"{amount:,}"
