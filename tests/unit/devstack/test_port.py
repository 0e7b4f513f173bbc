"""The port of `tallyd dev` when its default is taken."""

from __future__ import annotations

import os
import socket

import psutil
import pytest

from daemon.devstack import dev


def test_it_says_who_has_it_and_takes_another(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setattr(dev, "DEFAULT_PORT", port)
        chosen = dev._choose_port()
    assert chosen != port
    who = f"{psutil.Process().name()} (pid {os.getpid()})"
    said = f"dev    │ port {port}: {who} listens there. This one counts at port {chosen}\n"
    assert capsys.readouterr().out == said
