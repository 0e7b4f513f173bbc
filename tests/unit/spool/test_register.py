"""The name of a spool: made up once, whoever asks, and never one that is none."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from daemon.spool.register import NAME_FILE, named, own_name


def test_a_folder_is_named_once(tmp_path: Path) -> None:
    folder = tmp_path / "spool"
    assert own_name(folder) == ""
    assert named(folder) == named(folder) == own_name(folder)
    assert [path.name for path in folder.iterdir()] == [NAME_FILE]


def test_workers_that_name_it_at_once_agree(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as workers:
        assert len(set(workers.map(named, [tmp_path] * 32))) == 1


@pytest.mark.parametrize("text", ["", "0123", "../../etc/passwd", "x" * 5_000, "\xff" * 12])
def test_a_file_that_holds_no_name_is_left_and_said(tmp_path: Path, text: str) -> None:
    (tmp_path / NAME_FILE).write_text(text)
    assert own_name(tmp_path) == ""
    with pytest.raises(OSError, match="holds no name of a spool"):
        named(tmp_path)
