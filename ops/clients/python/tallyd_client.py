"""Sends events to tallyd. An event is counted once, although requests, replies and processes get lost.

    from tallyd_client import Client

    tally = Client("http://127.0.0.1:8080", domain="jav", queue="/var/lib/shop/tallyd")
    tally.track("view", "movie", movie.uuid)

`Client` sends from a thread of its own, `AsyncClient` from a task of the running loop. Both share all the rest. One
file, nothing but the standard library, Python 3.9 or newer, on Linux or macOS. README.md beside it says what it
promises.

How it works. `track` gives the event an id, appends it to a segment, and returns. A segment is one batch: a file of the
queue's folder, one event a line, or a list in memory. A process has a lock (flock) on a segment while it appends to it
or sends it. All other segments may be sent by any process that has the folder open. So nobody has to take over from a
process that died: its lock is gone. `STEPS` says what holds after each step.

A segment whose answer is lost is sent again, with the same ids. The daemon knows them, and counts nothing twice.
"""

from __future__ import annotations

import argparse
import asyncio
import atexit
import contextlib
import datetime as dt
import email.utils
import errno
import fcntl
import hashlib
import hmac
import http.client
import json
import logging
import os
import random
import ssl
import sys
import threading
import time
import uuid
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from socket import SHUT_RDWR
from typing import Any, NamedTuple, Union
from urllib.parse import urlsplit

__all__ = ["AsyncClient", "Client", "Stats"]
__version__ = "1.0.0"

EVENTS = "/api/v1/analytics/events"
"""Where a daemon takes events, unless the client's URL has a path. Batches go to that path + "/batch"."""
BATCH_EVENTS_MAX = 500
BATCH_BYTES_MAX = 262_144
TEXT_CHARS_MAX = 255
"""Of each text of an event. tallyd takes no longer id."""
SEGMENT_AGE_MAX_S = 60.0
"""A segment takes no further events after that: all of it is given up by the age of its first event."""
ABORT_S = 1.0
"""How long a request may take to notice that it was ended."""
SCAN_S = 5.0
"""How often the folder is looked through for segments of a process that died."""
RESCAN_S = 0.25
"""While the queue is full: how often the folder is looked at for room."""
VALUE_MAX = 1_000_000_000
"""No action takes a greater one."""
TEXTS = ("event_id", "domain", "entity_type", "entity_id", "action", "occurred_at")
BACKOFF_FIRST_S = 0.5
BACKOFF_MAX_S = 60.0
RETRY_AFTER_MAX_S = 3_600.0
REPLY_BYTES_MAX = 1_048_576
REPORTS_MAX = 10_000
"""Rejected events that wait for `on_rejected`. Beyond it the oldest are only counted."""
WARN_S = 60.0
"""The same trouble with the queue is logged at most so often."""
CREATE_ATTEMPTS = 3
DROPPED = frozenset({400, 401, 403, 404, 413, 415, 422})
"""Statuses after which sending the same bytes again would change nothing. A 400 or 413 to a batch, and a 422 about its
size, are answered by halves of it."""
OPEN, SEALED = ".open", ".seg"

STEPS = {
    "open": "The segment is an empty file. It is deleted by the process that looks through the folder next.",
    "write": "The event is in the segment and will be counted. `track` has not returned.",
    "fsync": "It also survives a loss of power.",
    "rename": "The segment takes no more events. Any process may send it.",
    "send": "The daemon may have counted the events. They are sent again, as duplicates.",
    "unlink": "The segment is done.",
}
"""Each step of a segment with `fsync="always"`, in order: what holds if the process dies after it. A write that was cut
off has no end of line. Nobody sends it: `track` had not returned."""

Entity = Union[str, int, uuid.UUID]
OnRejected = Callable[[dict[str, Any], str], None]

_log = logging.getLogger("tallyd_client")
_dice = random.SystemRandom()
"""Forked processes would share the state of any other, and come back at the same moment."""


class Stats(NamedTuple):
    """What this client has seen since it was made, or since the process was forked. All are numbers of events.

    If no other process uses the folder: tracked + left over = accepted + duplicate + rejected + given_up + waiting.
    """

    tracked: int
    """`track` returned True."""
    refused: int
    """`track` returned False: the queue is full, the client is closed, or the event cannot be good."""
    unsaved: int
    """Of the tracked ones, those that are in memory only because the disk did not take them."""
    accepted: int
    """The daemon took them for the first time."""
    duplicate: int
    """The daemon knew them: an earlier reply was lost."""
    rejected: int
    """The daemon will never take them."""
    given_up: int
    """They were not answered before the daemon may forget their ids."""
    waiting: int
    """They are in the queue now, those of other processes with the same folder included."""


# The queue ------------------------------------------------------------------------------------------------------------


