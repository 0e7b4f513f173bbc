"""The listener of the metrics, without a daemon behind it."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterable
from functools import partial

import pytest
from prometheus_client import Metric
from prometheus_client.registry import Collector

from daemon import exposition
from daemon.devstack.process import free_port
from daemon.response import Ready
from tests.kit.metrics import Listener
from tests.kit.wait import wait_until


def listener(hangs: str | None = None, ready: Ready | None = None) -> Listener:
    port = free_port()
    exposition.expose(port, "a.port", (), lambda: hangs, lambda: ready or Ready("ready"))
    return Listener(port)


def test_a_daemon_that_hangs_is_not_alive_and_says_why() -> None:
    listener("The event loop").answers("/livez", 503, status="unavailable", stuck="The event loop")


@pytest.mark.parametrize(("status", "code"), [("ready", 200), ("spooling", 200), ("unavailable", 503)])
def test_readyz_is_503_only_if_nothing_can_be_done(status: str, code: int) -> None:
    listener(ready=Ready(status)).answers("/readyz", code, status=status)  # type: ignore[arg-type]


def test_a_question_that_fails_is_one_entry_of_the_log(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    class Broken(Collector):
        def describe(self) -> Iterable[Metric]:
            return ()

        def collect(self) -> Iterable[Metric]:
            raise OSError("a file is gone")

    port = free_port()
    exposition.expose(port, "a.port", (Broken(),), lambda: None, lambda: Ready("ready"))
    Listener(port).answers("/metrics", 500)
    errors = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert errors == ["/metrics could not be answered"]
    assert "Traceback" not in capfd.readouterr().err


def test_idle_clients_take_no_more_than_the_places_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exposition._Handler, "timeout", None)  # so that a client is closed for one reason only
    tells = listener()
    tells.answers("/livez", 200)
    with contextlib.ExitStack() as opened:
        clients = [
            opened.enter_context(socket.create_connection((exposition.ADDRESS, tells.port)))
            for _ in range(exposition.CONNECTIONS_MAX + 5)
        ]
        wait_until(lambda: sum(map(_is_closed, clients)) >= 5, "those beyond are closed unanswered")
    tells.answers("/livez", 200)


def test_a_machine_without_room_for_a_thread_loses_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    tells = listener()
    tells.answers("/livez", 200)

    def full(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched, contextlib.ExitStack() as opened:
        patched.setattr(exposition.ThreadingWSGIServer, "process_request", full)
        for _ in range(exposition.CONNECTIONS_MAX + 1):
            client = opened.enter_context(socket.create_connection((exposition.ADDRESS, tells.port)))
            wait_until(partial(_is_closed, client), "it is closed unanswered")
    tells.answers("/livez", 200)


def _is_closed(client: socket.socket) -> bool:
    client.setblocking(False)
    try:
        return client.recv(1) == b""
    except BlockingIOError:
        return False
