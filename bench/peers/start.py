"""Starts the peers that count, each on a Redis of its own kind: the same program and settings as tallyd's.

What they need is installed by `just bench-peers`. All that is started here is stopped here.
"""

from __future__ import annotations

import os
import string
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import redis
from msgspec.structs import replace

from bench.ground import Ground, GroundError, Served, rewrite_log, sum_of_hashes
from daemon.devstack import process, programs
from tests.kit.commands import ROOT
from tests.kit.servers import REDIS, Server

HERE = Path(__file__).resolve().parent
VENV = ROOT / ".bench" / "venv"
NGINX_MODULES = Path("/usr/lib/nginx/modules")
NGINX_LUA = NGINX_MODULES / "ngx_http_lua_module.so"


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
        rewrite_log(self.client)

    def counted(self) -> int:
        """The sum of all counts."""
        return sum_of_hashes(self.client, "counters:*")


@contextmanager
def store(ground: Ground) -> Iterator[PeerStore]:
    """A second Redis, with the settings of the embedded stack's."""
    with Server(replace(REDIS, slice_us=0), ground.scratch / "peer") as server:
        yield PeerStore(server.url)


@contextmanager
def nginx(ground: Ground, peer: PeerStore) -> Iterator[Served]:
    """nginx with count.lua. Raises GroundError if it is not installed."""
    program = programs.on_path("nginx")
    if program is None or not NGINX_LUA.exists():
        raise GroundError("nginx or its Lua module is missing: run `just bench-peers`.")
    folder, port = ground.scratch / "nginx", process.free_port()
    server = Served(ground, [str(program), "-p", str(folder), "-c", "nginx.conf", "-e", "stderr"], port)
    (folder / "temp").mkdir(parents=True)
    (folder / "nginx.conf").write_text(
        string.Template((HERE / "nginx.conf").read_text()).substitute(
            user="user root;" if os.geteuid() == 0 else "",
            modules=NGINX_MODULES,
            port=port,
            redis_port=peer.port,
            sha=peer.client.script_load((HERE / "dedupe.lua").read_text()),
            run_id=server.run_id,
            here=HERE,
        )
    )
    with ground.serving(server):
        yield server


@contextmanager
def fastapi(ground: Ground, peer: PeerStore) -> Iterator[Served]:
    """FastAPI under Uvicorn. Raises GroundError if it is not installed."""
    program = VENV / "bin" / "uvicorn"
    if not program.exists():
        raise GroundError("FastAPI's environment is missing: run `just bench-peers`.")
    port = process.free_port()
    command = [
        *(str(program), "--app-dir", str(HERE), "fastapi_app:app", "--port", str(port)),
        *("--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning"),
    ]
    with ground.serving(Served(ground, command, port, PEER_REDIS=peer.url)) as served:
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