class _Segment:
    """Events of one batch. `path` and `fd`: of its file, which is locked; else it is in memory only."""

    __slots__ = ("created_ms", "events", "fd", "lines", "most", "path", "since", "size")

    def __init__(self, created_ms: int, path: Path | None = None, fd: int = -1) -> None:
        self.created_ms = created_ms
        self.since = time.monotonic()
        self.path = path
        self.fd = fd
        self.lines: list[bytes] = []
        """In memory: its events. Of a file: those that have to be sent, once it is taken."""
        self.events = self.size = 0
        self.most = BATCH_EVENTS_MAX
        """Events of the next request."""

    def is_full(self, more: int) -> bool:
        return (
            self.events >= BATCH_EVENTS_MAX
            or self.size + more > BATCH_BYTES_MAX
            or time.monotonic() - self.since > SEGMENT_AGE_MAX_S
        )

    def close(self) -> None:
        """Gives the lock up."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class _Queue:
    """The segments: one that takes events, one that is being sent, and those that wait.

    Every method may be called from any thread. `lock` is held while descriptors change hands, so that a fork finds each
    of them in its place.
    """

    def __init__(self, folder: Path | None, bytes_max: int, events_max: int, linger_s: float, *, fsync: bool) -> None:
        self.lock = threading.RLock()
        self.tracked = self.refused = self.unsaved = 0
        self._folder = folder
        self._bytes_max = bytes_max
        self._events_max = events_max
        self._linger_s = linger_s
        self._fsync = fsync
        self._open: _Segment | None = None
        self._hand: _Segment | None = None
        self._memory: deque[_Segment] = deque()
        self._ready: deque[Path] = deque()
        self._others = (0, 0)
        """Events and bytes of all segments but the open one, as they were when it was made."""
        self._looked = self._scanned = float("-inf")
        self._stuck: set[Path] = set()
        """Files that cannot be read, or are done and cannot be deleted. Only another process looks at them again."""
        self._said_at: dict[str, float] = {}
        self._unsaid: list[str] = []
        self.closed = False
        """It takes no more events."""
        self._left = False

    def refuse(self) -> None:
        with self.lock:
            self.refused += 1

    def append(self, line: bytes) -> tuple[bool, bool]:
        """Whether a line was taken, and whether the sender should look: a segment has begun, or is full."""
        with self.lock:
            if self.closed:
                self.refused += 1
                self._say("Events are refused: the client is closed.")
                return False, False
            segment = self._open
            if segment is not None and segment.is_full(len(line)):
                self._seal(segment).close()
                segment = None
            begun = segment is None
            if segment is None:
                self._others, self._looked = self._count_others(), time.monotonic()
            if not self._has_room(segment, len(line)):
                self.refused += 1
                self._say("Events are refused: the queue is full.")
                return False, False
            if segment is None:
                segment = self._open = self._create()
            if segment.path is not None and not self._write(segment, line):
                self._seal(segment).close()
                segment = self._open = _Segment(_now_ms())
            if segment.path is None:
                segment.lines.append(line[:-1])
                self.unsaved += self._folder is not None
            segment.events += 1
            segment.size += len(line)
            self.tracked += 1
            return True, begun or segment.is_full(0)

    def take(self, *, flush: bool) -> _Segment | None:
        """A segment to send, with its lines and its lock, until `done` or `leave`. `flush`: also one that lingers."""
        with self.lock:
            if self._hand is None and not self._left:
                self._hand = self._next(flush=flush)
            return self._hand

    def ripe_in_s(self) -> float | None:
        """When `take` has the open segment; None without one."""
        with self.lock:
            return None if self._open is None else max(0.0, self._linger_s - (time.monotonic() - self._open.since))

    def done(self) -> None:
        """Deletes the segment that was taken: each of its events has its answer."""
        with self.lock:
            segment, self._hand = self._hand, None
            if segment is None:
                return
            if segment.path is not None:
                self._delete(segment.path)
            segment.close()

    def leave(self) -> list[bytes]:
        """The end: gives up all locks, and the files are for others. Returns the events that are in memory only."""
        with self.lock:
            self._left = True
            if self._open is not None:
                self._seal(self._open).close()
            lost = [line for segment in self._in_memory() for line in segment.lines]
            self.forget()
            return lost

    def forget(self) -> None:
        """Closes this process' descriptors, and touches no file. A lock that another process has stays with it."""
        for segment in (self._open, self._hand):
            if segment is not None:
                segment.close()
        self._open = self._hand = None
        self._memory.clear()

    def log(self) -> None:
        """Without the lock: a handler of the application may wait for a thread that tracks, or track itself."""
        with self.lock:
            unsaid, self._unsaid = self._unsaid, []
        for text in unsaid:
            _log.warning(text)

    def waiting(self) -> int:
        with self.lock:
            return self._count_others()[0] + (self._open.events if self._open is not None else 0)

    # With the lock held -------------------------------------------------------------------------------------------

    def _has_room(self, segment: _Segment | None, more: int) -> bool:
        events, size = (0, 0) if segment is None else (segment.events, segment.size)

        def fits() -> bool:
            return self._others[0] + events < self._events_max and self._others[1] + size + more <= self._bytes_max

        if not fits() and time.monotonic() - self._looked > RESCAN_S:
            self._others, self._looked = self._count_others(), time.monotonic()
        return fits()

    def _in_memory(self) -> list[_Segment]:
        return [*([self._hand] if self._hand is not None and self._hand.path is None else []), *self._memory]

    def _count_others(self) -> tuple[int, int]:
        events = size = 0
        for segment in self._in_memory():
            events += segment.events
            size += segment.size
        for name in self._list(SEALED):
            numbers = name[: -len(SEALED)].split("-")[2:]
            if len(numbers) == 2 and all(number.isdigit() for number in numbers):
                events += int(numbers[0])
                size += int(numbers[1])
        return events, size

    def _list(self, suffix: str) -> list[str]:
        """Names, oldest first."""
        if self._folder is None:
            return []
        try:
            names = os.listdir(self._folder)  # noqa: PTH208  (a Path for each name takes ten times as long)
        except OSError as error:
            self._say("The queue's folder cannot be read", error)
            return []
        return sorted(name for name in names if name.endswith(suffix))

    def _create(self) -> _Segment:
        """A segment in a file, or in memory if the disk does not take one."""
        created_ms = _now_ms()
        for _ in range(CREATE_ATTEMPTS):
            if self._folder is None:
                break
            path = self._folder / f"{created_ms:013d}-{uuid.uuid4().hex[:16]}{OPEN}"
            fd = -1
            try:
                fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
                locked = _lock(fd, path)  # else another process looked through the folder, and deletes it as empty
                if locked and self._fsync:
                    self._sync_folder()
                if locked:
                    return _Segment(created_ms, path, fd)
            except OSError as error:
                self._say("Events are kept in memory: the queue's folder takes no segment", error)
            if fd >= 0:
                self._delete(path)
                os.close(fd)
        return _Segment(created_ms)

    def _write(self, segment: _Segment, line: bytes) -> bool:
        problem = "the disk is full"
        try:
            if os.write(segment.fd, line) == len(line):
                if self._fsync:
                    os.fsync(segment.fd)
                return True
        except OSError as error:
            problem = str(error)
        self._say("Events are kept in memory: a segment cannot be written", problem)
        with contextlib.suppress(OSError):  # a line without its end is left out when it is read
            os.ftruncate(segment.fd, segment.size)
        return False

    def _seal(self, segment: _Segment) -> _Segment:
        """The open segment takes no more events. Its lock stays, until the caller closes it."""
        self._open = None
        if segment.path is None:
            self._memory.append(segment)
        elif not segment.events:
            self._delete(segment.path)
        else:
            name = f"{segment.path.stem}-{segment.events}-{segment.size}{SEALED}"
            sealed = segment.path.with_name(name)
            try:
                segment.path.rename(sealed)
            except OSError as error:  # it is found as if its process had died
                self._say("A segment cannot be renamed", error)
            else:
                segment.path = sealed
                self._ready.append(sealed)
        return segment

    def _next(self, *, flush: bool) -> _Segment | None:
        if self._folder is not None:
            if not self._ready:
                self._ready.extend(self._folder / name for name in self._list(SEALED))
            if time.monotonic() - self._scanned > SCAN_S:
                self._scanned = time.monotonic()
                self._ready.extendleft(self._folder / name for name in self._list(OPEN))
        while self._ready:
            path = self._ready.popleft()
            segment = None if path in self._stuck else self._take_file(path)
            if segment is not None:
                return segment
        if self._memory:
            return self._memory.popleft()
        segment = self._open
        if segment is None or not (flush or segment.is_full(0) or not self.ripe_in_s()):
            return None
        self._seal(segment)
        if segment.path is None:
            return self._memory.pop()
        if self._ready and self._ready[-1] == segment.path:
            self._ready.pop()
        return self._read(segment)

    def _take_file(self, path: Path) -> _Segment | None:
        """A segment of which no live process has the lock; None if there is none, or nothing in it."""
        fd = -1
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            if _lock(fd, path):
                first = path.name.partition("-")[0]
                created_ms = int(first) if first.isdigit() else int(os.fstat(fd).st_mtime * 1000)
                return self._read(_Segment(created_ms, path, fd))
        except FileNotFoundError:
            return None
        except OSError as error:
            self._set_aside("A segment cannot be opened", path, error)
        if fd >= 0:
            os.close(fd)
        return None

    def _read(self, segment: _Segment) -> _Segment | None:
        assert segment.path is not None
        try:
            with os.fdopen(segment.fd, "rb", closefd=False) as file:
                file.seek(0)
                data = file.read()
        except OSError as error:
            self._set_aside("A segment cannot be read", segment.path, error)
            segment.close()
            return None
        segment.lines = [line for line in data.split(b"\n")[:-1] if line.strip()]
        if segment.lines:
            return segment
        self._delete(segment.path)
        segment.close()
        return None

    def _delete(self, path: Path) -> None:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            self._set_aside("A segment that is done cannot be deleted", path, error)

    def _set_aside(self, what: str, path: Path, error: OSError) -> None:
        self._stuck.add(path)
        self._say(what, error)

    def _say(self, what: str, error: object = None) -> None:
        """Keeps it for `log`, but not all the time."""
        if time.monotonic() - self._said_at.get(what, float("-inf")) > WARN_S:
            self._said_at[what] = time.monotonic()
            self._unsaid.append(what if error is None else f"{what}: {error}")

    def _sync_folder(self) -> None:
        fd = os.open(str(self._folder), os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def _lock(fd: int, path: Path) -> bool:
    """Whether the lock is this process', and the file is still at that path."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        there, ours = path.stat(), os.fstat(fd)
    except (BlockingIOError, FileNotFoundError):
        return False
    return (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)


def _now_ms() -> int:
    return int(time.time() * 1000)


# The wire -------------------------------------------------------------------------------------------------------------


class _Reply(NamedTuple):
    status: int
    retry_after_s: float
    body: dict[str, Any]
    """Empty if it was no JSON object."""


class _Transport:
    """One connection to the daemon, kept open. `post` is called by one thread at a time, `abort` by any."""

    def __init__(
        self, url: str, key: str | None, timeout_s: float, context: ssl.SSLContext | None, *, sign: bool
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or not _is_plain(url):
            raise ValueError(f"not the URL of a daemon: {url!r}")
        if key and not _is_plain(key):
            raise ValueError("not a key")
        if sign and not key:
            raise ValueError("a signature needs a key")
        self._path = (parts.path.rstrip("/") or EVENTS) + "/batch"
        self._key, self._sign = key, sign
        self.timeout_s = timeout_s
        self.ended = False
        """`abort` was called."""
        self._connection = (
            http.client.HTTPSConnection(parts.hostname, parts.port, context=context or ssl.create_default_context())
            if parts.scheme == "https"
            else http.client.HTTPConnection(parts.hostname, parts.port)
        )

    def post(self, body: bytes, timeout_s: float) -> _Reply | None:
        """The answer; None if there was none, and then nobody knows whether the events were counted."""
        connection = self._connection
        while not self.ended:
            reused = connection.sock is not None
            connection.timeout = timeout_s
            if reused:
                connection.sock.settimeout(timeout_s)
            try:
                connection.request("POST", self._path, body, self._headers(body))
                response = connection.getresponse()
                text = response.read(REPLY_BYTES_MAX)
                reply = _Reply(response.status, _retry_after_s(response.getheader("Retry-After")), _object(text))
            except (OSError, http.client.HTTPException) as error:
                self.close()
                if not (reused and isinstance(error, (ConnectionResetError, BrokenPipeError))):
                    _log.info("No answer from %s: %r", connection.host, error)
                    return None
                # The server had closed the connection meanwhile. A second delivery would count nothing.
            else:
                if not response.isclosed():  # there is more of it than anybody needs
                    self.close()
                return reply
        return None

    def close(self) -> None:
        self._connection.close()

    def abort(self) -> None:
        """Ends a `post` that is under way, and all later ones."""
        self.ended = True
        sock = self._connection.sock
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.shutdown(SHUT_RDWR)

    def _headers(self, body: bytes) -> dict[str, str]:
        headers = {"Content-Type": "application/x-ndjson", "User-Agent": f"tallyd-client-python/{__version__}"}
        if self._key and self._sign:
            at = str(int(time.time()))
            made = hmac.new(self._key.encode(), f"{at}.{self._path}.".encode() + body, hashlib.sha256).hexdigest()
            headers["X-Tallyd-Signature"] = f"key={self._key.partition('.')[0]},t={at},v1={made}"
        elif self._key:
            headers["X-Tallyd-Key"] = self._key
        return headers


def _is_plain(text: str) -> bool:
    """Whether it may stand in the head of a request."""
    return text.isascii() and text.isprintable() and " " not in text


def _retry_after_s(text: str | None) -> float:
    """0 without the header, or with one that cannot be read."""
    if not text:
        return 0.0
    try:
        seconds = float(text) if text.isdigit() else email.utils.parsedate_to_datetime(text).timestamp() - time.time()
    except (TypeError, ValueError, OverflowError):
        return 0.0
    return min(max(seconds, 0.0), RETRY_AFTER_MAX_S)


def _object(text: bytes) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


# The sender -----------------------------------------------------------------------------------------------------------


class _Sender:
    """Sends segments, one request at a time. `step` is called by one thread at a time."""

    def __init__(self, queue: _Queue, transport: _Transport, max_age_s: float) -> None:
        self.accepted = self.duplicate = self.rejected = self.given_up = 0
        self.reports: deque[tuple[dict[str, Any], str]] = deque(maxlen=REPORTS_MAX)
        self._queue = queue
        self._transport = transport
        self._max_age_s = max_age_s
        self._failures = 0
        self._not_before = 0.0

    def step(self, *, flush: bool, timeout_s: float) -> float | None:
        """Sends one request, if there is something to send and it is time. Returns when to call again, in seconds; None
        if the queue is empty. `flush`: nothing lingers."""
        wait_s = self._not_before - time.monotonic()
        if wait_s > 0:
            return wait_s
        segment = self._queue.take(flush=flush)
        if segment is None:
            return self._queue.ripe_in_s()
        if abs(_now_ms() - segment.created_ms) >= self._max_age_s * 1000:  # the clock may have been ahead
            self.give_up(segment.lines, "the daemon may have forgotten its id")
            segment.lines = []
        else:
            chunk = _first(segment)
            reply = self._transport.post(b"".join(line + b"\n" for line in chunk), timeout_s)
            again = self._settle(segment, chunk, reply)
            segment.lines = again + segment.lines[len(chunk) :]
        if not segment.lines:
            self._queue.done()
        return max(0.0, self._not_before - time.monotonic())

    def give_up(self, lines: list[bytes], why: str) -> None:
        self.given_up += len(lines)
        self._report([(line, f"given up: {why}") for line in lines])

    def _settle(self, segment: _Segment, chunk: list[bytes], reply: _Reply | None) -> list[bytes]:
        """Books the answer. Returns the events that have to be sent again."""
        if reply is not None and 200 <= reply.status < 300 and reply.body.get("status") == "accepted":
            if self._failures:
                _log.warning("The daemon takes events again.")
            self._failures = 0
            return self._taken(chunk, reply)
        if reply is None or reply.status not in DROPPED:
            backoff_s = _dice.uniform(0, min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2 ** min(self._failures, 20)))
            self._failures += 1
            self._wait(max(backoff_s, 0.0 if reply is None else reply.retry_after_s))
            level = logging.WARNING if self._failures == 1 else logging.INFO
            _log.log(level, "Events wait: %s.", "no answer" if reply is None else f"status {reply.status}")
            return chunk
        self._failures = 0
        errors = reply.body.get("errors")
        errors = errors if isinstance(errors, dict) else {}
        if len(chunk) > 1 and (reply.status in (400, 413) or "events" in errors):
            segment.most = len(chunk) // 2
            return chunk
        self.rejected += len(chunk)
        message = reply.body.get("message", "")
        refused = []
        for index, line in enumerate(chunk):
            said = {name: text for name, text in errors.items() if name.startswith(f"events.{index}.")}
            refused.append((line, f"{reply.status}: {json.dumps(said) if said else message}"))
        self._report(refused)
        return []

    def _taken(self, chunk: list[bytes], reply: _Reply) -> list[bytes]:
        """The same of a 2xx: some events may be refused, and the last ones may be above the sender's limit."""
        listed = {
            each["index"]: f"{reply.status}: {json.dumps(each.get('errors'))}"
            for each in _list(reply.body.get("rejected"))
            if isinstance(each, dict) and isinstance(each.get("index"), int) and 0 <= each["index"] < len(chunk)
        }
        self._report([(chunk[index], reason) for index, reason in listed.items()])
        others = [line for index, line in enumerate(chunk) if index not in listed]
        more, limited = _count(reply.body.get("rejected_more")), _count(reply.body.get("limited"))
        again: list[bytes] = []
        if limited:
            # Refused events that are not listed may stand among the last ones: these go again with them, and the
            # daemon lists them then, or knows them.
            again = others[max(0, len(others) - limited - more) :]
            more = 0
            self._wait(reply.retry_after_s or 1.0)
        elif more:
            _log.warning("%d more events are not counted. The daemon does not list them.", more)
        self.rejected += len(listed) + more
        duplicate = min(_count(reply.body.get("duplicates")), len(others) - len(again) - more)
        self.duplicate += duplicate
        self.accepted += len(others) - len(again) - more - duplicate
        return again

    def _wait(self, seconds: float) -> None:
        self._not_before = time.monotonic() + seconds

    def _report(self, lost: list[tuple[bytes, str]]) -> None:
        """Logs the first event with its reason, and keeps all of them for `on_rejected`."""
        for at, (line, reason) in enumerate(lost):
            text = line.decode(errors="replace")
            if not at:
                _log.warning("%d events are not counted. The first one: %s. %s", len(lost), reason, text)
            self.reports.append((_object(line) or {"line": text}, reason))


def _first(segment: _Segment) -> list[bytes]:
    """What goes into the next request. A file that this module did not write may be larger than a batch."""
    chunk: list[bytes] = []
    size = 0
    for line in segment.lines[: segment.most]:
        size += len(line) + 1
        if chunk and size > BATCH_BYTES_MAX:
            break
        chunk.append(line)
    return chunk


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _count(value: object) -> int:
    return value if isinstance(value, int) and value > 0 else 0


# The clients ----------------------------------------------------------------------------------------------------------

_clients: weakref.WeakSet[_Base] = weakref.WeakSet()
_forking = threading.Lock()
_at_fork: list[_Base] = []
"""Those whose queues are locked by the fork that is under way."""


def _before_fork() -> None:
    _forking.acquire()
    _at_fork[:] = _clients
    for client in _at_fork:
        client._queue.lock.acquire()


def _after_fork_in_parent() -> None:
    for client in _at_fork:
        client._queue.lock.release()
    _at_fork.clear()
    _forking.release()


def _after_fork_in_child() -> None:
    global _forking  # noqa: PLW0603  (it may be locked for ever here)
    _forking = threading.Lock()
    _at_fork.clear()
    for client in list(_clients):
        client._forked()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)


