"""What a terminal or a log shows of a text that a stranger chose, and the fields of an entry."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterator
from datetime import datetime

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


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = before, level


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("TALLYD_RUN_ID", "3f2a")
    return f"run_id=3f2a pid={os.getpid()}"


def test_the_log_shows_no_invisible_character(run: str, capsys: pytest.CaptureFixture[str]) -> None:
    log.configure("info", "text")
    logging.getLogger("tallyd").error("The row of %s", "a\u202eb\x1b[2J")
    assert capsys.readouterr().err.endswith(f"ERROR   tallyd [{run}] The row of a\\u202eb\\x1b[2J\n")


def test_an_entry_begins_with_its_time_and_zone(run: str, capsys: pytest.CaptureFixture[str]) -> None:
    log.configure("info", "text")
    logging.getLogger("tallyd").info("Ready.")
    at, _, rest = capsys.readouterr().err.partition(" ")
    assert datetime.fromisoformat(at).utcoffset() is not None
    assert rest == f"INFO    tallyd [{run}] Ready.\n"


def test_no_line_of_a_message_looks_like_an_entry(run: str, capsys: pytest.CaptureFixture[str]) -> None:
    log.configure("info", "text")
    logging.getLogger("tallyd").info("a\n2026-01-01T00:00:00.000+00:00 ERROR   forged")
    try:
        int("b\nc")
    except ValueError:
        logging.getLogger("tallyd").exception("It failed")
    lines = capsys.readouterr().err.splitlines()
    assert len([line for line in lines if re.match(r"\S", line)]) == 2
    assert "    Traceback (most recent call last):" in lines


def test_a_json_entry_has_the_same_fields(run: str, capsys: pytest.CaptureFixture[str]) -> None:
    log.configure("info", "json")
    logging.getLogger("tallyd").warning("a\nb")
    entry = json.loads(capsys.readouterr().err)
    assert datetime.fromisoformat(entry.pop("at")).utcoffset() is not None
    assert entry == {"level": "warning", "logger": "tallyd", "run_id": "3f2a", "pid": os.getpid(), "message": "a\nb"}


def test_a_worker_is_named(run: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("TALLYD_WORKER", "2")
    log.configure("info", "text")
    logging.getLogger("tallyd").info("Up.")
    assert f"[{run} worker=2] Up." in capsys.readouterr().err


def test_what_is_bound_is_in_the_entries_of_the_block(run: str, capsys: pytest.CaptureFixture[str]) -> None:
    log.configure("info", "text")
    tallyd = logging.getLogger("tallyd")
    with log.bound(shard=3):
        tallyd.info("a")
        with log.bound(request_id="x"):
            tallyd.info("b")
    tallyd.info("c")
    shown = [line.partition("[")[2] for line in capsys.readouterr().err.splitlines()]
    assert shown == [f"{run} shard=3] a", f"{run} shard=3 request_id=x] b", f"{run}] c"]


def test_a_run_has_one_id(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TALLYD_RUN_ID", raising=False)
    first = log.run_id()
    assert re.fullmatch("[0-9a-f]{16}", first)
    assert log.run_id() == first
    monkeypatch.delenv("TALLYD_RUN_ID")
