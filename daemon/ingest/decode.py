"""Turns bodies into events. The handler and `tallyd import` call it; the catalogue decides which events are admitted.

The fast path decodes a whole body in one call of a msgspec decoder that was built once. If that fails, or the catalogue
refuses an event, the slow path decodes the events one by one. It keeps the good events of a batch. Of the refused ones
it explains the first; the others are only counted, so a batch of nothing but mistakes costs no more than a good one.

A large batch is decoded in slices, between which the caller lets others have their turn.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from enum import Enum
from functools import partial
from typing import Any, NamedTuple, TypeVar

import msgspec

from daemon.config import Config, domain_actions, effective_actions, hourly_domains, raw_counter, robot_counter
from daemon.domain import rejection
from daemon.domain.action import Action
from daemon.domain.admission import FIELDS, Catalogue
from daemon.domain.event import Event, EventIn
from daemon.domain.id_rule import id_rule
from daemon.domain.rejection import Rejection, say

EXPLAINED_MAX = 20
"""Refused events of a batch that are explained. The others are counted."""
SLICE_EVENTS = 250
"""Events between two pauses: 0.2 to 0.4 ms."""
VALUES_MAX = 32_000
"""JSON values in a batch that holds a wrong event. Taking apart more of them would hold the loop for too long."""
LINES_PER_EVENT_MAX = 4
"""The same of NDJSON: so many lines for each event that a batch may have, blank ones included."""

T = TypeVar("T")
Explain = Callable[[], Rejection]
"""Says why an event is refused: asked only of those that are listed."""
Slices = Generator[None, None, T]
"""Work that pauses between two slices, and returns its result in the end."""

_UNDECODABLE = (ValueError, RecursionError)
"""msgspec's own errors are ValueErrors; broken UTF-8 and deep nesting raise these bare."""

# Without the hook, a number like 1e400 is an error of the JSON and not of the field it stands in.
_raw_decode = msgspec.json.Decoder(float_hook=float).decode
_event_decode = msgspec.json.Decoder(EventIn).decode
_lines_decode = msgspec.json.Decoder(EventIn).decode_lines
_items_decode = msgspec.json.Decoder(list[msgspec.Raw]).decode
_check_json = msgspec.json.Decoder(msgspec.Raw).decode
"""Raises if a text is no JSON. Makes no object of it."""


class Unreadable(Enum):
    """Why a body holds no events at all."""

    NOT_JSON = "The body is not valid JSON."


class Batch(NamedTuple):
    """A decoded batch: the events to count, and the first refused ones by their index in the body."""

    events: list[Event]
    rejected: list[tuple[int, Rejection]]
    rejected_more: int = 0
    """Refused events that are not in the list."""

    @property
    def refused(self) -> int:
        """All refused events."""
        return len(self.rejected) + self.rejected_more


class _Envelope(msgspec.Struct, gc=False):
    events: list[EventIn]


class _RawEnvelope(msgspec.Struct, gc=False):
    events: msgspec.Raw = msgspec.Raw(b"null")


_list_decode = msgspec.json.Decoder(list[EventIn]).decode
_envelope_decode = msgspec.json.Decoder(_Envelope).decode
_raw_envelope_decode = msgspec.json.Decoder(_RawEnvelope).decode
_fields_decode = msgspec.json.Decoder(
    msgspec.defstruct("_Fields", [(name, msgspec.Raw, msgspec.Raw(b"")) for name in FIELDS])
).decode
"""The fields of an event, whatever they hold, and nothing else of it. A field that is not there is empty."""
_NUMBER = [b"-", *(b"%d" % digit for digit in range(10))]
_BEGINNINGS = tuple(
    {
        **dict.fromkeys(FIELDS, frozenset([b'"'])),
        "entity_id": frozenset([b'"', *_NUMBER]),
        "occurred_at": frozenset([b"", b"n", b'"']),
        "value": frozenset([b"", b"n", *_NUMBER]),
    }.items()
)
"""Of each field, how the JSON of a value may begin that is not of a wrong type."""


