"""What a terminal or a log shows of a text that a stranger chose."""

from __future__ import annotations

import logging

import pytest

from daemon import log
from daemon.log import neutral, neutral_lines


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("jav:movie:ü片😀 [/x]", "jav:movie:ü片😀 [/x]"),
        ("\x1b]0;pwned\x07", r"\x1b]0;pwned\x07"),
        ("a\u202eb", r"a\u202eb"),
        ("a\u2028b", r"a\u2028b"),
        ("a\u200bb\xa0", r"a\u200bb\xa0"),
        ("\U000e0001", r"\U000e0001"),
        ("a\nb", r"a\nb"),
    ],
)
def test_what_is_invisible_is_shown_as_an_escape(text: str, shown: str) -> None:
    assert neutral(text) == shown


def test_a_text_keeps_its_lines() -> None:
    assert neutral_lines("a\x1b\nb\u202e") == "a\\x1b\nb\\u202e"


def test_the_log_shows_no_invisible_character(capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    try:
        log.configure("info", "text")
        logging.getLogger("tallyd").error("The row of %s", "a\u202eb\x1b[2J")
    finally:
        root.handlers[:], root.level = before, level
    assert capsys.readouterr().err.endswith("ERROR   The row of a\\u202eb\\x1b[2J\n")
