"""Starts the peers that count, each on a Redis of its own kind: the same program and settings as tallyd's.

What they need is installed by `just bench-peers`. All that is started here is stopped here.
"""

from __future__ import annotations

import os
import secrets
import string
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import redis

from bench.ground import ROOT, Ground, GroundError, Served, stop
from daemon.devstack import process, programs
from daemon.devstack.servers import SERVERS

(REDIS,) = (server for server in SERVERS if server.name == "redis")
HERE = Path(__file__).resolve().parent
VENV = ROOT / ".bench" / "venv"
NGINX_MODULES = Path("/usr/lib/nginx/modules")
NGINX_LUA = NGINX_MODULES / "ngx_http_lua_module.so"
START_TIMEOUT_S = 10.0


class PeerStore:
    """The Redis of the peers."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.port = urlsplit(url).port
        self.client = redis.Redis.from_url(url)
        self.client.config_set("auto-aof-rewrite-percentage", 0)

    def empty(self) -> None:
        """Forgets everything, the log included."""
        self.client.flushall()
        self.client.bgrewriteaof()
        while self._rewriting():
            time.sleep(0.05)

    def counted(self) -> int:
        """The sum of all counts."""
        names = list(self.client.scan_iter("counters:*", count=1000))
        with self.client.pipeline(transaction=False) as pipe:
            for name in names:
                pipe.hvals(name)
            return sum(int(amount) for amounts in pipe.execute() for amount in amounts)

    def _rewriting(self) -> bool:
        info: dict[str, Any] = self.client.info("persistence")
        return bool(info["aof_rewrite_in_progress"] or info["aof_rewrite_scheduled"])


@contextmanager
def store(ground: Ground) -> Iterator[PeerStore]:
    """A second Redis, with the settings of the embedded stack's."""
    folder, port = ground.scratch / "peer-redis", process.free_port()
    program = programs.find(REDIS.program, ground.scratch)
    assert program is not None, "the stack is up, so there is one"
    folder.mkdir()
    url = REDIS.url.format(port=port)
    started = subprocess.Popen(
        [*process.dies_with_parent(), *REDIS.command(program, folder, port)], stdout=subprocess.DEVNULL
    )
    try:
        _wait_for_redis(url)
        yield PeerStore(url)
    finally:
        stop(started)


@contextmanager
def nginx(ground: Ground, peer: PeerStore) -> Iterator[Served]:
    """nginx with count.lua. Raises GroundError if it is not installed."""
    program = programs.on_path("nginx")
    if program is None or not NGINX_LUA.exists():
        raise GroundError("nginx or its Lua module is missing: run `just bench-peers`.")
    folder, port, run_id = ground.scratch / "nginx", process.free_port(), secrets.token_hex(8)
    (folder / "temp").mkdir(parents=True)
    (folder / "nginx.conf").write_text(
        string.Template((HERE / "nginx.conf").read_text()).substitute(
            user="user root;" if os.geteuid() == 0 else "",
            modules=NGINX_MODULES,
            port=port,
            redis_port=peer.port,
            sha=peer.client.script_load((HERE / "dedupe.lua").read_text()),
            run_id=run_id,
            here=HERE,
        )
    )
    command = [str(program), "-p", str(folder), "-c", "nginx.conf", "-e", "stderr"]
    with ground.server(command, {}, port, run_id) as served:
        yield served


@contextmanager
def fastapi(ground: Ground, peer: PeerStore) -> Iterator[Served]:
    """FastAPI under Uvicorn. Raises GroundError if it is not installed."""
    program = VENV / "bin" / "uvicorn"
    if not program.exists():
        raise GroundError("FastAPI's environment is missing: run `just bench-peers`.")
    port, run_id = process.free_port(), secrets.token_hex(8)
    command = [
        *(str(program), "--app-dir", str(HERE), "fastapi_app:app", "--port", str(port)),
        *("--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning"),
    ]
    environ = {"PEER_REDIS": peer.url, "TALLYD_RUN_ID": run_id}
    with ground.server(command, environ, port, run_id) as served:
        yield served


def versions() -> dict[str, str]:
    """Name → version of what is installed of the peers."""
    found = {}
    if (program := programs.on_path("nginx")) is not None:
        done = subprocess.run([str(program), "-v"], capture_output=True, text=True, check=False)
        found["nginx"] = done.stderr.strip().rpartition("/")[2]
    if (VENV / "bin" / "python").exists():
        command = "from importlib.metadata import version as v; print(v('fastapi'), v('uvicorn'))"
        done = subprocess.run([VENV / "bin" / "python", "-c", command], capture_output=True, text=True, check=False)
        if done.returncode == 0:
            found["fastapi"], found["uvicorn"] = done.stdout.split()
    return found


def _wait_for_redis(url: str) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while not _answers(url):
        if time.monotonic() > deadline:
            raise GroundError("The peers' Redis did not start.")
        time.sleep(0.05)


def _answers(url: str) -> bool:
    try:
        with redis.Redis.from_url(url) as client:
            return bool(client.ping())
    except redis.RedisError:
        return False