def build_catalogue(config: Config, *, any_age: bool = False, apart: bool = False) -> Catalogue:
    """`any_age`: however old events are, they are admitted. `apart`: they move the counters of robots."""
    built = {}
    for name, action in effective_actions(config).items():
        counters = {robot_counter(each) if apart else each: step for each, step in action.counters.items()}
        window_s = 0 if apart else action.visitor_window_s
        raw = {raw_counter(each): step for each, step in counters.items()} if window_s else {}
        built[name] = Action(name, action.value_min, action.value_max, counters, raw, window_s * 1000)
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
        hourly=hourly_domains(config),
        hourly_days=config.retention.hourly_days,
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
        try:
            found = self._slow(body, producer) if _is_utf8(body) else Unreadable.NOT_JSON
        except _UNDECODABLE:
            return Unreadable.NOT_JSON
        return found() if callable(found) else found

    def batch(self, body: bytes, producer: str = "") -> Batch | Rejection | Unreadable:
        """What `batch_in_slices` returns, without a pause."""
        return _without_pause(self.batch_in_slices(body, producer))

    def batch_in_slices(self, body: bytes, producer: str = "") -> Slices[Batch | Rejection | Unreadable]:
        """The events of a JSON array or of `{"events": [...]}`; a Rejection if the body is JSON of another shape."""
        if not _is_utf8(body):
            return Unreadable.NOT_JSON
        is_list = body.lstrip()[:1] == b"["
        try:
            decoded = _list_decode(body) if is_list else _envelope_decode(body).events
        except _UNDECODABLE:
            pass
        else:
            return self._wrong_size(len(decoded)) or (yield from self._admit_all(decoded, producer))
        yield
        try:
            found = body if is_list else bytes(_raw_envelope_decode(body).events)
        except _UNDECODABLE:
            found = b""
        try:
            if found[:1] != b"[" and not is_list:
                _check_json(body)
                return Rejection({"events": [say(rejection.NO_LIST, "events")]})
            if found.count(b",") >= VALUES_MAX:
                return Rejection({"events": [say(rejection.TOO_MANY_VALUES, "events", most=VALUES_MAX)]})
            yield
            items = _items_decode(found)
        except _UNDECODABLE:
            return Unreadable.NOT_JSON
        yield
        try:
            return self._wrong_size(len(items)) or (yield from self._judge_all(map(bytes, items), producer))
        except _UNDECODABLE:
            return Unreadable.NOT_JSON

    def lines(self, body: bytes, producer: str = "") -> Batch | Rejection:
        """What `lines_in_slices` returns, without a pause."""
        return _without_pause(self.lines_in_slices(body, producer))

    def lines_in_slices(self, body: bytes, producer: str = "") -> Slices[Batch | Rejection]:
        """The events of an NDJSON body. Blank lines are left out, and have no index."""
        if _is_utf8(body):
            try:
                decoded = _lines_decode(body)
            except _UNDECODABLE:
                pass
            else:
                return self._wrong_size(len(decoded)) or (yield from self._admit_all(decoded, producer))
        yield
        if body.count(b"\n") > LINES_PER_EVENT_MAX * self._batch_events_max:
            return self._too_many()
        lines = [line for line in body.split(b"\n") if not line.isspace() and line]
        return self._wrong_size(len(lines)) or (yield from self._judge_all(lines, producer, each_line=True))

    def admit(self, event: dict[str, Any]) -> Event | Rejection:
        """An event that did not come as JSON (a line of an access log), through the same checks."""
        found = self._plain(event)
        return found if isinstance(found, Event) else found()

    def _slow(self, item: bytes, producer: str) -> Event | Explain:
        """The verdict on one event, whatever it holds. Raises one of _UNDECODABLE if it is no JSON."""
        try:
            event = self._catalogue.admit(_event_decode(item), self._clock(), producer)
            if event is not None:
                return event
        except _UNDECODABLE:
            pass
        _check_json(item)
        try:
            fields = _fields_decode(item)
        except msgspec.ValidationError:  # it is no object
            return partial(self._catalogue.explain, None, 0.0)
        if _may_be_good(fields):
            return self._plain(_values(fields), producer)
        return lambda: self._catalogue.explain(_values(fields), self._clock(), producer)

    def _plain(self, raw: dict[str, Any], producer: str = "") -> Event | Explain:
        """The verdict on plain values."""
        now_s = self._clock()
        try:
            event = self._catalogue.admit(msgspec.convert(raw, EventIn), now_s, producer)
            if event is not None:
                return event
        except msgspec.ValidationError:
            pass
        return partial(self._catalogue.explain, raw, now_s, producer)

    def _admit_all(self, decoded: list[EventIn], producer: str) -> Slices[Batch]:
        now_s = self._clock()
        events: list[Event] = []
        rejected: list[tuple[int, Rejection]] = []
        more = 0
        for start in range(0, len(decoded), SLICE_EVENTS):
            if start:
                yield
            items = decoded[start : start + SLICE_EVENTS]
            admitted = self._catalogue.admit_all(items, now_s, producer)
            good = [event for event in admitted if event is not None]
            events += good
            if len(good) == len(items):
                continue
            for index, (item, event) in enumerate(zip(items, admitted, strict=True), start):
                if event is not None:
                    continue
                if len(rejected) < EXPLAINED_MAX:
                    rejected.append((index, self._catalogue.explain(msgspec.to_builtins(item), now_s, producer)))
                else:
                    more += 1
        return Batch(events, rejected, more)

    def _judge_all(self, items: Iterable[bytes], producer: str, *, each_line: bool = False) -> Slices[Batch]:
        """The slow path of a batch. Raises one of _UNDECODABLE if an item is no JSON; with `each_line` that line is
        refused."""
        events: list[Event] = []
        rejected: list[tuple[int, Rejection]] = []
        more = 0
        for index, item in enumerate(items):
            if index % SLICE_EVENTS == SLICE_EVENTS - 1:
                yield
            found: Event | Explain = _not_json
            try:
                if not each_line or _is_utf8(item):
                    found = self._slow(item, producer)
            except _UNDECODABLE:
                if not each_line:
                    raise
            if isinstance(found, Event):
                events.append(found)
            elif len(rejected) < EXPLAINED_MAX:
                rejected.append((index, found()))
            else:
                more += 1
        return Batch(events, rejected, more)

    def _wrong_size(self, count: int) -> Rejection | None:
        if count == 0:
            return Rejection({"events": [say(rejection.REQUIRED, "events")]})
        return self._too_many() if count > self._batch_events_max else None

    def _too_many(self) -> Rejection:
        return Rejection({"events": [say(rejection.TOO_MANY_ITEMS, "events", most=self._batch_events_max)]})


