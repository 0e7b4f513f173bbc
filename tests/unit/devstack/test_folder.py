"""Where the servers of a stack listen: in a folder that no other user enters, at a path that a socket can have."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from daemon.config import load
from daemon.devstack import folder
from daemon.devstack.servers import SERVERS
from daemon.errors import StackError


@pytest.fixture(autouse=True)
def temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "t"))
    (tmp_path / "t").mkdir()


@pytest.mark.parametrize("length", range(80, 120))
def test_a_socket_fits_however_long_the_folders_path_is(length: int) -> None:
    data = Path("/" + "d" * (length - 1))
    for server in SERVERS:
        path = folder.socket_path(data, server.name)
        assert len(os.fsencode(path)) <= 107 or path.parent.parent == Path(tempfile.gettempdir())
        assert (path.parent == data / "run") == (length <= 92)


def test_two_folders_never_share_their_sockets() -> None:
    long = ["/" + "d" * 150 + end for end in ("a", "b")]
    assert len({folder.socket_path(Path(each), "redis") for each in long}) == 2


@pytest.mark.parametrize("name", ["plain", "a space", "%41", "plus+", "a,b", "q?a&b=c#d", "a@b:c"])
def test_every_client_finds_the_socket_whatever_the_folder_is_called(tmp_path: Path, name: str) -> None:
    urls = {server.name: server.address(tmp_path / name / server.name, 0) for server in SERVERS}
    config = load(environ={f"TALLYD_{store.upper()}__URL": url for store, url in urls.items()})
    assert config.redis.url == urls["redis"]


def test_a_folder_that_others_may_enter_is_refused(tmp_path: Path) -> None:
    data = folder.prepare(tmp_path / "d")
    (data / "run").chmod(0o755)
    with pytest.raises(StackError, match="others may reach them"):
        folder.prepare(data)
