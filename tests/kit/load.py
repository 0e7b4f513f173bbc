"""Clients that send events one after the other and remember the outcome of each.

`acked`: answered 202. `rejected`: answered that it was not counted. `unknown`: sent, and not answered, or answered 503.
A client behaves as ordinary ones do: it keeps its connection while the server lets it, looks whether it was closed
before it uses it again, and never sends an event twice by itself.
"""

from __future__ import annotations

import http.client
import json
import secrets
import select
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import httpx

from tests.kit.events import EVENTS, event
from tests.kit.wait import WAIT_TIMEOUT_S, wait_until

TIMEOUT_S = 15.0
PAUSE_S = 0.01


class Load:
    """`clients` threads; every second one opens a connection for each event.

    All views are of movie m; with `spread` each is of a movie of its own, whose id is the event's. `fields` replace
    those of the event. `timeout_s`: how long a client waits for an answer. `pause_s`: after each event.
    """

    def __init__(
        self,
        url: str,
        clients: int = 8,
        *,
        spread: bool = False,
        timeout_s: float = TIMEOUT_S,
        pause_s: float = 0.0,
        **fields: Any,
    ) -> None:
        self._spread = spread
        self._timeout_s = timeout_s
        self._pause_s = pause_s
        self._fields = fields
        self._address = urlsplit(url).netloc
        self._clients = clients
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self.labels: dict[str, str] = {}
        self.unknown: list[dict[str, Any]] = []
        self.failures: list[str] = []
        """What ordinary clients would report: connections refused, requests reset, answers of 500 and above."""

    @contextmanager
    def running(self) -> Iterator[Load]:
        """Leaving it stops the clients. To be sure that they had work, wait for `acked` first."""
        self._threads = [
            threading.Thread(target=self._run, kwargs={"keep_alive": n % 2 == 0}, daemon=True)
            for n in range(self._clients)
        ]
        for thread in self._threads:
            thread.start()
        try:
            yield self
        finally:
            self.stop()

    def stop(self) -> None:
        """Asks the clients to end; leaving the context waits for them, too."""
        self._stop.set()
        for thread in self._threads:
            thread.join(2 * self._timeout_s)

    def labelled(self, label: str) -> set[str]:
        """The ids of these events."""
        with self._lock:
            return {id_ for id_, each in self.labels.items() if each == label}

    def count(self, label: str) -> int:
        with self._lock:
            return Counter(self.labels.values())[label]

    def wait_for_more(self, acked: int = 100) -> None:
        goal, timeout_s = self.count("acked") + acked, max(WAIT_TIMEOUT_S, self._timeout_s)
        wait_until(lambda: self.count("acked") >= goal, f"{acked} more events are answered", timeout_s)

    def resend(self, url: str) -> None:
        """Sends unknown events again, under the same ids; afterwards none is."""
        with httpx.Client(base_url=url, timeout=TIMEOUT_S) as client:
            for each in self.unknown:
                assert client.post(EVENTS, json=each).status_code == 202
                self.labels[each["event_id"]] = "acked"
        self.unknown = []

    def _run(self, *, keep_alive: bool) -> None:
        connection: http.client.HTTPConnection | None = None
        while not self._stop.is_set():
            if connection is not None and (not keep_alive or _was_closed(connection)):
                connection.close()
                connection = None
            if connection is None and (connection := self._connect()) is None:
                self._stop.wait(PAUSE_S)
                continue
            id_ = secrets.token_hex(8)
            if not self._send(connection, self._event(id_)):
                connection.close()
                connection = None
            if self._pause_s:
                self._stop.wait(self._pause_s)
        if connection is not None:
            connection.close()

    def _event(self, id_: str) -> dict[str, Any]:
        return event(event_id=id_, **{"entity_id": id_ if self._spread else "m", **self._fields})

    def _connect(self) -> http.client.HTTPConnection | None:
        connection = http.client.HTTPConnection(self._address, timeout=self._timeout_s)
        try:
            connection.connect()
        except OSError as error:
            connection.close()  # it may have been reset just after
            with self._lock:
                self.failures.append(f"connecting: {error}")
            return None
        return connection

    def _send(self, connection: http.client.HTTPConnection, one: dict[str, Any]) -> bool:
        """Whether the connection may be used again."""
        status, failure = 0, ""
        try:
            connection.request("POST", EVENTS, json.dumps(one), {"content-type": "application/json"})
            answer = connection.getresponse()
            answer.read()
            status = answer.status
        except (OSError, http.client.HTTPException) as error:
            failure = f"sending: {error!r}"
        if status >= 500:
            failure = f"answered {status}"
        label = "unknown" if failure else "acked" if status == 202 else "rejected"
        with self._lock:
            self.labels[one["event_id"]] = label
            if failure:
                self.failures.append(failure)
                self.unknown.append(one)
        return status > 0 and connection.sock is not None  # http.client drops it after `connection: close`


def _was_closed(connection: http.client.HTTPConnection) -> bool:
    """Whether the server has closed an idle connection: only then is there something to read."""
    return connection.sock is None or bool(select.select([connection.sock], [], [], 0)[0])
