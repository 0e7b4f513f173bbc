"""What each sender may put into the spool while Redis is away: its events by its limit, its bytes by a share.

`durable.py` asks it for each request that it would spool. While Redis takes events nothing here is used or changed. The
formula is that of `ingest.lua`, and the answers are the same outcomes. Each worker keeps its own numbers, so several
workers let through several times the limit of events. Limits of new entities wait for Redis.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

from daemon.buffer.outcome import Counted, Failed, Limited
from daemon.buffer.wire import Request
from daemon.config import SpoolSection
from daemon.domain.event import Event
from daemon.ingest.accounts import MINUTE_S, is_producer, make_room

SENDERS_MAX = 65_536
"""Senders of one outage that a worker remembers. The one that came first is forgotten first."""
EVENT_BYTES = 8
"""What a record holds of an event besides its id and its entity."""


class _Sender:
    """`until`: when its budget is whole again. `spooled_bytes`: what it has put into the spool."""

    __slots__ = ("spooled_bytes", "until")

    def __init__(self) -> None:
        self.until = 0.0
        self.spooled_bytes = 0


class Outage:
    """Of one worker."""

    def __init__(self, section: SpoolSection, workers: int, clock: Callable[[], float] = time.monotonic) -> None:
        """`workers`: how many share the spool. `clock` returns seconds and never goes back."""
        self._share_bytes = section.bytes_max * section.address_percent_max // 100 // workers
        self._clock = clock
        self._senders: dict[str, _Sender] = {}

    def clear(self) -> None:
        """The outage is over, and the spool is empty."""
        self._senders.clear()

    def take(self, request: Request) -> Counted | Limited | Failed:
        """How many events of a request may be spooled, as new ones: the first, up to `limited`."""
        sender = self._sender(request.sender)
        n, charge, missing, left_ms, room = len(request.events), request.charge, 0, 0, 0
        per_minute = request.limit.events_per_minute if request.limit is not None else 0
        if per_minute:
            now = self._clock()
            spent_s = max(0.0, sender.until - now)
            room = int((MINUTE_S - spent_s) * per_minute / MINUTE_S + 1e-4)
            missing = max(0, n - room)
            spent = min(charge - missing, room)
            if not n:
                missing = charge - spent
            room -= spent
            spent_s = min(spent_s + spent * MINUTE_S / per_minute, MINUTE_S)
            left_ms = max(1, math.ceil((MINUTE_S / per_minute - MINUTE_S + spent_s) * 1000))
            sender.until = now + spent_s
            if missing and missing == (n or charge):
                return Limited(left_ms)
        if n and not is_producer(request.sender):
            sender.spooled_bytes += (size := _bytes(request.events[: n - missing]))
            if sender.spooled_bytes > self._share_bytes:
                sender.spooled_bytes -= size
                return Failed("The sender has used up its share of the spool.", "spool")
        return Counted(max(0, n - missing), missing, left_ms, room) if missing else Counted(n, room=room)

    def give_back(self, request: Request, taken: int) -> None:
        """The spool did not take these events: they are none of their sender's share."""
        if not is_producer(request.sender):
            self._sender(request.sender).spooled_bytes -= _bytes(request.events[:taken])

    def _sender(self, name: str) -> _Sender:
        found = self._senders.get(name)
        if found is None:
            make_room(self._senders, SENDERS_MAX)
            found = self._senders[name] = _Sender()
        return found


def _bytes(events: Sequence[Event]) -> int:
    """About what these events take in the spool."""
    return sum(len(event.event_id.encode()) + len(event.entity.encode()) + EVENT_BYTES for event in events)
