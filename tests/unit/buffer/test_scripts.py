"""The scripts, read from their files."""

from __future__ import annotations

import pytest

from daemon.buffer import scripts


@pytest.mark.parametrize("script", scripts.ALL, ids=lambda script: script.name)
def test_every_script_says_what_it_is_for(script: scripts.Script) -> None:
    header = script.source.split("\n\n")[0] + script.source.split("\n\n")[1]
    assert header.startswith(f"-- {script.name}: ")
    for part in ("-- KEYS  1 ", "-- ARGV  ", "-- Returns ", "-- Cost  "):
        assert part in script.source, part


def test_every_script_file_is_loaded() -> None:
    assert {path.stem for path in scripts.LUA_DIR.glob("*.lua")} == {script.name for script in scripts.ALL}
