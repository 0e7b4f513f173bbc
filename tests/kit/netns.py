"""Several hosts on one machine: each a network namespace with an address, a host name, and a line of its own.

All lines meet in one more namespace, the road, which forwards packets. There two hosts are parted, and packets come
late. This process has a line, too. So a client of a test reaches each host at its address, parted or not.

Needs root, `ip` and `nsenter`. Delays go through a TUN device: not every kernel has `tc netem`. Nothing outside this
machine is reached.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import ipaddress
import os
import select
import struct
import subprocess
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil

PREFIX = "tallyd-net"
"""Of the namespaces' names. The number of the process that made them follows."""
NAMESPACES = Path("/run/netns")
ROAD, HERE = "road", "here"
SELF = Path("/proc/thread-self/ns/net")
CLONE_NEWNET = 0x40000000
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
LATE_TABLE, LATE_PREF, PARTED_PREF = 77, 200, 100
PACKET_BYTES_MAX = 65_536
ESTABLISHED = "01"
FORWARD = (
    "echo 1 > /proc/sys/net/ipv4/ip_forward; for each in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 0 > $each; done"
)


class Network:
    """The hosts with these names, at most 60. `address` says where each of them is."""

    def __init__(self, *hosts: str) -> None:
        self._hosts = hosts
        self._own = f"{PREFIX}{os.getpid()}"
        # Two runs at once have different numbers: so they have different addresses.
        self._first = ipaddress.IPv4Address("10.64.0.0") + os.getpid() % 2**14 * 256
        self._late: _Late | None = None

    def address(self, host: str) -> str:
        """An IPv4 address. `HERE`: of this process, as the hosts see it."""
        return str(self._line(host) + 2)

    def command(self, host: str) -> tuple[str, ...]:
        """A prefix: the program runs on this host, and knows it by name. The program replaces the prefix."""
        enter = ("nsenter", f"--net={NAMESPACES / self._space(host)}", "unshare", "--uts", "sh", "-c")
        return (*enter, 'hostname "$0" && exec "$@"', host)

    @contextlib.contextmanager
    def up(self) -> Iterator[Network]:
        """The hosts are there for the block. Their processes have to have ended then."""
        _forget_left()
        try:
            for name in (ROAD, *self._hosts):
                _ip("netns", "add", self._space(name))
                _ip("-n", self._space(name), "link", "set", "lo", "up")
            for host in (HERE, *self._hosts):
                self._join(host)
            _run("nsenter", f"--net={NAMESPACES / self._space(ROAD)}", "sh", "-c", FORWARD)
            self._late = _Late(NAMESPACES / self._space(ROAD))
            for words in (
                ("link", "set", _Late.DEVICE, "up"),
                ("route", "add", "default", "dev", _Late.DEVICE, "table", str(LATE_TABLE)),
                ("rule", "add", "pref", str(LATE_PREF - 1), "iif", _Late.DEVICE, "lookup", "main"),
            ):
                self._on_road(*words)
            yield self
        finally:
            if self._late is not None:
                self._late.close()
            for name in (ROAD, *self._hosts):
                if (NAMESPACES / self._space(name)).exists():
                    _ip("netns", "del", self._space(name))  # with its lines, and ours to it

    def part(self, sender: str, receiver: str, *, one_way: bool = False) -> None:
        """What one sends to the other is lost, without a word; and the reverse, unless `one_way`."""
        for pair in self._pairs(sender, receiver)[: 1 if one_way else 2]:
            self._on_road("rule", "add", "pref", str(PARTED_PREF), *pair, "blackhole")

    def heal(self) -> None:
        """Nobody is parted any more, and nothing comes late."""
        for pref in (PARTED_PREF, LATE_PREF):
            while self._on_road("rule", "del", "pref", str(pref), check=False):
                pass

    def delay(self, one: str, other: str, ms: float) -> None:
        """Each packet between the two comes so much later."""
        assert self._late is not None
        self._late.seconds = ms / 1000
        for pair in self._pairs(one, other):
            self._on_road("rule", "add", "pref", str(LATE_PREF), *pair, "lookup", str(LATE_TABLE))

    @property
    def delayed(self) -> int:
        """How many packets came late."""
        assert self._late is not None
        return self._late.packets

    def _join(self, host: str) -> None:
        end, peer = f"to-{host}", f"eth-{os.getpid()}" if host == HERE else "eth0"
        road, there = self._space(ROAD), () if host == HERE else ("-n", self._space(host))
        where = ("netns", str(os.getpid()) if host == HERE else self._space(host))
        _ip("-n", road, "link", "add", end, "type", "veth", "peer", "name", peer, *where)
        for space, device, address in (
            (("-n", road), end, self._line(host) + 1),
            (there, peer, self._line(host) + 2),
        ):
            _ip(*space, "addr", "add", f"{address}/30", "dev", device)
            _ip(*space, "link", "set", device, "up")
        network = f"{self._first}/24" if host == HERE else "default"
        _ip(*there, "route", "add", network, "via", str(self._line(host) + 1))

    def _line(self, host: str) -> ipaddress.IPv4Address:
        """Four addresses: the road's is the second, the host's the third."""
        return self._first + 4 * (1 + (HERE, *self._hosts).index(host))

    def _pairs(self, one: str, other: str) -> Sequence[tuple[str, ...]]:
        at, to = self.address(one), self.address(other)
        return (("from", at, "to", to), ("from", to, "to", at))

    def _on_road(self, *words: str, check: bool = True) -> bool:
        return _ip("-n", self._space(ROAD), *words, check=check)

    def _space(self, name: str) -> str:
        return f"{self._own}-{name}"


