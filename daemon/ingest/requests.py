"""The open requests of one worker: how many there are, how long a body may take, and how they end when it closes.

`app.py` and `exchange.py` report each request, `boot.py` makes and stops it. Nothing here looks into a body. Granian
does not limit how long a half-sent body may take, so that limit is here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from daemon.config import Budget, Http
from daemon.ingest import response
from daemon.ingest.accounts import Account
from daemon.metrics import IngestTally
from daemon.response import Response

LOOKS_PER_BODY_TIMEOUT = 4
CROWD_PART = 8
"""One sender's bodies are bounded once a worker waits for this part of `http.unfinished_max`. Before that, one address
may be a proxy's or an office's that sends many at a time."""
BYTES_PER_PART_MIN = 512
"""A body's parts have so many bytes on average, `PARTS_FREE` of them excepted."""
PARTS_FREE = 256


class Headers(Protocol):
    """The headers of a request."""

    def get_all(self, key: str, /) -> Sequence[str]:
        """The values of a header, in order. One that is not ASCII is missing."""

    def __contains__(self, key: str, /) -> bool:
        """Whether a header is there, whatever its value."""


class RequestHead(NamedTuple):
    """The parts of a request's head that matter here.

    `length` is -1 if it is absent; `kind` (the content type) and `key` are "". `client`: the address of the connection,
    "" behind a unix socket.
    """

    method: str
    path: str
    length: int
    kind: str
    key: str
    client: str
    headers: Headers


class HttpRequest(Protocol):
    """A request as the server in front hands it over."""

    @property
    def head(self) -> RequestHead: ...

    @property
    def query(self) -> str: ...

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """All of them, names in lower case."""

    async def read(self, length: int, bytes_max: int) -> bytes | None:
        """The whole body, or None if it is larger than allowed. Raises CutOffError if it ends early."""