def _is_utf8(body: bytes) -> bool:
    """Whether the body is UTF-8. msgspec does not check the bytes of a field that it skips."""
    if body.isascii():
        return True
    try:
        body.decode()
    except UnicodeDecodeError:
        return False
    return True


def _may_be_good(fields: Any) -> bool:
    """Whether each field begins like a value that it may have. If not, the event is refused without a further look."""
    for name, beginnings in _BEGINNINGS:  # noqa: SIM110  (all() is 0.3 us slower, of 1.3)
        if bytes(getattr(fields, name))[:1] not in beginnings:
            return False
    return True


def _values(fields: Any) -> dict[str, Any]:
    """The fields of an event as plain values."""
    given = ((name, bytes(getattr(fields, name))) for name in FIELDS)
    return {name: _value(text) for name, text in given if text}


def _value(text: bytes) -> Any:
    """The value of a field. Of a list or an object only that it is one: no field may be such a thing."""
    if text[:1] in (b"[", b"{"):
        return [] if text[:1] == b"[" else {}
    try:
        return _raw_decode(text)
    except ValueError:  # a whole number of thousands of digits
        return float("inf")


def _not_json() -> Rejection:
    return Rejection({"event": [rejection.NO_JSON_LINE]})


def _without_pause(work: Slices[T]) -> T:
    try:
        while True:
            next(work)
    except StopIteration as end:
        result: T = end.value
        return result