class _Late:
    """A TUN device of the road. It sends back each packet that it gets, `seconds` later, in its order."""

    DEVICE = "late"

    def __init__(self, road: Path) -> None:
        self.seconds = 0.0
        self.packets = 0
        self._made = threading.Event()
        self._closing, self._close = os.pipe()
        self._thread = threading.Thread(target=self._forward, args=(road,), name="late", daemon=True)
        self._thread.start()
        assert self._made.wait(10), "there is no TUN device: /dev/net/tun"

    def close(self) -> None:
        os.write(self._close, b"x")
        self._thread.join(10)
        os.close(self._close)
        os.close(self._closing)

    def _forward(self, road: Path) -> None:
        with road.open() as space:  # for this thread alone
            assert ctypes.CDLL(None, use_errno=True).setns(space.fileno(), CLONE_NEWNET) == 0, os.strerror(
                ctypes.get_errno()
            )
        device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        try:
            fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH22x", self.DEVICE.encode(), IFF_TUN | IFF_NO_PI))
            self._made.set()
            waiting = deque[tuple[float, bytes]]()
            while True:
                left_s = max(0.0, waiting[0][0] - time.monotonic()) if waiting else None
                ready, _, _ = select.select([device, self._closing], [], [], left_s)
                if self._closing in ready:
                    return
                if ready:
                    waiting.append((time.monotonic() + self.seconds, os.read(device, PACKET_BYTES_MAX)))
                while waiting and waiting[0][0] <= time.monotonic():
                    self.packets += 1
                    with contextlib.suppress(OSError):  # its queue is full: a packet is lost, as on any road
                        os.write(device, waiting.popleft()[1])
        finally:
            os.close(device)


def unread_bytes(pid: int) -> int:
    """What waits in the connections of this process' host, and nobody has read."""
    lines = Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]
    states = [line.split()[3:5] for line in lines]
    return sum(int(queues.partition(":")[2], 16) for state, queues in states if state == ESTABLISHED)


def _forget_left() -> None:
    """Namespaces of runs that were killed."""
    for space in NAMESPACES.glob(f"{PREFIX}*-*") if NAMESPACES.is_dir() else ():
        if not psutil.pid_exists(int(space.name.removeprefix(PREFIX).partition("-")[0])):
            _ip("netns", "del", space.name, check=False)


def _ip(*words: str, check: bool = True) -> bool:
    return _run("ip", *words, check=check)


def _run(*command: str, check: bool = True) -> bool:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0 or not check, f"{' '.join(command)}: {done.stderr}"
    return done.returncode == 0
