"""The port of `tallyd dev` when its default is taken."""

from __future__ import annotations

import os
import socket

import psutil
import pytest

from daemon.devstack import dev, process


def test_a_port_that_is_held_is_taken_to_all_but_the_server_it_is_held_for() -> None:
    port = process.free_port()
    with process.hold_port(port):
        assert not process.port_is_free(port)
        with socket.socket() as server:
            for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
                server.setsockopt(socket.SOL_SOCKET, option, 1)
            server.bind(("127.0.0.1", port))
            server.listen()
            with socket.create_connection(("127.0.0.1", port)), server.accept()[0]:
                pass


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
