"""Turns bodies into events. The handler and `tallyd import` call it; the catalogue decides which events are admitted.

The fast path decodes a whole body in one call of a msgspec decoder that was built once. If that fails, or the catalogue
refuses an event, the slow path decodes plain JSON. It names every wrong field, and keeps the good events of a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import Enum
from typing import Any, NamedTuple

import msgspec

from daemon.config import Config, domain_actions, effective_actions
from daemon.domain import rejection
from daemon.domain.action import Action
from daemon.domain.admission import Catalogue
from daemon.domain.event import Event, EventIn
from daemon.domain.id_rule import id_rule
from daemon.domain.rejection import Rejection, say

_UNDECODABLE = (ValueError, RecursionError)
"""msgspec's own errors are ValueErrors; broken UTF-8 and deep nesting raise these bare."""

# Without the hook, a number like 1e400 is an error of the JSON and not of the field it stands in.
_raw_decode = msgspec.json.Decoder(float_hook=float).decode
_event_decode = msgspec.json.Decoder(EventIn).decode
_lines_decode = msgspec.json.Decoder(EventIn).decode_lines
_NOT_JSON = Rejection({"event": [rejection.NO_JSON_LINE]})


class Unreadable(Enum):
    """Why a body holds no events at all."""

    NOT_JSON = "The body is not valid JSON."


class Batch(NamedTuple):
    """A decoded batch: the events to count, and the others by their index in the body."""

    events: list[Event]
    rejected: list[tuple[int, Rejection]]


class _Envelope(msgspec.Struct, gc=False):
    events: list[EventIn]


_list_decode = msgspec.json.Decoder(list[EventIn]).decode
_envelope_decode = msgspec.json.Decoder(_Envelope).decode


def build_catalogue(config: Config, *, any_age: bool = False) -> Catalogue:
    """`any_age`: however old events are, they are admitted."""
    actions = effective_actions(config)
    built = {
        name: Action(name, action.value_min, action.value_max, action.counters) for name, action in actions.items()
    }
    return Catalogue(
        {
            domain: (section.entity_types, {name: built[name] for name in domain_actions(config, domain)})
            for domain, section in config.domains.items()
        },
        {
            (domain, kind): id_rule(rule)
            for domain, section in config.domains.items()
            for kind, rule in section.entity_id.items()
        },
        future_max_s=config.ingest.future_max_s,
        max_age_s=0 if any_age else config.ingest.max_age_s,
        producers_max_age_s=0 if any_age else config.producers.max_age_s,
    )


class Decoder:
    """Turns bodies into events. No input raises. `producer`: whose key came with a body; "" without one."""

    def __init__(self, catalogue: Catalogue, *, batch_events_max: int, clock: Callable[[], float]) -> None:
        """`clock` returns seconds since the epoch."""
        self._catalogue = catalogue
        self._batch_events_max = batch_events_max
        self._clock = clock

    def good(self, body: bytes, producer: str = "") -> Event | None:
        """The event of a body that holds one good event; else None, and `single` says why."""
        if not _is_utf8(body):
            return None
        try:
            return self._catalogue.admit(_event_decode(body), self._clock(), producer)
        except _UNDECODABLE:
            return None

    def single(self, body: bytes, producer: str = "") -> Event | Rejection | Unreadable:
        """The event of a body that holds one; or why it holds none."""
        event = self.good(body, producer)
        if event is not None:
            return event
        now_s = self._clock()
        if not _is_utf8(body):
            return Unreadable.NOT_JSON
        try:
            return self._slow(_raw_decode(body), now_s, producer)
        except _UNDECODABLE:
            return Unreadable.NOT_JSON

    def batch(self, body: bytes, producer: str = "") -> Batch | Rejection | Unreadable:
        """The events of a JSON array or of `{"events": [...]}`; a Rejection if the body is JSON of another shape."""
        now_s = self._clock()
        if not _is_utf8(body):
            return Unreadable.NOT_JSON
        try:
            decoded = _list_decode(body) if body.lstrip()[:1] == b"[" else _envelope_decode(body).events
            if (refused := self._wrong_size(len(decoded))) is not None:
                return refused
            return self._admit_all(decoded, now_s, producer)
        except _UNDECODABLE:
            pass
        try:
            raw = _raw_decode(body)
        except _UNDECODABLE:
            return Unreadable.NOT_JSON
        items = raw.get("events") if isinstance(raw, dict) else raw
        if not isinstance(items, list):
            return Rejection({"events": [say(rejection.NO_LIST, "events")]})
        return self._wrong_size(len(items)) or self._classify(items, now_s, producer)

    def lines(self, body: bytes, producer: str = "") -> Batch | Rejection:
        """The events of an NDJSON body. Blank lines are left out, and have no index."""
        now_s = self._clock()
        if _is_utf8(body):
            try:
                decoded = _lines_decode(body)
                return self._wrong_size(len(decoded)) or self._admit_all(decoded, now_s, producer)
            except _UNDECODABLE:
                pass
        lines = [line for line in body.split(b"\n") if not line.isspace() and line]
        return self._wrong_size(len(lines)) or self._classify(map(_raw_line, lines), now_s, producer)

    def admit(self, event: dict[str, Any]) -> Event | Rejection:
        """An event that did not come as JSON (a line of an access log), through the same checks."""
        return self._slow(event, self._clock())

    def _slow(self, raw: Any, now_s: float, producer: str = "") -> Event | Rejection:
        """An event from plain JSON: the same verdict as on the fast path, with the reasons."""
        try:
            event = self._catalogue.admit(msgspec.convert(raw, EventIn), now_s, producer)
            if event is not None:
                return event
        except msgspec.ValidationError:
            pass
        return self._catalogue.explain(raw, now_s, producer)

    def _admit_all(self, decoded: list[EventIn], now_s: float, producer: str) -> Batch:
        admit = self._catalogue.admit
        events: list[Event] = []
        rejected: list[tuple[int, Rejection]] = []
        for index, item in enumerate(decoded):
            event = admit(item, now_s, producer)
            if event is None:
                rejected.append((index, self._catalogue.explain(msgspec.to_builtins(item), now_s, producer)))
            else:
                events.append(event)
        return Batch(events, rejected)

    def _classify(self, items: Iterable[Any], now_s: float, producer: str) -> Batch:
        batch = Batch([], [])
        for index, item in enumerate(items):
            found = _NOT_JSON if item is Unreadable.NOT_JSON else self._slow(item, now_s, producer)
            if isinstance(found, Event):
                batch.events.append(found)
            else:
                batch.rejected.append((index, found))
        return batch

    def _wrong_size(self, count: int) -> Rejection | None:
        if count == 0:
            return Rejection({"events": [say(rejection.REQUIRED, "events")]})
        if count > self._batch_events_max:
            return Rejection({"events": [say(rejection.TOO_MANY_ITEMS, "events", most=self._batch_events_max)]})
        return None


def _is_utf8(body: bytes) -> bool:
    """Whether the body is UTF-8. msgspec does not check the bytes of a field that it skips."""
    if body.isascii():
        return True
    try:
        body.decode()
    except UnicodeDecodeError:
        return False
    return True


def _raw_line(line: bytes) -> Any:
    try:
        return _raw_decode(line)
    except _UNDECODABLE:
        return Unreadable.NOT_JSON