class _Base:
    """All of a client but who calls the sender."""

    def __init__(
        self,
        url: str,
        *,
        queue: str | os.PathLike[str] | None,
        domain: str | None = None,
        key: str | None = None,
        sign: bool = False,
        fsync: str = "never",
        queue_bytes_max: int = 67_108_864,
        queue_events_max: int = 100_000,
        linger_s: float = 0.25,
        timeout_s: float = 10.0,
        max_age_s: float = 86_400.0,
        exit_timeout_s: float = 5.0,
        on_rejected: OnRejected | None = None,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        """Raises ValueError for a URL that is none, and OSError if the folder cannot be made or written to.

        `url`: of the daemon, or of its single events if it has a path. `queue`: a folder on a local disk, for this
        daemon alone; None: events are kept in memory. `domain`: of events without one. `key`: of a producer; `sign`:
        it signs each request instead of being sent. `fsync`: "always": `track` returns once the event is on the disk;
        "never": once the kernel has it. `queue_bytes_max`, `queue_events_max`: of the folder, or of the memory; a
        folder may hold one more segment for each process. `linger_s`: how long an event waits for others. `timeout_s`:
        of each wait for the daemon. `max_age_s`: events are given up then; at most half of the daemon's
        `dedupe.window_s`. `exit_timeout_s`: how long the end of the process may wait for the daemon. `on_rejected`: is
        called with each event that will never be counted, and the reason, by the thread or in the loop that sends.
        """
        if fsync not in ("never", "always"):
            raise ValueError('fsync is "never" or "always"')
        self._domain = domain
        self._exit_timeout_s = exit_timeout_s
        self._on_rejected = on_rejected
        folder = None if queue is None else Path(queue).absolute()
        if folder is not None:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))

        def make() -> tuple[_Queue, _Sender, _Transport]:
            made = _Queue(folder, queue_bytes_max, queue_events_max, linger_s, fsync=fsync == "always")
            transport = _Transport(url, key, timeout_s, ssl_context, sign=sign)
            return made, _Sender(made, transport, max_age_s), transport

        self._make = make
        self._reset()
        _clients.add(self)
        atexit.register(self._at_exit)

    def track(
        self,
        action: str,
        entity_type: str,
        entity_id: Entity,
        *,
        domain: str | None = None,
        value: int = 1,
        event_id: str | None = None,
        occurred_at: dt.datetime | str | None = None,
    ) -> bool:
        """Takes an event into the queue, and returns at once. Never raises. May be called from any thread.

        True: it will be sent, by another process if this one dies. False: it was refused, and is counted as such.
        `event_id`: one that your application has for it, such as an order's. Without it the event gets a random one.
        `occurred_at`: with an offset. Without it, now.
        """
        try:
            event = {
                "event_id": uuid.uuid4().hex if event_id is None else event_id,
                "domain": self._domain if domain is None else domain,
                "entity_type": entity_type,
                "entity_id": entity_id,
                "action": action,
                "value": value,
                "occurred_at": dt.datetime.now(dt.timezone.utc) if occurred_at is None else occurred_at,
            }
            problem = _problem(event)
            if problem:
                self._queue.refuse()
                _log.warning("An event is refused: %s.", problem)
                self._sender.reports.append((event, problem))
                return False
            line = json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
            taken, look = self._queue.append(line)
        except Exception:  # the application's own work must not end because of a count
            self._queue.refuse()
            _log.exception("An event is refused.")
            return False
        try:
            if look:
                self._look()
            self._queue.log()
        except Exception:
            _log.exception("The sender was not woken.")
        return taken

    def stats(self) -> Stats:
        sender = self._sender
        return Stats(
            tracked=self._queue.tracked,
            refused=self._queue.refused,
            unsaved=self._queue.unsaved,
            accepted=sender.accepted,
            duplicate=sender.duplicate,
            rejected=sender.rejected,
            given_up=sender.given_up,
            waiting=self._queue.waiting(),
        )

    def _look(self) -> None:
        """Wakes the sender: there is something to do, perhaps after a while."""
        raise NotImplementedError

    def _at_exit(self) -> None:
        raise NotImplementedError

    def _reset(self) -> None:
        self._queue, self._sender, self._transport = self._make()
        self._until: float | None = None
        """By then (monotonic) the queue has to be empty, or is left as it is."""
        self._drained = False

    def _forked(self) -> None:
        """In the child: what the parent has in hand is the parent's, and so are its locks."""
        queue, transport = self._queue, self._transport
        self._reset()
        self._queue.closed = queue.closed
        queue.forget()
        transport.close()

    def _turn(self) -> float | None:
        """One step of the sender. Returns when to take the next one, in seconds; None: this was the last."""
        until, timeout_s = self._until, self._transport.timeout_s
        if until is not None:
            timeout_s = max(0.01, min(timeout_s, until - time.monotonic()))
        try:
            delay_s = self._sender.step(flush=until is not None, timeout_s=timeout_s)
        except Exception:  # a sender that ends would keep all events for ever
            _log.exception("A step of the sender failed.")
            delay_s = SCAN_S
        if until is None:
            return SCAN_S if delay_s is None else min(delay_s, SCAN_S)
        self._drained = delay_s is None
        return None if delay_s is None or time.monotonic() + delay_s > until else delay_s

    def _deliver(self) -> None:
        """Tells the application of trouble with the queue, and of the events that will not be counted."""
        self._queue.log()
        while True:
            try:
                event, reason = self._sender.reports.popleft()
            except IndexError:
                return
            if self._on_rejected is not None:
                try:
                    self._on_rejected(event, reason)
                except Exception:
                    _log.exception("on_rejected failed.")

    def _close_in(self, timeout_s: float | None) -> float:
        """`track` refuses from now on. Returns how long the sender still has."""
        self._queue.closed = True
        wait_s = self._exit_timeout_s if timeout_s is None else timeout_s
        self._until = time.monotonic() + wait_s
        return wait_s

    def _drain_here(self) -> None:
        while (delay_s := self._turn()) is not None:
            self._deliver()
            time.sleep(delay_s)
        self._deliver()

    def _let_go(self) -> bool:
        """The end: files stay for other processes."""
        atexit.unregister(self._at_exit)
        self._transport.abort()
        self._transport.close()
        lost = self._queue.leave()
        if lost:
            self._sender.give_up(lost, "it was in memory, and the client was closed")
        self._deliver()
        return self._drained and not lost


