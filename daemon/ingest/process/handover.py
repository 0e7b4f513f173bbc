"""How a daemon leaves its listening socket so that no client notices, while another daemon takes the port over.

`server.py` calls it, in the main process. Two daemons may listen on one port (SO_REUSEPORT, a rolling restart), or
systemd keeps the socket for the next one. Linux resets the connections that wait in the queue of a socket that is
closed. Granian resets those that it has accepted and not read from yet.

A unix socket's name is by then the next daemon's, or it is removed. So no client finds the socket that is left, and the
workers take what waits in its queue.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import struct
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from daemon.ingest.process import descriptors
from daemon.ingest.process.listener import Listener

LINGER_S = 0.3
"""How long a client that has begun to connect gets to finish: a round trip to most places."""
LINGER_S_MAX = 3.0
"""The same without a filter, while clients keep coming."""
POLL_S = 0.01

_UNACKED_OFFSET_BYTES = 24
"""Of `tcpi_unacked` in `struct tcp_info`: for a listening socket the connections that wait to be accepted."""
_HALF_OPEN, _LISTENING = "03", "0A"
"""States in /proc/self/net/tcp. (A unit with ProcSubset=pid sees no /proc/net.)"""

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


def waiting(listener: Listener) -> int:
    """How many connections wait to be accepted. 0 for a unix socket, which does not tell."""
    if listener.is_unix:
        return 0
    info = listener.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _UNACKED_OFFSET_BYTES + 4)
    (unacked,) = struct.unpack_from("=I", info, _UNACKED_OFFSET_BYTES)
    return int(unacked)


def has_successor(listener: Listener) -> bool:
    """Whether someone takes the connections that this daemon does not: systemd, or another daemon on the port."""
    if listener.is_unix:
        return listener.inherited or listener.replaced()
    own = str(os.fstat(listener.socket.fileno()).st_ino)
    others = (state == _LISTENING and inode != own for state, inode in _sockets(listener.port))
    return listener.inherited or any(others)


def leave(listener: Listener, workers: Sequence[int]) -> None:
    """Takes no new connections. Returns once those that had begun are with the workers, after LINGER_S at most.

    A client that connects from now on gets no reply; a refusal would be an error to it. Its kernel asks again after
    1 s. By then this socket is closed, and another daemon answers, or the next one has been started. `workers`: their
    process ids.
    """
    if listener.is_unix:
        _leave_unix(listener, workers)
        return
    program = b"".join(struct.pack("=HBBI", *step) for step in _DROP_NEW_CONNECTIONS)
    steps = ctypes.create_string_buffer(program)
    header = struct.pack("@HP", len(_DROP_NEW_CONNECTIONS), ctypes.addressof(steps))  # struct sock_fprog
    try:
        listener.socket.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, header)
    except PermissionError:  # some kernels want CAP_NET_ADMIN
        _leave_without_filter(listener, workers)
    else:
        _wait_until_accepted(listener, LINGER_S, POLL_S)


def _leave_without_filter(listener: Listener, workers: Sequence[int]) -> None:
    """The same for an ordinary user, on a kernel that lets only an administrator filter."""
    if not listener.inherited:
        # New connections go to another daemon on the port, or are refused. One that waits in the queue at this very
        # moment is reset, so look for a moment at which none does.
        _wait_until_accepted(listener, LINGER_S_MAX, POLL_S / 10)
        listener.socket.shutdown(socket.SHUT_RD)
        return
    _stop_accepting(workers)


def _leave_unix(listener: Listener, workers: Sequence[int]) -> None:
    if listener.inherited:
        _stop_accepting(workers)
    else:
        listener.unlink()


def _stop_accepting(workers: Sequence[int]) -> None:
    """The socket is systemd's and has to live on. So the workers stop accepting, and clients wait in the queue for the
    next daemon."""
    for pid in workers:
        descriptors.allow_none(pid)


def _wait_until_accepted(listener: Listener, linger_s: float, poll_s: float) -> None:
    until = time.monotonic() + linger_s
    while (_any_half_open(listener.port) or waiting(listener)) and time.monotonic() < until:
        time.sleep(poll_s)


def reopen(listener: Listener) -> None:
    """Takes new connections again, if the socket was left by `leave`: by this daemon, or by one before it."""
    if listener.is_unix:
        return
    with contextlib.suppress(OSError):  # there is no filter
        listener.socket.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)


def _any_half_open(port: int) -> bool:
    """Whether a client has begun to connect to this port, perhaps to another daemon's socket on it."""
    return any(state == _HALF_OPEN for state, _ in _sockets(port))


def _sockets(port: int) -> Iterator[tuple[str, str]]:
    """State and inode of every TCP socket on this local port."""
    suffix = f":{port:04X}"
    for table in ("tcp", "tcp6"):
        try:
            rows = Path(f"/proc/self/net/{table}").read_text().splitlines()[1:]
        except OSError:
            continue  # no IPv6 here
        for row in rows:
            _, local, _, state, *fields = row.split()
            if local.endswith(suffix):
                yield state, fields[5]
