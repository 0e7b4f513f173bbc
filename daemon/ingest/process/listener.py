"""The daemon's one listening socket, held by its main process and shared by its workers.

Held there, it outlives any worker: a connection that waits to be accepted is not lost with the worker that might have
taken it. How a daemon leaves it is in `handover.py`.

A unix socket has no SO_REUSEPORT. So it is bound under a name of its own, and takes the configured name once the
workers are up (`publish`). A rename is one step: a client finds the daemon before, or this one.
"""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path

from daemon.config import Http
from daemon.errors import ConfigError

BACKLOG_CONNECTIONS = 4_096
INHERITED_FD = 3
"""Where systemd puts the first socket it passes: sd_listen_fds(3)."""
UNIX_MODE = 0o660
"""Who may connect to a unix socket: the daemon's user, and the group of its folder or of the daemon."""


class Listener:
    """Bound when it is made; it listens once the first worker does."""

    def __init__(self, http: Http) -> None:
        """Takes the socket that systemd passed, if there is one; else binds. Raises ConfigError if it can't."""
        inherited = _inherited()
        self.inherited = inherited is not None
        """systemd keeps the socket: it lives on when this daemon ends."""
        if inherited is None and http.unix_socket:
            self.path = Path(http.unix_socket)
            self._bound_path = Path(f"{http.unix_socket}.{os.getpid()}")
            self.socket = _bind_unix(self.path, self._bound_path)
            self._file = self._bound_path.stat().st_ino
        else:
            self.socket = inherited or _bind(http.host, http.port)
            self.path = self._bound_path = Path(self.socket.getsockname() if self.is_unix else "")
        """A unix socket's file."""
        self.host, self.port = "", 0
        if not self.is_unix:
            # Accepted connections take it over: an answer is not held back until the one before it was acknowledged.
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            # This too: hyper waits for ever for a client that does not take its answer (hyper#1628).
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, http.answer_timeout_ms)
            self.host, self.port = self.socket.getsockname()[:2]

    @property
    def is_unix(self) -> bool:
        return self.socket.family == socket.AF_UNIX

    def __str__(self) -> str:
        if self.is_unix:
            return f"unix:{self.path}"
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    def publish(self) -> None:
        """The workers are up: a unix socket takes its name, perhaps from another daemon. Raises OSError."""
        if self._bound_path != self.path:
            self._bound_path.rename(self.path)
            self._bound_path = self.path

    def replaced(self) -> bool:
        """Whether another daemon has taken the name of this one's unix socket."""
        try:
            return self.path.stat().st_ino != self._file
        except OSError:
            return False

    def unlink(self) -> None:
        """Removes the file of a unix socket, unless it is another daemon's or systemd's by now."""
        if self.is_unix and not self.inherited:
            with contextlib.suppress(OSError):
                if self._bound_path.stat().st_ino == self._file:
                    self._bound_path.unlink()

    def connect(self, timeout_s: float) -> socket.socket:
        """A connection from this machine itself. Raises OSError."""
        if not self.is_unix:
            near = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 # compared, not bound
            return socket.create_connection((near.get(self.host, self.host), self.port), timeout_s)
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.settimeout(timeout_s)
            connection.connect(str(self._bound_path))
        except BaseException:
            connection.close()
            raise
        return connection


def _inherited() -> socket.socket | None:
    mine = os.environ.pop("LISTEN_PID", "") == str(os.getpid())
    sockets = os.environ.pop("LISTEN_FDS", "")
    os.environ.pop("LISTEN_FDNAMES", None)
    if not mine or sockets in ("", "0"):
        return None
    passed = socket.socket(fileno=INHERITED_FD)
    if (
        sockets != "1"
        or passed.type != socket.SOCK_STREAM
        or passed.family not in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX)
    ):
        raise ConfigError("The socket unit must pass one stream socket: a single ListenStream= with a port or a path.")
    passed.set_inheritable(False)
    return passed


def _bind_unix(path: Path, bound_path: Path) -> socket.socket:
    bound = socket.socket(socket.AF_UNIX)
    try:
        if path.exists() and not path.is_socket():
            raise ConfigError(f"Cannot listen on {path} (http.unix_socket): there is a file that is no socket.")
        bound_path.unlink(missing_ok=True)  # of a daemon that was killed, and had this process' number
        bound.bind(str(bound_path))
        bound_path.chmod(UNIX_MODE)
    except OSError as error:
        raise ConfigError(f"Cannot listen on {path} (http.unix_socket): {error.strerror or error}.") from None
    return bound


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
