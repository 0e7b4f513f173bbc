"""HTTP as bytes on a socket: for requests that a well-behaved client never sends."""

from __future__ import annotations

import contextlib
import select
import socket
from typing import Any, NamedTuple, Self
from urllib.parse import urlsplit

import httpx
import msgspec

from tests.kit.events import EVENTS

TIMEOUT_S = 15.0


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return msgspec.json.decode(self.body)


def head(path: str = EVENTS, method: str = "POST", **headers: object) -> bytes:
    """A request's head; underscores in names become dashes."""
    lines = [f"{method} {path} HTTP/1.1", "host: t"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def request(body: bytes, path: str = EVENTS, **headers: object) -> bytes:
    usual = {"content_type": "application/json", "content_length": len(body)}
    return head(path, "POST", **{**usual, **headers}) + body


def assert_unavailable(answer: Answer | httpx.Response, retry_after_s: int) -> None:
    """503, when to come back, and nothing of what a store said."""
    assert (answer.status if isinstance(answer, Answer) else answer.status_code) == 503
    assert answer.headers["retry-after"] == str(retry_after_s)
    assert answer.json() == {"message": "Events cannot be taken at the moment. Send them again, with the same ids."}


def chunked(*parts: bytes, end: bool = True) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + (b"0\r\n\r\n" if end else b"")


class Wire:
    """One connection."""

    def __init__(self, url: str, *, receive_bytes: int = 0) -> None:
        """`receive_bytes`: of a receive buffer smaller than the usual one."""
        parts = urlsplit(url)
        assert parts.hostname is not None
        self._socket = socket.socket()
        self._socket.settimeout(TIMEOUT_S)
        if receive_bytes:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        try:
            self._socket.connect((parts.hostname, parts.port))
        except OSError:
            self._socket.close()
            raise
        self.local = self._socket.getsockname()
        self._file = self._socket.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def send_what_is_taken(self, data: bytes, timeout_s: float = 0.2) -> None:
        """Sends until the server takes no more for so long, or closes."""
        self._socket.settimeout(timeout_s)
        with contextlib.suppress(TimeoutError, ConnectionError):
            self._socket.sendall(data)
        self._socket.settimeout(TIMEOUT_S)

    def end(self) -> None:
        """Says that no more will be sent."""
        self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self._file.close()
        self._socket.close()

    def answer(self) -> Answer:
        """Reads one whole answer; every answer of ours has a Content-Length."""
        status_line = self._file.readline()
        assert status_line.startswith(b"HTTP/1.1 "), f"no answer but {status_line!r}"
        headers = {}
        while (line := self._file.readline()) not in (b"\r\n", b""):
            name, _, value = line.decode().partition(":")
            headers[name.lower()] = value.strip()
        body = self._file.read(int(headers["content-length"]))
        return Answer(int(status_line.split()[1]), headers, body)

    def is_answered(self) -> bool:
        """Whether an answer has begun to arrive."""
        return bool(select.select([self._socket], [], [], 0)[0])

    def line(self) -> bytes:
        return self._file.readline()

    def rest(self) -> bytes:
        """Everything until the server closes the connection."""
        return self._file.read()

    def until_quiet(self, quiet_s: float) -> bytes:
        """Everything until the server closes the connection, or says nothing for this time."""
        found = b""
        with contextlib.suppress(ConnectionError):
            while select.select([self._socket], [], [], quiet_s)[0] and (data := self._socket.recv(65_536)):
                found += data
        return found


def send_body(url: str, body: bytes, path: str = EVENTS, *, chunk_bytes: int = 0) -> int:
    """Sends all of it, or until the server will have no more of it; the answer's status. In chunks of so many bytes."""
    with Wire(url) as wire:
        with contextlib.suppress(ConnectionError):
            if chunk_bytes:
                parts = [body[at : at + chunk_bytes] for at in range(0, len(body), chunk_bytes)]
                wire.send(head(path, content_type="application/json", transfer_encoding="chunked") + chunked(*parts))
            else:
                wire.send(request(body, path))
        return wire.answer().status


def talk(url: str, data: bytes) -> Answer:
    with Wire(url) as wire:
        wire.send(data)
        return wire.answer()
