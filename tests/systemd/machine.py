"""A bare Debian 12 with a systemd of its own, and the three stores as a careful operator has them.

Redis with ACLs and a password, MongoDB with users and as a replica set of one, MariaDB with TLS. It has a loopback of
its own, so every port is the usual one. Nothing of it is left when it ends.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import psutil

from daemon.devstack import programs
from daemon.devstack.programs import MONGOD
from tests.kit.certificates import Authority
from tests.kit.commands import COMMAND_TIMEOUT_S, ROOT, run
from tests.kit.wait import wait_until
from tests.systemd.image import image

HERE = Path(__file__).parent
BOOT_TIMEOUT_S = 120.0
INIT = "/lib/systemd/systemd"

REDIS = """
appendonly yes
maxmemory 64mb
maxmemory-policy noeviction
aclfile /etc/redis/users.acl
"""
REDIS_USERS = "user default on >admin ~* &* +@all\n"
REDIS_UNIT = """
[Service]
ExecStart=
ExecStart=/usr/bin/redis-server /etc/redis/redis.conf --include /etc/redis/test.conf --supervised systemd --daemonize no
ReadWriteDirectories=/etc/redis
"""
MONGOD_UNIT = """
[Service]
Type=forking
ExecStart=/usr/bin/mongod --fork --syslog --pidfilepath /run/mongod.pid --bind_ip 127.0.0.1 --dbpath /var/lib/mongodb \
    --replSet rs0 --auth --keyFile /etc/mongod.key --wiredTigerCacheSizeGB 0.25
PIDFile=/run/mongod.pid
StateDirectory=mongodb
[Install]
WantedBy=multi-user.target
"""
MARIADB = """
[mysqld]
bind-address = 127.0.0.1
ssl_ca = /etc/mysql/ca.pem
ssl_cert = /etc/mysql/server.pem
ssl_key = /etc/mysql/server.key
innodb_log_file_size = 8M
"""
MONGO_ADMIN = "mongodb://admin:admin@127.0.0.1:27017/admin?directConnection=true"
MONGO_SET_UP = """
import pymongo
client = pymongo.MongoClient("mongodb://127.0.0.1:27017/?directConnection=true")
client.admin.command("replSetInitiate", {"_id": "rs0", "members": [{"_id": 0, "host": "127.0.0.1:27017"}]})
while not client.admin.command("hello")["isWritablePrimary"]:
    pass
client.admin.command("createUser", "admin", pwd="admin", roles=["root"])
"""
MONGOSH = f"""#!/opt/tallyd/bin/python
# In place of mongosh, which neither Debian nor PyPI has: it understands the one kind of statement it is given.
import json, re, sys, pymongo
client = pymongo.MongoClient({MONGO_ADMIN!r})
for line in filter(str.strip, sys.stdin):
    database, user = re.fullmatch(r'db\\.getSiblingDB\\((".*?")\\)\\.createUser\\((.*)\\);?\\n?', line).groups()
    user = json.loads(user)
    client[json.loads(database)].command("createUser", user.pop("user"), **user)
