"""The requests of a scenario, built cheaply: one template, ready-made instants, bytes joined.

A parcel knows how it must be answered and what it adds when it is. Wrong ones are good ones with something spoilt, by
the list `SPOILT`.
"""

from __future__ import annotations

import datetime as dt
import json
import random
import secrets
from collections import deque
from collections.abc import Iterator
from typing import Any, NamedTuple

from loadtest.scenarios import Scenario
from loadtest.tally import DOMAIN, ENTITY_TYPE, Counted, uuid_of
from tests.kit.events import BATCH, EVENTS

JSON = "application/json"
EVENT_BYTES_MAX = 65_536
"""The default of `http.event_bytes_max`."""
RECENT = 2_000
"""Accepted parcels remembered, to repeat some of them."""
INSTANTS = 500
DAYS = 7
SPOILT_BATCH_EVENTS = 10
ZONES_MIN = (0, 0, 420, -210)
"""Offsets of the instants from UTC, in minutes: the bucket is decided by UTC whatever the client writes."""

_EVENT = (
    '{"event_id":"%s-%d","domain":"' + DOMAIN + '","entity_type":"' + ENTITY_TYPE + '","entity_id":"%s",'
    '"action":"%s","value":%d,"occurred_at":"%s"}'
)


class Parcel(NamedTuple):
    """One request, the answer it must get, and the amounts it must add."""

    name: str
    """Under which Locust lists it."""
    path: str
    body: bytes
    counted: tuple[Counted, ...]
    """Of the good events in it."""
    status: int = 202
    wrong: dict[int, frozenset[str]] = {}  # noqa: RUF012  (never changed)
    """Index of a bad event in the batch (0 for a single one) → the fields its answer must name."""
    content_type: str = JSON
    again: bool = False
    """Whether it was accepted before."""


class Spoilt(NamedTuple):
    """A way to be wrong. `fields` replace those of a good event (None: taken out), and must be named if 422."""

    name: str
    status: int
    fields: dict[str, Any]
    content_type: str = JSON


SPOILT = (
    Spoilt("value is a string", 422, {"value": "1"}),
    Spoilt("value out of range", 422, {"value": 101}),
    Spoilt("unknown action", 422, {"action": "steal"}),
    Spoilt("unknown domain", 422, {"domain": "elsewhere"}),
    Spoilt("no event id", 422, {"event_id": None}),
    Spoilt("no such day", 422, {"occurred_at": "2026-02-30T10:00:00Z"}),
    Spoilt("no offset", 422, {"occurred_at": "2026-02-19T10:00:00"}),
    Spoilt("control character", 422, {"entity_id": "a\x00b"}),
    Spoilt("four wrong fields", 422, {"entity_id": "", "entity_type": 7, "action": "steal", "value": 1.5}),
    Spoilt("not JSON", 400, {}),
    Spoilt("too large", 413, {}),
    Spoilt("wrong content type", 415, {}, "application/xml"),
)
SPOILT_FIELDS = tuple(spoilt for spoilt in SPOILT if spoilt.fields)


class Source:
    """An endless supply of a scenario's parcels. No two events it makes have the same id."""

    def __init__(self, scenario: Scenario, now: dt.datetime) -> None:
        self._scenario = scenario
        self._dice = random.Random()
        self._tag = secrets.token_hex(6)
        self._made = 0
        self._recent: deque[Parcel] = deque(maxlen=RECENT)
        self._instants = list(_instants(now, self._dice))

    def next(self) -> Parcel:
        scenario, roll = self._scenario, self._dice.random()
        if roll < scenario.again_share and self._recent:
            return self._dice.choice(self._recent)
        if roll < scenario.invalid_share:
            return self._spoilt_batch() if self._dice.random() < 0.1 else self._spoilt(self._dice.choice(SPOILT))
        if scenario.batch_events:
            events = [self._event() for _ in range(scenario.batch_events)]
            body = f"[{','.join(text for text, _ in events)}]".encode()
            return Parcel(f"batch of {len(events)}", BATCH, body, tuple(counted for _, counted in events))
        text, counted = self._event()
        return Parcel("event", EVENTS, text.encode(), (counted,))

    def accepted(self, parcel: Parcel) -> None:
        """From now on it may come again."""
        if self._scenario.again_share and not parcel.again:
            self._recent.append(parcel._replace(name=f"{parcel.name}, again", again=True))

    def _event(self) -> tuple[str, Counted]:
        dice, scenario = self._dice, self._scenario
        self._made += 1
        entity = (
            0 if scenario.hot_share and dice.random() < scenario.hot_share else int(dice.random() * scenario.entities)
        )
        action, amount = ("download", 1) if dice.random() < 0.2 else ("view", 1 + self._made % 5)
        instant, day = self._instants[self._made % INSTANTS]
        text = _EVENT % (self._tag, self._made, uuid_of(entity), action, amount, instant)
        return text, Counted(entity, action, day, amount)

    def _spoilt(self, spoilt: Spoilt) -> Parcel:
        text, _ = self._event()
        body = json.dumps(_replaced(text, spoilt.fields)).encode()
        if spoilt.status == 400:
            body = body[:-1]
        elif spoilt.status == 413:
            body = body.ljust(EVENT_BYTES_MAX + 1)
        wrong = {0: frozenset(spoilt.fields)} if spoilt.status == 422 else {}
        return Parcel(f"wrong: {spoilt.name}", EVENTS, body, (), spoilt.status, wrong, spoilt.content_type)

    def _spoilt_batch(self) -> Parcel:
        """Good and bad events in one batch: the good ones count."""
        events: list[dict[str, Any]] = []
        good: list[Counted] = []
        wrong = {}
        for index in range(SPOILT_BATCH_EVENTS):
            text, counted = self._event()
            spoilt = self._dice.choice(SPOILT_FIELDS) if index % 3 == 1 else None
            if spoilt is None:
                good.append(counted)
            else:
                wrong[index] = frozenset(spoilt.fields)
            events.append(_replaced(text, spoilt.fields if spoilt else {}))
        return Parcel("wrong: some of a batch", BATCH, json.dumps({"events": events}).encode(), tuple(good), 202, wrong)


def _replaced(text: str, fields: dict[str, Any]) -> dict[str, Any]:
    event = {**json.loads(text), **fields}
    return {name: value for name, value in event.items() if value is not None}


def _instants(now: dt.datetime, dice: random.Random) -> Iterator[tuple[str, str]]:
    """(RFC 3339 text, UTC date) of moments of the last days, today's among them, none in the future."""
    for _ in range(INSTANTS):
        moment = now - dt.timedelta(seconds=dice.random() * DAYS * 86_400)
        zone = dt.timezone(dt.timedelta(minutes=dice.choice(ZONES_MIN)))
        yield moment.astimezone(zone).isoformat(timespec="milliseconds"), moment.astimezone(dt.UTC).date().isoformat()
