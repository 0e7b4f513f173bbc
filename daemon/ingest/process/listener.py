"""The daemon's one listening socket, held by its main process and shared by its workers.

Held there, it outlives any worker: a connection that waits to be accepted is not lost with the worker that might have
taken it. Leaving it needs care when another daemon listens on the same port (SO_REUSEPORT, a rolling restart): Linux
resets what waits in the queue of a socket that is closed, and Granian what it has accepted and not read from yet.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path

from daemon.errors import ConfigError

BACKLOG_CONNECTIONS = 4_096
LINGER_S = 0.3
"""How long a client that has begun to connect gets to finish: a round trip to most places."""
POLL_S = 0.01
INHERITED_FD = 3
"""Where systemd puts the first socket it passes: sd_listen_fds(3)."""

_UNACKED_OFFSET_BYTES = 24
"""Of `tcpi_unacked` in `struct tcp_info`: for a listening socket the connections that wait to be accepted."""
_HALF_OPEN, _LISTENING = "03", "0A"
"""States in /proc/net/tcp."""

# A classic BPF program for SO_ATTACH_FILTER, which sees each TCP header: (code, jump if true, jump if false, value).
_LOAD_BYTE, _AND, _JUMP_IF_EQUAL, _RETURN = 0x30, 0x54, 0x15, 0x06
_FLAGS_AT, _SYN, _ACK, _ALL_BYTES = 13, 0x02, 0x10, 0xFFFFFFFF
_DROP_NEW_CONNECTIONS = (
    (_LOAD_BYTE, 0, 0, _FLAGS_AT),
    (_AND, 0, 0, _SYN | _ACK),
    (_JUMP_IF_EQUAL, 0, 1, _SYN),
    (_RETURN, 0, 0, 0),
    (_RETURN, 0, 0, _ALL_BYTES),
)
_SO_ATTACH_FILTER, _SO_DETACH_FILTER = 26, 27


class Listener:
    """Bound when it is made; it listens once the first worker does."""

    def __init__(self, host: str, port: int) -> None:
        """Takes the socket systemd passed, if there is one; else binds. Raises ConfigError if it can't."""
        inherited = _inherited()
        self.inherited = inherited is not None
        """systemd keeps it: it lives on when this daemon ends."""
        self.socket = inherited or _bind(host, port)
        # Accepted connections take it over: an answer is not held back until the one before it was acknowledged.
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.open()  # one that was killed may have left it closed
        self.host: str
        self.port: int
        self.host, self.port = self.socket.getsockname()[:2]

    @property
    def near_host(self) -> str:
        """The address this machine itself reaches it at."""
        near: dict[str, str] = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 # compared, not bound
        return near.get(self.host, self.host)

    def waiting(self) -> int:
        """How many connections wait to be accepted."""
        info = self.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _UNACKED_OFFSET_BYTES + 4)
        (unacked,) = struct.unpack_from("=I", info, _UNACKED_OFFSET_BYTES)
        return int(unacked)

    def has_successor(self) -> bool:
        """Whether somebody takes the connections this daemon doesn't: systemd, or another daemon on the port."""
        own = str(os.fstat(self.socket.fileno()).st_ino)
        return self.inherited or any(state == _LISTENING and inode != own for state, inode in _sockets(self.port))

    def leave(self) -> None:
        """Takes no new connections, and returns once those that had begun are with the workers.

        A client that connects from now on is not answered; refusing it would be an error to it. Its kernel asks again
        after 1 s, and by then this socket is closed and another daemon's is asked, or the next one has been started.
        """
        program = b"".join(struct.pack("=HBBI", *step) for step in _DROP_NEW_CONNECTIONS)
        steps = ctypes.create_string_buffer(program)
        header = struct.pack("@HP", len(_DROP_NEW_CONNECTIONS), ctypes.addressof(steps))  # struct sock_fprog
        self.socket.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, header)
        until = time.monotonic() + LINGER_S
        while (self._half_open() or self.waiting()) and time.monotonic() < until:
            time.sleep(POLL_S)

    def open(self) -> None:
        """The contrary of `leave`, for whoever has the socket next."""
        with contextlib.suppress(OSError):  # there is no filter
            self.socket.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)

    def _half_open(self) -> bool:
        """Whether anyone has begun to connect to this port; perhaps to another's socket on it."""
        return any(state == _HALF_OPEN for state, _ in _sockets(self.port))


def _inherited() -> socket.socket | None:
    mine = os.environ.pop("LISTEN_PID", "") == str(os.getpid())
    sockets = os.environ.pop("LISTEN_FDS", "")
    os.environ.pop("LISTEN_FDNAMES", None)
    if not mine or sockets in ("", "0"):
        return None
    passed = socket.socket(fileno=INHERITED_FD)
    if sockets != "1" or passed.type != socket.SOCK_STREAM or passed.family not in (socket.AF_INET, socket.AF_INET6):
        raise ConfigError("The socket unit must pass one TCP socket: a single ListenStream= with a port.")
    passed.set_inheritable(False)
    return passed


def _bind(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.bind(address)
    except OSError as error:
        raise ConfigError(f"Cannot listen on {host} port {port} (http.host, http.port): {error.strerror}.") from None
    return bound


def _sockets(port: int) -> Iterator[tuple[str, str]]:
    """State and inode of every TCP socket on this local port."""
    suffix = f":{port:04X}"
    for table in ("tcp", "tcp6"):
        try:
            rows = Path(f"/proc/net/{table}").read_text().splitlines()[1:]
        except OSError:
            continue  # no IPv6 here
        for row in rows:
            _, local, _, state, *fields = row.split()
            if local.endswith(suffix):
                yield state, fields[5]