class Client(_Base):
    """Sends from a thread of its own. Closed at the end of its `with` block, or at the exit of the process.

    It may be made before a fork (gunicorn's preload): each child goes on with a queue and a thread of its own.
    """

    def __init__(self, url: str, *, queue: str | os.PathLike[str] | None, **options: Any) -> None:
        """The options are those of `_Base`."""
        super().__init__(url, queue=queue, **options)
        self._look()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self, timeout_s: float | None = None) -> bool:
        """Sends what waits, for at most so long; `exit_timeout_s` without it. `track` refuses events from now on.

        Returns whether all was sent. If not, it stays in the folder, for the next process; in memory, it is lost.
        """
        wait_s = self._close_in(timeout_s)
        thread = self._thread
        if thread is not None:
            self._wake.set()
            thread.join(wait_s)
            if thread.is_alive():
                self._transport.abort()
                thread.join(ABORT_S)
        elif self._queue.tracked:
            self._drain_here()
        return self._let_go()

    def _reset(self) -> None:
        super()._reset()
        self._wake = threading.Event()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None

    def _look(self) -> None:
        with self._starting:
            if self._thread is None or not self._thread.is_alive():
                thread = threading.Thread(target=self._run, name="tallyd_client", daemon=True)
                thread.start()
                self._thread = thread
        self._wake.set()

    def _run(self) -> None:
        while (delay_s := self._turn()) is not None:
            self._deliver()
            self._wake.wait(delay_s)
            self._wake.clear()
        self._deliver()

    def _at_exit(self) -> None:
        self.close()


