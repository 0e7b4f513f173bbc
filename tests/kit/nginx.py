"""A real nginx with the file of ops/proxy."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from daemon.devstack import process
from tests.kit.commands import ROOT
from tests.kit.wait import wait_until

CONFIG = """
daemon off;
worker_processes 2;
pid {folder}/pid;
error_log {folder}/error.log info;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
{blocks}
}}
"""
SOCKET = "/run/tallyd/ingest.sock"
IDLE_S = 1
"""After which this nginx closes a connection to tallyd, in place of 20."""
LOCATION = "    location /api/v1/analytics/ {"


@contextmanager
def nginx_folder() -> Iterator[Path]:
    """A folder that its workers, who are nobody's, can enter. pytest's own is too deep for a socket's address."""
    made = Path(tempfile.mkdtemp(prefix="tallyd-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


HOSTS = ("10.0.0.11:8080", "10.0.0.12:8080")
"""Where ops/proxy/nginx-hosts.conf finds them."""


@contextmanager
def nginx_of_hosts(folder: Path, *upstreams: str) -> Iterator[str]:
    """nginx in front of two ingest hosts, as ops/proxy sets it up, and the URL it answers at."""
    port = process.free_port()
    blocks = (ROOT / "ops" / "proxy" / "nginx-hosts.conf").read_text()
    addresses = zip(HOSTS, upstreams, strict=True)
    for theirs, ours in (
        ("listen 80;", f"listen 127.0.0.1:{port};"),
        *((f"server {at} ", f"server {to} ") for at, to in addresses),
    ):
        assert blocks.count(theirs) == 1
        blocks = blocks.replace(theirs, ours)
    with _running(folder, blocks, port) as url:
        yield url


@contextmanager
def nginx(
    folder: Path, upstream: str, *, also: str = "", site: str = "", under: str = "", bare: str | None = None
) -> Iterator[str]:
    """nginx as ops/proxy sets it up, and the URL it answers at.

    `upstream`: where tallyd listens. `also`: another location of tallyd, as nginx writes it. `site`: the URL of the
    server of everything else. `under`: all of tallyd once more below this path, as "/stats/". `bare`: these lines
    instead of that file, as somebody sets it up who did not read it; everything is tallyd's.
    """
    port = process.free_port()
    blocks = (ROOT / "ops" / "proxy" / "nginx.conf").read_text()
    for theirs, ours in (
        (f"server unix:{SOCKET};", f"server {upstream};"),
        ("listen 80;", f"listen 127.0.0.1:{port};"),
        ("keepalive_timeout 20s;", f"keepalive_timeout {IDLE_S}s;"),
    ):
        assert blocks.count(theirs) == 1
        blocks = blocks.replace(theirs, ours)
    end = "    }\n"
    block = LOCATION + blocks.partition(LOCATION)[2].partition(end)[0] + end
    if also:
        blocks = blocks.replace(block, block + block.replace(LOCATION, f"    location {also} {{"))
    if under:
        below = block.replace(LOCATION, f"    location {under} {{")
        assert below.count("proxy_pass http://tallyd;") == 1
        blocks = blocks.replace(block, block + below.replace("http://tallyd;", "http://tallyd/;"))
    if site:
        blocks = blocks.replace(LOCATION, f"    location / {{ proxy_pass {site}; }}\n{LOCATION}")
    if bare is not None:
        blocks = f"server {{ listen 127.0.0.1:{port}; {bare} location / {{ proxy_pass http://{upstream}; }} }}"
    with _running(folder, blocks, port) as url:
        yield url


@contextmanager
def _running(folder: Path, blocks: str, port: int) -> Iterator[str]:
    program = shutil.which("nginx", path="/usr/sbin:/sbin:/usr/bin:/bin")
    assert program is not None, "The tests need nginx: run ./justw test, or apt-get install nginx."
    file = folder / "nginx.conf"
    file.write_text(CONFIG.format(folder=folder, blocks=blocks))
    command = [*process.dies_with_parent(), program, "-c", str(file), "-e", str(folder / "error.log")]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as running:
        try:
            url = f"http://127.0.0.1:{port}"
            wait_until(lambda: running.poll() is None and answers(url), f"nginx answers; {folder}/error.log")
            yield url
        finally:
            running.terminate()


def answers(url: str) -> bool:
    try:
        return httpx.get(url).status_code > 0
    except httpx.HTTPError:
        return False
