"""Files that are there whole or not at all."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon.files import FileError, make_folder_of, replaced


@pytest.fixture(params=[0o022, 0o027, 0o077])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_the_umask_decides_who_may_read_a_file(umask: int, tmp_path: Path) -> None:
    with replaced(tmp_path / "report.csv") as file:
        file.write(b"counts")
    assert stat.S_IMODE((tmp_path / "report.csv").stat().st_mode) == 0o666 & ~umask


def test_a_block_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "report.csv"
    path.write_text("before")
    with pytest.raises(FileError), replaced(path) as file:
        file.write(Path("nosuch").read_bytes())
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="nosuch"), replaced(tmp_path / "nosuch" / "report.csv"):
        pass


def test_a_folder_is_made_with_those_above_it_or_it_is_said_why_not(tmp_path: Path) -> None:
    make_folder_of(tmp_path / "a/b/file")
    make_folder_of(tmp_path / "a/b/file")
    assert (tmp_path / "a/b").is_dir()
    (tmp_path / "plain").touch()
    with pytest.raises(FileError, match="Cannot make the folder"):
        make_folder_of(tmp_path / "plain/file")