class AsyncClient(_Base):
    """Sends from a task of the running loop, with a thread for what would block it. `track` is no coroutine.

    The task begins in `async with`, or with the first `track` in a loop. When it is cancelled, as at the end of
    `asyncio.run`, it sends what waits, for at most `exit_timeout_s`.
    """

    async def __aenter__(self) -> AsyncClient:
        self._look()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self, timeout_s: float | None = None) -> bool:
        """As of `Client`."""
        wait_s = self._close_in(timeout_s)
        self._look()
        if self._task is not None:
            late = asyncio.get_running_loop().call_later(wait_s, self._transport.abort)
            await asyncio.wait({self._task}, timeout=wait_s + ABORT_S)
            late.cancel()
        return self._let_go()

    def _reset(self) -> None:
        super()._reset()
        self._task: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake: asyncio.Event | None = None
        self._has_waited = False
        """The end of the last loop has waited for the daemon."""

    def _look(self) -> None:
        try:
            here: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        except RuntimeError:
            here = None
        if self._task is not None and not self._task.done() and self._loop is not None and self._wake is not None:
            if here is self._loop:
                self._wake.set()
            else:
                with contextlib.suppress(RuntimeError):  # that loop is closed
                    self._loop.call_soon_threadsafe(self._wake.set)
        elif here is not None:
            self._loop, self._wake = here, asyncio.Event()
            self._transport.ended = self._has_waited = False
            self._task = here.create_task(self._run(here, self._wake))

    async def _run(self, loop: asyncio.AbstractEventLoop, wake: asyncio.Event) -> None:
        executor = ThreadPoolExecutor(1, "tallyd_client")
        try:
            await self._send(loop, wake, executor)
        except asyncio.CancelledError:
            self._has_waited = True
            if self._until is None:
                self._until = time.monotonic() + self._exit_timeout_s
            late = loop.call_later(self._until - time.monotonic(), self._transport.abort)
            await self._send(loop, wake, executor)
            late.cancel()
            raise
        finally:
            executor.shutdown(wait=False)
            if not self._queue.closed:  # the next loop may go on
                self._until = None

    async def _send(self, loop: asyncio.AbstractEventLoop, wake: asyncio.Event, executor: ThreadPoolExecutor) -> None:
        while (delay_s := await loop.run_in_executor(executor, self._turn)) is not None:
            self._deliver()
            timer = loop.call_later(delay_s, wake.set)  # `wait_for` swallows a cancel, before Python 3.12
            try:
                await wake.wait()
            finally:
                timer.cancel()
            wake.clear()
        self._deliver()

    def _at_exit(self) -> None:
        """No loop runs any more. A task that was cancelled before it began has sent nothing."""
        self._close_in(None)
        if self._queue.tracked and not self._has_waited:
            self._transport.ended = False
            self._drain_here()
        self._let_go()


