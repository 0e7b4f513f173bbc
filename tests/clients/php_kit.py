"""PHP processes for the tests of the PHP client: pages that track, and drainers. They share a spool."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from daemon.devstack import process
from tests.kit.certificates import Authority
from tests.kit.commands import inherited
from tests.kit.system import BATCH, EVENTS, ROOT, wait_until

if TYPE_CHECKING:
    from tests.clients.conftest import Road


CLIENT = ROOT / "ops/clients/php"
SCRIPTS = Path(__file__).parent / "php"
STRICT = ("-n", "-d", "display_errors=stdout", "-d", "error_reporting=-1", "-d", "log_errors=0")
"""Without php.ini, and so without extensions. Whatever PHP says comes on standard output, where nothing is expected."""
FILE = "events.0.spool"
"""A page that has no company appends to this one."""
KEY = "the-key-of-the-php-shop"
SINGLE = f"POST {EVENTS} ".encode()
BATCHES = f"POST {BATCH} ".encode()
MOVIES = [f"0f8fad5b-d9cb-469f-a165-{number:012}" for number in range(20)]
RUN_TIMEOUT_S = 120.0
BUDGET_MS = 10_000
"""Of pages that are answered, however busy the machine is. Other tests take the default."""
DEFAULT_MS = 50

View = tuple[Any, ...]
"""The arguments of `track`."""


class Tracked(NamedTuple):
    returned: list[bool]
    reports: list[str]


def views(count: int) -> list[View]:
    return [("view", "movie", MOVIES[number % len(MOVIES)]) for number in range(count)]


class Php:
    """PHP processes with one spool."""

    def __init__(self, spool: Path) -> None:
        self.spool = spool

    def environ(self, url: str, /, **settings: object) -> dict[str, str]:
        given = {"url": url, "domain": "jav", "spool": self.spool, "backoff_ms": 50, "budget_ms": BUDGET_MS, **settings}
        return inherited() | {f"TALLYD_{name.upper()}": str(value) for name, value in given.items()}

    def start(self, *command: str, env: dict[str, str], prefix: tuple[str, ...] = ()) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        words = [*process.dies_with_parent(), *prefix, "php", *STRICT, *command]
        return subprocess.Popen(words, env=env, stdin=pipe, stdout=pipe, stderr=pipe, text=True)

    def page(self, url: str, *, prefix: tuple[str, ...] = (), **settings: object) -> subprocess.Popen[str]:
        """A process that tracks what it is told by `tracked`."""
        return self.start(str(SCRIPTS / "produce.php"), env=self.environ(url, **settings), prefix=prefix)

    def track(self, url: str, events: Iterable[View], **options: Any) -> Tracked:
        return tracked(self.page(url, **options), events)

    def drainer(self, url: str, /, *words: str, **settings: object) -> subprocess.Popen[str]:
        return self.start(str(CLIENT / "tallyd-drain.php"), *words, env=self.environ(url, **settings))

    def drain(self, url: str, *, waits: bool = False, **settings: object) -> dict[str, int]:
        """`tallyd-drain.php --once`; its counts, of which its exit code speaks, too."""
        drainer = self.drainer(url, "--once", **settings)
        out, err = drainer.communicate(timeout=RUN_TIMEOUT_S)
        assert err == "", out + err
        found = counts(out)
        dead = found["refused"] + found["given up"] + found["damaged"]
        assert drainer.returncode == (1 if waits or dead else 0), out
        return found

    def lines(self) -> list[dict[str, Any]]:
        """The events in the files that pages append to."""
        texts = [file.read_text() for file in sorted(self.spool.glob("events.*.spool"))]
        return [json.loads(line) for text in texts for line in text.splitlines()]

    def dead(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.spool / "events.dead").read_text().splitlines()]

    def files(self) -> set[str]:
        return {path.name for path in self.spool.iterdir()} - {"drain.lock"}


def tracked(page: subprocess.Popen[str], events: Iterable[View]) -> Tracked:
    out = ended(page, "".join(json.dumps(each) + "\n" for each in events))
    return Tracked(**json.loads(out))


def give(page: subprocess.Popen[str], events: Iterable[View]) -> None:
    """The same, for `tracked` without events to wait for."""
    assert page.stdin is not None
    page.stdin.write("".join(json.dumps(each) + "\n" for each in events))
    page.stdin.close()
    page.stdin = None


def ended(php: subprocess.Popen[str], text: str = "", *, code: int = 0) -> str:
    """What it wrote; it ends with this code and writes no errors."""
    out, err = php.communicate(text, RUN_TIMEOUT_S)
    assert (php.returncode, err) == (code, ""), out + err
    return out


def counts(out: str) -> dict[str, int]:
    """The sums over the lines of counts that a drainer wrote."""
    last = [line for line in out.splitlines() if "sent" in line][-1]
    return {name: int(number) for name, number in re.findall(r"(sent|known|refused|given up|damaged) (\d+)", last)}


def assert_counted(road: Road, events: Iterable[View], *, resent: bool = False) -> None:
    road.counted(Counter((event[2], event[0]) for event in events), resent=resent)


def with_ticks(folder: Path) -> list[str]:
    """A copy of the client in `folder` that is killed after KILL_AT statements; the words for `php` to run it."""
    shutil.copytree(CLIENT, folder)
    for name in ("Client.php", "Drainer.php"):
        text = (folder / name).read_text()
        (folder / name).write_text(
            text.replace("declare(strict_types=1);", "declare(strict_types=1); declare(ticks=1);")
        )
    return ["-d", f"auto_prepend_file={SCRIPTS / 'kill.php'}"]


def listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def nginx(location: str, home: Path) -> Iterator[str]:
    """The URL of an nginx that speaks TLS, and sends answers in chunks."""
    port, folder = process.free_port(), home / "nginx"
    folder.mkdir()
    identity = Authority(folder / "tls").issue("server")
    folder.chmod(0o755)
    (folder / "nginx.conf").write_text(f"""
        daemon off; pid {folder}/pid; error_log {folder}/error.log; events {{}}
        http {{
            access_log off; ssi on; ssi_types application/json;
            client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
            uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
            server {{
                listen 127.0.0.1:{port} ssl;
                ssl_certificate {identity.cert}; ssl_certificate_key {identity.key};
                location /counts/ {{ {location} }}
            }}
        }}""")
    words = ["nginx", "-c", f"{folder}/nginx.conf", "-e", f"{folder}/error.log"]
    path = {**inherited(), "PATH": f"{os.environ['PATH']}:/usr/sbin"}
    with subprocess.Popen([*process.dies_with_parent(), *words], env=path, stderr=subprocess.DEVNULL) as running:
        try:
            wait_until(lambda: listens(port), "nginx listens")
            yield f"https://127.0.0.1:{port}/counts"
        finally:
            running.terminate()


@pytest.fixture
def php(tmp_path: Path) -> Php:
    return Php(tmp_path / "php's spool [1-9]*")


@pytest.fixture
def nowhere() -> str:
    """The URL of nobody."""
    return f"http://127.0.0.1:{process.free_port()}"
