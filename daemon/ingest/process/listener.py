"""The daemon's one listening socket, held by its main process and shared by its workers.

Held there, it outlives any worker: a connection that waits to be accepted is not lost with the worker that might have
taken it. How a daemon leaves it is in `handover.py`.
"""

from __future__ import annotations

import os
import socket

from daemon.errors import ConfigError

BACKLOG_CONNECTIONS = 4_096
INHERITED_FD = 3
"""Where systemd puts the first socket it passes: sd_listen_fds(3)."""


class Listener:
    """Bound when it is made; it listens once the first worker does."""

    def __init__(self, host: str, port: int, answer_timeout_ms: int) -> None:
        """Takes the socket that systemd passed, if there is one; else binds. Raises ConfigError if it can't."""
        inherited = _inherited()
        self.inherited = inherited is not None
        """systemd keeps the socket: it lives on when this daemon ends."""
        self.socket = inherited or _bind(host, port)
        # Accepted connections take it over: an answer is not held back until the one before it was acknowledged.
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # This too: hyper waits for ever for a client that does not take its answer (hyper#1628).
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, answer_timeout_ms)
        self.host: str
        self.port: int
        self.host, self.port = self.socket.getsockname()[:2]

    @property
    def near_host(self) -> str:
        """The address at which this machine itself reaches the socket."""
        near: dict[str, str] = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 # compared, not bound
        return near.get(self.host, self.host)


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