def _problem(event: dict[str, Any]) -> str | None:
    """What any daemon would refuse; None: nothing. Makes texts of the entity's id and the instant."""
    id_, at = event["entity_id"], event["occurred_at"]
    if isinstance(id_, (int, uuid.UUID)) and not isinstance(id_, bool):
        event["entity_id"] = str(id_)
    if isinstance(at, dt.datetime):
        if at.utcoffset() is None:
            return "occurred_at has no offset"
        text = at.astimezone(dt.timezone.utc).isoformat(timespec="milliseconds")
        event["occurred_at"] = text.replace("+00:00", "Z")
    for name in TEXTS:
        text = event[name]
        if not isinstance(text, str) or not 0 < len(text) <= TEXT_CHARS_MAX:
            return f"{name} is no text of 1 to {TEXT_CHARS_MAX} characters"
        try:
            text.encode()
        except UnicodeEncodeError:
            return f"{name} is no Unicode"
    value = event["value"]
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= VALUE_MAX:
        return f"value is no integer of 1 to {VALUE_MAX}"
    return None


# The command ----------------------------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Sends one event, or what a folder holds. Returns 0 if all was counted, else 1."""
    parser = argparse.ArgumentParser(
        prog="python -m tallyd_client",
        description="Sends one event to tallyd; without an event, what waits in a folder.",
        epilog="The key of a producer is read from TALLYD_KEY. The command prints what became of the events as JSON.",
    )
    parser.add_argument("event", nargs="*", metavar="ACTION TYPE ID", help="the event, such as: view movie 7")
    parser.add_argument("--url", required=True, help="of the daemon, such as http://127.0.0.1:8080")
    parser.add_argument("--queue", metavar="FOLDER", help="keeps what the daemon does not take within the time")
    parser.add_argument("--domain", help="of the event")
    parser.add_argument("--value", type=int, default=1, help="of the event (1)")
    parser.add_argument("--event-id", help="of the event; the same id is counted once (a random one)")
    parser.add_argument("--timeout", type=float, default=10.0, metavar="SECONDS", help="for all of it (10)")
    given = parser.parse_args(arguments)
    if len(given.event) not in (0, 3) or not (given.event or given.queue):
        parser.error("give an event (ACTION TYPE ID), or a folder to drain (--queue)")
    logging.basicConfig(format="%(message)s")
    key = os.environ.get("TALLYD_KEY")
    client = Client(given.url, queue=given.queue, domain=given.domain, key=key)
    if given.event:
        client.track(*given.event, value=given.value, event_id=given.event_id)
    drained = client.close(given.timeout)
    stats = client.stats()
    sys.stdout.write(json.dumps(stats._asdict()) + "\n")
    return 0 if drained and not (stats.refused or stats.rejected or stats.given_up) else 1


if __name__ == "__main__":
    sys.exit(main())