"""


class Machine:
    """`seed`: files of the test's own; they are copied over the image before it boots."""

    def __init__(self, seed: Path) -> None:
        self._seed = seed
        self._log = seed.parent / "boot.log"
        self._journal = seed.parent / "journal"
        self._journal.mkdir()
        self._shell: subprocess.Popen[bytes] | None = None
        self._init: psutil.Process | None = None
        _stores(seed)

    def __enter__(self) -> Self:
        folder = image()
        namespaces = ("--pid", "--mount", "--uts", "--ipc", "--cgroup", "--net")
        command = ["unshare", "--fork", "--kill-child", *namespaces, HERE / "boot", folder, self._seed, self._journal]
        with self._log.open("wb") as log:
            self._shell = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "--", *map(str, command)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        wait_until(self._booting, f"{self._log}: it boots", BOOT_TIMEOUT_S)
        wait_until(lambda: self.says("systemctl is-system-running") == "running", "it is up", BOOT_TIMEOUT_S)
        self.python(MONGO_SET_UP)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._shell is not None
        if self._init is not None and self._init.is_running():
            self._init.kill()
        self._shell.kill()
        self._shell.wait(COMMAND_TIMEOUT_S)

    def _booting(self) -> bool:
        assert self._shell is not None
        assert self._shell.poll() is None, self._log.read_text()
        children = psutil.Process(self._shell.pid).children()
        self._init = next((child for child in children if child.cmdline()[:1] == [INIT]), None)
        return self._init is not None

    @property
    def running(self) -> bool:
        return self._shell is not None and self._shell.poll() is None

    def journal(self, unit: str) -> str:
        """What a unit, and systemd about it, has said; also of a machine that is off."""
        return run(["journalctl", "--no-pager", f"--directory={self._journal}", f"--unit={unit}"], check=True).stdout

    def failed(self) -> str:
        return self.says("systemctl --failed --no-pager; journalctl -b --no-pager | tail -50")

    def _inside(self, *namespaces: str) -> list[str]:
        assert self._init is not None
        return ["nsenter", "--target", str(self._init.pid), *namespaces, "--"]

    def try_(self, script: str) -> subprocess.CompletedProcess[str]:
        """Runs a script of the shell as root would type it, from the folder /root."""
        shell = ["env", "-i", "HOME=/root", "PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "REDISCLI_AUTH=admin"]
        inside = self._inside("--mount", "--pid", "--net", "--uts", "--ipc", "--cgroup")
        return run([*inside, *shell, "bash", "-euc", f"cd /root\n{script}"])

    def says(self, script: str) -> str:
        """The last word of a script, whether it succeeds or not."""
        return self.try_(script).stdout.strip()

    def do(self, script: str) -> str:
        """What a script that succeeds prints."""
        done = self.try_(script)
        assert done.returncode == 0, f"{script}\n{done.stdout}{done.stderr}\n{self.failed()}"
        return done.stdout

    def json(self, script: str) -> Any:
        return json.loads(self.do(script))

    def show(self, unit: str, property_: str) -> str:
        return self.do(f"systemctl show --value -p {property_} {unit}").strip()

    @contextmanager
    def changed(self, unit: str, text: str) -> Iterator[None]:
        """A drop-in of the unit for the block, as `systemctl edit` makes them."""
        folder = f"/etc/systemd/system/{unit}.d"
        self.do(f"mkdir {folder}; cat >{folder}/test.conf <<'END'\n{text}END\nsystemctl daemon-reload")
        yield
        self.do(f"rm -r {folder}; systemctl daemon-reload")

    def python(self, text: str) -> str:
        """Runs a program of the test's own Python, in the machine's network."""
        return run([*self._inside("--net"), sys.executable, "-c", text], check=True).stdout

    @contextmanager
    def load(self, **fields: Any) -> Iterator[Load]:
        """Clients that send events until the end of the block."""
        command = [*self._inside("--net"), sys.executable, "-m", "tests.systemd.load", json.dumps(fields)]
        with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as clients:
            yield Load(clients)
            if clients.poll() is None:
                clients.kill()


class Load:
    """The clients, from outside."""

    def __init__(self, clients: subprocess.Popen[str]) -> None:
        self._clients = clients

    def _ask(self, question: str) -> Any:
        assert self._clients.stdin is not None
        assert self._clients.stdout is not None
        self._clients.stdin.write(f"{question}\n")
        self._clients.stdin.flush()
        return json.loads(self._clients.stdout.readline())

    def wait_for_more(self) -> None:
        """Waits until 100 more events are answered 202."""
        assert self._ask("more") is True

    def stop(self) -> dict[str, Any]:
        """`failures`: what an ordinary client would report; and `acked`, `events`: how many."""
        found: dict[str, Any] = self._ask("stop")
        return found


def _stores(seed: Path) -> None:
    authority = Authority(seed.parent / "authority")
    server = authority.issue("server")
    mongod = programs.find(MONGOD)
    assert mongod is not None
    files = {
        "etc/redis/users.acl": REDIS_USERS,
        "etc/systemd/system/redis-server.service.d/test.conf": REDIS_UNIT,
        "etc/redis/test.conf": REDIS,
        "etc/systemd/system/mongod.service": MONGOD_UNIT,
        "etc/mongod.key": "tallyd" * 10,
        "etc/mysql/mariadb.conf.d/60-test.cnf": MARIADB,
        "etc/mysql/ca.pem": authority.ca.read_text(),
        "etc/mysql/server.pem": server.cert.read_text(),
        "etc/mysql/server.key": server.key.read_text(),
        "usr/local/bin/mongosh": MONGOSH,
    }
    for name, text in files.items():
        file = seed / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    (seed / "etc/mongod.key").chmod(0o400)
    (seed / "usr/local/bin/mongosh").chmod(0o755)
    (seed / "usr/bin").mkdir(parents=True, exist_ok=True)
    shutil.copy(mongod, seed / "usr/bin/mongod")
    wanted = seed / "etc/systemd/system/multi-user.target.wants"
    wanted.mkdir(parents=True, exist_ok=True)
    (wanted / "mongod.service").symlink_to("/etc/systemd/system/mongod.service")
