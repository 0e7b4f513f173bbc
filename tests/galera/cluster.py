"""MariaDB Galera: two real nodes on loopback. `./justw galera` runs it, apart from the other tests: it takes a minute.

A lock of MariaDB belongs to one node. So two flushers that write on two nodes are not kept apart, and `mysql.url` must
name one writer.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import shutil
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from asyncmy.errors import MySQLError

from daemon import config as configuration
from daemon.config import Config, replica_tables
from daemon.devstack import process
from daemon.doctor import checks
from daemon.doctor.finding import Finding
from daemon.errors import StoreError
from daemon.replica.mysql import MysqlSink
from tests.kit.servers import MYSQL, Server
from tests.kit.stores import run_sql
from tests.kit.system import CREATE_TABLE
from tests.kit.wait import wait_until

GALERA = "/usr/lib/galera/libgalera_smm.so"
ROWS = 500
ROUNDS = 20
SYNC_S = 120.0


def node(name: str, folder: Path, peer_port: int, joins: int | None = None) -> Server:
    """A node of the cluster. `joins`: the peer port of the other one; None: the first."""
    ist_port, sst_port = process.free_port(), process.free_port()
    provider = {
        "gmcast.listen_addr": f"tcp://127.0.0.1:{peer_port}",
        "ist.recv_addr": f"127.0.0.1:{ist_port}",
        "gcache.size": "8M",
        "pc.recovery": "false",
    }

    def command(program: Path, data: Path, port: int) -> list[str]:
        return [
            *MYSQL.command(program, data, port),
            *("--wsrep-on=ON", f"--wsrep-provider={GALERA}", "--binlog-format=ROW", "--innodb-autoinc-lock-mode=2"),
            f"--wsrep-cluster-address=gcomm://{f'127.0.0.1:{joins}' if joins else ''}",
            *(f"--wsrep-node-name={name}", f"--wsrep-node-address=127.0.0.1:{peer_port}"),
            *("--wsrep-sst-method=position", f"--wsrep-sst-receive-address=127.0.0.1:{sst_port}"),
            f"--wsrep-provider-options={';'.join(f'{key}={value}' for key, value in provider.items())}",
        ]

    return Server(msgspec.structs.replace(MYSQL, command=command), folder / name)


def is_synced(server: Server) -> bool:
    with contextlib.suppress(MySQLError, OSError):
        [[_, state]] = run_sql(server.url, "SHOW STATUS LIKE 'wsrep_local_state_comment'")
        return bool(state == "Synced" and run_sql(server.url, "SELECT 1"))
    return False


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Server]]:
    """Two, with the same data. The second begins as a copy of the first, so nothing but its position is transferred."""
    folder = tmp_path_factory.mktemp("galera")
    script = shutil.copy(Path(__file__).with_name("wsrep_sst_position"), folder)  # it keeps positions beside itself
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{Path(script).parent}{os.pathsep}{os.environ['PATH']}")
        ports = [process.free_port(), process.free_port()]
        first, second = node("a", folder, ports[0]), node("b", folder, ports[1], ports[0])
        with first:
            run_sql(first.url, CREATE_TABLE)
            values = ", ".join(f"('{id_of(number)}')" for number in range(ROWS))
            run_sql(first.url, f"INSERT INTO jav (uuid) VALUES {values}")
            first.stop()
            own = shutil.ignore_patterns("galera.cache", "gvwstate.dat")
            shutil.copytree(first.data, second.data, ignore=own)
            first.start()
            with second:
                for each in (first, second):
                    wait_until(lambda each=each: is_synced(each), "the node is synced", SYNC_S)
                yield [first, second]


@contextlib.contextmanager
def round_robin(servers: Sequence[Server]) -> Iterator[str]:
    """The URL of a proxy that sends each connection to the next of these servers."""
    turn = itertools.cycle(servers)
    sockets: list[socket.socket] = []
    threads: list[threading.Thread] = []

    def begin(work: Callable[..., None], *args: Any) -> None:
        threads.append(threading.Thread(target=work, args=args))
        threads[-1].start()

    def pump(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    def accept() -> None:
        with contextlib.suppress(OSError):  # the end of the block
            while True:
                client, server = listener.accept()[0], socket.create_connection(("127.0.0.1", next(turn).port))
                sockets.extend((client, server))
                begin(pump, client, server)
                begin(pump, server, client)

    listener = socket.create_server(("127.0.0.1", 0))
    sockets.append(listener)
    begin(accept)
    yield MYSQL.url.format(port=listener.getsockname()[1])
    for step in (lambda each: each.shutdown(socket.SHUT_RDWR), lambda each: each.close()):
        for each in sockets:
            with contextlib.suppress(OSError):  # the other side has gone
                step(each)
        for thread in threads:
            thread.join()


def id_of(number: int) -> str:
    return f"0f8fad5b-d9cb-469f-a165-{number:012x}"


def config(url: str) -> Config:
    return configuration.load(environ={"TALLYD_MYSQL__URL": url})


def found(url: str) -> dict[str, Finding]:
    return {each.check: each for each in asyncio.run(checks.of_mysql(config(url)))}


async def set_all(sink: MysqlSink, amount: int) -> None:
    table = replica_tables(config("mysql://root@127.0.0.1/tallyd"))["jav", "movie"]
    totals: dict[str, dict[str, Any]] = {
        id_of(number): {"view": amount, "download": amount, "base": {"view": 0, "download": 0}}
        for number in range(ROWS)
    }
    result = await sink.write(table, totals)
    assert (result.applied, result.failures) == (ROWS, ())


def amounts(server: Server) -> set[tuple[int, int]]:
    return {(views, downloads) for views, downloads in run_sql(server.url, "SELECT views, downloads FROM jav")}


def test_each_node_gives_the_same_lock(nodes: list[Server]) -> None:
    async def both() -> None:
        async with (
            MysqlSink(config(nodes[0].url).mysql) as one,
            MysqlSink(config(nodes[1].url).mysql) as other,
            one.locked(0),
            other.locked(0),
        ):
            pass  # on one node the second would wait, and fail

    asyncio.run(both())


def test_the_doctor_wants_one_writer(nodes: list[Server]) -> None:
    for each, name in zip(nodes, "ab", strict=True):
        writer = found(each.url)["mysql.writer"]
        assert (writer.severity, writer.found.partition(" of ")[0]) == ("ok", f"node {name}")
    with round_robin(nodes) as url:
        writer = found(url)["mysql.writer"]
    assert writer.severity == "fatal"
    assert writer.found.endswith(": a, b")
    assert "name the writer" in writer.fix


def test_nothing_else_is_wrong_with_a_node(nodes: list[Server]) -> None:
    assert {each.severity for each in found(nodes[0].url).values()} == {"ok"}


def test_what_one_node_is_told_both_have(nodes: list[Server]) -> None:
    for amount, each in enumerate(nodes, start=1):

        async def write(url: str = each.url, amount: int = amount) -> None:
            async with MysqlSink(config(url).mysql) as sink:
                await set_all(sink, amount)

        asyncio.run(write())
        wait_until(lambda amount=amount: all(amounts(one) == {(amount, amount)} for one in nodes), "both have it", 60)


def test_writes_that_meet_leave_the_nodes_alike_and_can_be_repeated(nodes: list[Server]) -> None:
    async def write(server: Server, amount: int) -> None:
        async with MysqlSink(config(server.url).mysql) as sink:
            for _ in range(ROUNDS):
                with contextlib.suppress(StoreError):  # the other node was first, five times; the flusher comes again
                    await set_all(sink, amount)

    async def both() -> None:
        await asyncio.gather(write(nodes[0], 10), write(nodes[1], 20))
        async with MysqlSink(config(nodes[0].url).mysql) as sink:
            await set_all(sink, 30)

    asyncio.run(both())
    wait_until(lambda: all(amounts(each) == {(30, 30)} for each in nodes), "both have the last totals", 60)


def test_a_node_without_a_majority_takes_nothing_until_it_is_told_to(nodes: list[Server]) -> None:
    """The last one: the second node is killed."""
    first, second = nodes
    second.kill()

    async def write(amount: int) -> str:
        async with MysqlSink(config(first.url).mysql) as sink:
            try:
                await set_all(sink, amount)
            except StoreError as error:
                return str(error)
        return ""

    wait_until(lambda: "WSREP has not yet prepared" in asyncio.run(write(40)), "the node takes nothing", 120)
    writer = found(first.url)["mysql.writer"]
    assert (writer.severity, "not one of its majority" in writer.found) == ("fatal", True)
    run_sql(first.url, "SET GLOBAL wsrep_provider_options = 'pc.bootstrap=YES'")
    wait_until(lambda: asyncio.run(write(50)) == "", "the node takes writes again", 60)
    assert amounts(first) == {(50, 50)}