class BodyParts:
    """A body that comes in parts: joined, and bounded in bytes and in parts."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._joined = bytearray()
        self._parts = 0

    @property
    def size(self) -> int:
        return len(self._joined)

    def add(self, part: bytes) -> bool:
        """False if the body is larger than allowed. Raises TooManyPartsError.

        Each part costs a turn of the loop, whatever its size: hyper hands out every chunk by itself (hyper#4008).
        """
        self._joined += part
        self._parts += 1
        if self._parts > len(self._joined) // BYTES_PER_PART_MIN + PARTS_FREE:
            raise TooManyPartsError
        return len(self._joined) <= self._bytes_max

    def whole(self) -> bytes:
        return bytes(self._joined)


class BodyReader(Protocol):
    """A task or an exchange that waits for a body."""

    def cancel(self) -> Any:
        """The body took too long."""


class CutOffError(Exception):
    """The client went away before its body was complete."""


class CrowdedError(Exception):
    """The worker has no place for the request."""


class TooManyPartsError(Exception):
    """The body comes in pieces so small that reading them costs more than the body is worth."""


class OpenRequests:
    """Of one worker. Create it in the running loop; call `stop` once."""

    def __init__(self, http: Http, budget: Budget, tally: IngestTally) -> None:
        self.tally = tally
        self._loop = asyncio.get_running_loop()  # asked for once: on Python 3.11 each time is a system call
        self.in_flight = 0
        """Requests that are whole. A body that is still being sent takes no place of theirs."""
        self._readers: dict[BodyReader, int] = {}
        """Who waits for a body → the look at which that began."""
        self._late: set[BodyReader] = set()
        """The readers that were told to wait no longer, until they have stopped."""
        self._looks = 0
        self.closing = False
        """Every answer asks its client to connect anew, elsewhere."""
        self._answered_lately = False
        self.reconfigure(http, budget)
        self._look_for_late_bodies()

    def reconfigure(self, http: Http, budget: Budget) -> None:
        """Other limits from the next request on."""
        self._http = http
        self._in_flight_max = http.requests_in_flight_max
        self._unfinished_max = http.unfinished_max
        self._unfinished_each_max = budget.unfinished_max
        self._crowd = http.unfinished_max // CROWD_PART
        self._body_timeout_s = http.body_timeout_ms / 1000

    def begin(self) -> None:
        """A request begins. Call `leave` or `abandon` at its end."""
        self.in_flight += 1

    @property
    def crowded(self) -> bool:
        """There are too many whole requests. The one that has just become whole should be refused."""
        return self.in_flight > self._in_flight_max

    def enter(self, reader: BodyReader, account: Account) -> bool:
        """A body begins, and with it its time. False, and nothing changes: too many are being sent.

        Call `has_read` at its end, and then `leave` once the request has its answer.
        """
        if (crowd := len(self._readers)) >= self._crowd and (
            account.unfinished >= self._unfinished_each_max or crowd >= self._unfinished_max
        ):
            return False
        account.unfinished += 1
        self._readers[reader] = self._looks
        return True

    def has_read(self, reader: BodyReader, account: Account) -> bool:
        """The body is there, or will never be. False: too many requests are whole, and this one should be refused."""
        del self._readers[reader]
        account.unfinished -= 1
        if self._late:
            self._late.discard(reader)
        self.in_flight += 1
        return self.in_flight <= self._in_flight_max

    async def read(
        self, request: HttpRequest, account: Account, length: int, bytes_max: int
    ) -> bytes | Response | None:
        """The body of a request that began, or None if it is larger than allowed. Or the answer that refuses it.

        Raises CrowdedError if the worker has no place for it.
        """
        task = asyncio.current_task(self._loop)
        assert task is not None
        spent = account.unfinished >= self._unfinished_each_max
        is_large = not 0 <= length <= self._http.event_bytes_max
        if (spent and is_large and not account.producer) or not self.enter(task, account):
            if spent:
                return response.TOO_MANY_BODIES
            raise CrowdedError
        self.in_flight -= 1
        try:
            body = await request.read(length, bytes_max)
        except asyncio.CancelledError:
            if task not in self._late:
                raise  # the worker is stopping
            task.uncancel()
            return response.BODY_TIMEOUT
        except CutOffError:
            return response.BODY_CUT_OFF
        except TooManyPartsError:
            return response.BODY_IN_PARTS
        finally:
            self.has_read(task, account)
        if self.crowded:
            raise CrowdedError
        return body if body is not None and len(body) <= bytes_max else None

    def leave(self, answer: Response, route: str, began: float) -> None:
        """A request that began is answered. `route`, `began`: as of `IngestTally.answered`."""
        self.in_flight -= 1
        self.tally.answered(route, answer.status, began)
        if self.closing:
            self._answered_lately = True

    def abandon(self) -> None:
        """A request that began gets no answer."""
        self.in_flight -= 1

    def close(self) -> float:
        """Begins to close. Returns how many seconds that may take, before connections are closed under their clients.

        Half-sent bodies get half the time there is to stop, so that the other half is left for the rest.
        """
        if not self.closing:
            self.closing = True
            grace_s = self._http.drain_timeout_s / 2
            self._body_timeout_s = min(self._body_timeout_s, grace_s)
            self._loop.call_later(grace_s, self._give_up_bodies, 0)
        return self._http.closing_ms / 1000

    def was_busy(self) -> bool:
        """Whether a request is open or, while closing, was answered since the last call."""
        answered, self._answered_lately = self._answered_lately, False
        return answered or self.in_flight > 0 or bool(self._readers)

    def stop(self) -> None:
        self._looker.cancel()

    def _look_for_late_bodies(self) -> None:
        """One timer for all requests, for a timer each cost 4 % of the throughput.

        So a body gets its time, and up to a quarter more.
        """
        self._looks += 1
        self._give_up_bodies(LOOKS_PER_BODY_TIMEOUT + 1)
        self._looker = self._loop.call_later(self._body_timeout_s / LOOKS_PER_BODY_TIMEOUT, self._look_for_late_bodies)

    def _give_up_bodies(self, looks: int) -> None:
        """Gives up the bodies that have been read for so many looks."""
        for reader, since in list(self._readers.items()):
            if self._looks - since >= looks and reader not in self._late:
                self._late.add(reader)
                reader.cancel()
