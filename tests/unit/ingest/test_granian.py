"""What tallyd relies on inside of Granian, beyond what its documentation promises.

`./justw granian` runs this and the tests of HTTP on the newest Granian there is. If one fails here, look at
`daemon/ingest/process/server.py`, `rsgi.py` and `exchange.py`. The way out is the ASGI application (`./justw stock`).
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import re
import socket
from typing import Any

import pytest
from granian._granian import CallbackScheduler, RSGIHTTPProtocol, SocketHolder
from granian.constants import Interfaces
from granian.server import common, mp

from daemon.ingest.process.server import IngestServer
from daemon.ingest.process.wake import Wake

OVERRIDDEN = (
    *("_init_shared_socket", "startup", "_spawn_worker", "signal_handler_reload"),
    *("_drop_shared_socket", "_stop_workers"),
)
OUR_OWN = ("_run_dir", "_listener", "_supervisor", "_signal", "_wait_until_quiet")


class Recorded(mp.MPServer):
    """Granian's main process, which starts nothing and writes down what it would do."""

    def __init__(self) -> None:
        super().__init__("nowhere:create", factory=True, interface=Interfaces.RSGI, log_enabled=False)
        self.steps: list[str] = []

    def _init_shared_socket(self) -> None:
        self.steps.append("_init_shared_socket")

    def _spawn_workers(self, *_: Any) -> None:
        self.steps.append("_spawn_workers")

    def _drop_shared_socket(self) -> None:
        self.steps.append("_drop_shared_socket")

    def _stop_workers(self) -> None:
        self.steps.append("_stop_workers")

    def signal_handler_reload(self, *_: Any, **__: Any) -> None:
        self.steps.append("reload")


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Recorded:
    server = Recorded()

    def set_main_signals(_interrupt: Any, reload: Any) -> None:
        reload()  # the process of the tests keeps its own handlers

    monkeypatch.setattr(common, "set_main_signals", set_main_signals)
    return server


@pytest.mark.parametrize("name", OVERRIDDEN)
def test_what_we_override_is_there_and_takes_the_same(name: str) -> None:
    assert name in vars(IngestServer)
    theirs, ours = (inspect.signature(getattr(server, name)) for server in (mp.MPServer, IngestServer))
    if name != "signal_handler_reload":  # a signal's, which takes anything
        assert list(ours.parameters) == list(theirs.parameters)


def test_nothing_else_of_ours_bears_a_name_of_theirs() -> None:
    methods = {name for name, each in vars(IngestServer).items() if inspect.isfunction(each)}
    assert methods & set(dir(mp.MPServer)) == {*OVERRIDDEN, "__init__"}
    assert not set(OUR_OWN) & {*dir(mp.MPServer), *vars(Recorded())}


def test_the_main_process_takes_its_steps_in_this_order(recorded: Recorded) -> None:
    recorded.startup(None, None)  # type: ignore[no-untyped-call]
    recorded.shutdown()  # type: ignore[no-untyped-call]
    assert recorded.steps == [
        *("reload", "_init_shared_socket", "_spawn_workers"),
        *("_drop_shared_socket", "_stop_workers"),
    ]


def test_a_worker_gets_the_socket_that_was_put_in_its_place(recorded: Recorded) -> None:
    with socket.create_server(("127.0.0.1", 0)) as ours:
        recorded._ssp, recorded._sso = None, ours
        recorded._shd = SocketHolder(ours.fileno(), False, 5)  # type: ignore[call-arg,assignment]
        recorded._ipc = {0: (None, None)}
        worker = recorded._spawn_worker(0, print, print)  # type: ignore[no-untyped-call]
        assert worker.inner._args[3] == ((None, recorded._shd), ours)
        assert worker.interrupt_by_parent is False
        recorded._sso = None


def test_a_socket_holder_keeps_the_descriptor_it_is_given() -> None:
    with socket.create_server(("127.0.0.1", 0)) as ours:
        holder: Any = SocketHolder(ours.fileno(), False, 5)  # type: ignore[call-arg]
        assert holder.get_fd() == ours.fileno()
        assert holder.is_uds() is False


def test_the_loop_asks_no_more_of_our_wake_than_it_can() -> None:
    used = re.findall(r"main_loop_interrupt\.(\w+)\(", inspect.getsource(common) + inspect.getsource(mp))
    assert used
    assert set(used) <= set(dir(Wake))


def test_the_watch_over_a_worker_spares_those_that_the_main_process_ends() -> None:
    assert "if not self.interrupt_by_parent" in inspect.getsource(common.AbstractWorker._watcher)


def test_a_worker_looks_its_scheduler_up_where_ours_is_put_and_after_the_application_began() -> None:
    # `__rsgi_init__` exchanges it: looked up earlier or elsewhere, every event would silently go the long way.
    source = inspect.getsource(mp.MPServer._spawn_rsgi_worker)
    began = source.index("callback_init(loop)")
    made = source.index("_new_cbscheduler(loop, wcallback, impl_asyncio=")
    assert began < made < source.index("serve(scheduler, loop, shutdown_event)")
    assert hasattr(mp, "_new_cbscheduler")


def test_a_scheduler_can_be_made_that_calls_ours() -> None:
    async def long_way(_: Any) -> None: ...

    with asyncio.Runner() as runner:
        made: Any = CallbackScheduler(runner.get_loop(), long_way, None, None, None)  # type: ignore[call-arg]
        assert isinstance(made._ctx, contextvars.Context)
        made._schedule_fn = print  # it can only be set


def test_a_request_has_what_an_exchange_calls() -> None:
    assert callable(RSGIHTTPProtocol.response_bytes)
    assert {"__call__", "__aiter__"} <= set(dir(RSGIHTTPProtocol))
