"""A producer under faults: it knows of every event whether it was accepted, rejected, or is unknown.

An event is unknown after no answer, a cut one, or 5xx. It is sent again under the same id, as a real producer would,
until it is answered. Good events that are refused and bad ones that are accepted are `trouble`.
"""

from __future__ import annotations

import datetime as dt
import http.client
import json
import random
import threading
import time
from collections import Counter, deque
from typing import Any, NamedTuple

from tests.kit.events import BATCH, EVENTS
from tests.kit.oracle import Model

ANSWER_TIMEOUT_S = 6.0
RESEND_AFTER_S = 0.3
UNKNOWN_MAX = 20
"""Parcels of one sender whose outcome is unknown. With more than this it only sends those again."""
RECENT = 300
"""Events a sender remembers, to send some of them twice."""
TROUBLE_MAX = 50

MOVIES = frozenset(f"{n:08x}-d9cb-469f-a165-70867728950e" for n in range(120))
"""Those with a row in MySQL."""
ENTITIES = (
    *(("jav", "movie", id_) for id_ in sorted(MOVIES)),
    *(("jav", "movie", f"without-row-{n}") for n in range(10)),
    *(("jav", "actor", f"a:b/c {n}") for n in range(20)),
    *(("jav", "tag", f"ラベル{n}") for n in range(20)),
)
DAYS = (
    dt.date(2019, 12, 31), dt.date(2020, 1, 1), dt.date(2020, 2, 29), dt.date(2024, 12, 29), dt.date(2024, 12, 30),
    dt.date(2026, 1, 1), dt.date(2026, 2, 19),
)  # fmt: skip
"""Ends of weeks, months and years, where buckets part."""


class Parcel(NamedTuple):
    """One request. `bad`: the indexes of the events that must be rejected; a single bad one is a parcel with {0}."""

    path: str
    body: bytes
    amounts: dict[str, int]
    """Per counter, of the good events in it that were not sent before."""
    events: int
    bad: frozenset[int]
    floating: tuple[tuple[str, str, str], ...] = ()


class Fate(NamedTuple):
    """The amounts sent so far, per counter, by their outcome."""

    acked: Counter[str]
    unknown: Counter[str]


class Load:
    """Some senders in threads of their own. `start`, then `pause` and `resume` at will, then `stop`."""

    def __init__(self, port: int, model: Model, *, seed: int, events_per_s: float, senders: int = 2) -> None:
        self.model = model
        self.trouble: list[str] = []
        self._senders = [
            Sender(self, port, random.Random(f"{seed}:{number}"), events_per_s / senders, f"{seed:x}-{number}")
            for number in range(senders)
        ]
        self.running = threading.Event()
        self.ended = threading.Event()

    def start(self) -> None:
        self.running.set()
        for sender in self._senders:
            sender.start()

    def pause(self) -> None:
        """Returns once no request is under way. Unknown events stay so."""
        self.running.clear()
        for sender in self._senders:
            assert sender.idle.wait(ANSWER_TIMEOUT_S + 30), "a sender does not come to an end"

    def resume(self) -> None:
        for sender in self._senders:
            sender.idle.clear()
        self.running.set()

    def resend(self) -> None:
        """While paused: sends unknown events again, until none is left."""
        for sender in self._senders:
            sender.resend_all()

    def stop(self) -> None:
        self.ended.set()
        self.running.set()
        for sender in self._senders:
            sender.join(ANSWER_TIMEOUT_S + 30)

    def tally(self) -> Counter[str]:
        return sum((sender.tally for sender in self._senders), Counter())

    def fate(self) -> Fate:
        """While paused."""
        fates = [sender.fate() for sender in self._senders]
        return Fate(sum((f.acked for f in fates), Counter()), sum((f.unknown for f in fates), Counter()))

    def complain(self, what: str) -> None:
        if len(self.trouble) < TROUBLE_MAX:
            self.trouble.append(what)


class Sender(threading.Thread):
    def __init__(self, load: Load, port: int, dice: random.Random, events_per_s: float, name: str) -> None:
        super().__init__(name=f"sender-{name}", daemon=True)
        self.tally: Counter[str] = Counter()
        self.idle = threading.Event()
        self._load = load
        self._port = port
        self._dice = dice
        self._rate = events_per_s
        self._prefix = name
        self._made = 0
        self._recent: deque[dict[str, Any]] = deque(maxlen=RECENT)
        self._unknown: deque[tuple[float, Parcel]] = deque()
        self._acked: Counter[str] = Counter()
        self._connection: http.client.HTTPConnection | None = None

    def run(self) -> None:
        next_at = time.monotonic()
        while not self._load.ended.is_set():
            if not self._load.running.is_set():
                self.idle.set()
                self._load.running.wait()
                next_at = time.monotonic()
                continue
            now = time.monotonic()
            if self._unknown and now - self._unknown[0][0] >= RESEND_AFTER_S:
                self.tally["resent"] += 1
                self._deliver(self._unknown.popleft()[1])
                continue
            if len(self._unknown) >= UNKNOWN_MAX or now < next_at:
                time.sleep(min(0.02, max(0.001, next_at - now)))
                continue
            parcel = self._make()
            next_at = max(next_at, now - 1) + parcel.events / self._rate
            self._deliver(parcel)
        self._hang_up()
        self.idle.set()

    def fate(self) -> Fate:
        unknown: Counter[str] = Counter()
        for _, parcel in self._unknown:
            unknown.update(parcel.amounts)
        return Fate(self._acked.copy(), unknown)

    def resend_all(self) -> None:
        deadline_s = time.monotonic() + 60
        while self._unknown:
            assert time.monotonic() < deadline_s, f"{len(self._unknown)} requests are not answered: {self.tally}"
            self.tally["resent"] += 1
            self._deliver(self._unknown.popleft()[1])

    # Sending ----------------------------------------------------------------------------------------------------

    def _deliver(self, parcel: Parcel) -> None:
        if parcel.floating:
            today = dt.datetime.now(dt.UTC).date()
            for entity in parcel.floating:
                self._load.model.add_floating(entity, "view", 1, today)
        try:
            if self._connection is None:
                self._connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=ANSWER_TIMEOUT_S)
            self._connection.request("POST", parcel.path, parcel.body, {"content-type": "application/json"})
            response = self._connection.getresponse()
            status, body = response.status, response.read()
            closing = response.will_close
        except (OSError, http.client.HTTPException):
            self._hang_up()
            self._note_unknown(parcel)
            time.sleep(0.02)
            return
        if closing:
            self._hang_up()
        self._settle(parcel, status, body)

    def _hang_up(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _note_unknown(self, parcel: Parcel) -> None:
        self.tally["unknown"] += parcel.events
        self._unknown.append((time.monotonic(), parcel))

    def _settle(self, parcel: Parcel, status: int, body: bytes) -> None:
        if status >= 500:
            if status != 503:
                self._load.complain(f"answered {status}: {body[:200]!r}")
            self._note_unknown(parcel)
            time.sleep(0.05)
            return
        all_bad = len(parcel.bad) == parcel.events
        if (status == 202) == all_bad or status not in (202, 400, 415, 422):
            self._load.complain(f"{status} for {parcel.body[:300]!r}: {body[:300]!r}")
        if status == 202 and parcel.path == BATCH:
            answer = json.loads(body)
            rejected = {entry["index"] for entry in answer["rejected"]}
            good = parcel.events - len(parcel.bad)
            more = answer.get("rejected_more", 0)
            if (
                not rejected <= parcel.bad
                or len(rejected) + more != len(parcel.bad)
                or answer["accepted"] + answer["duplicates"] != good
            ):
                self._load.complain(f"of {parcel.events} events, {sorted(parcel.bad)} bad: {answer}")
        self.tally["acked"] += parcel.events - len(parcel.bad)
        self.tally["rejected"] += len(parcel.bad)
        self._acked.update(parcel.amounts)

    # Making -----------------------------------------------------------------------------------------------------

    def _make(self) -> Parcel:
        if self._dice.random() < 0.3:
            return self._single()
        events: list[Any] = []
        bad, floating = set(), []
        amounts: Counter[str] = Counter()
        for index in range(self._dice.choice((2, 10, 40, 120))):
            roll = self._dice.random()
            if roll < 0.02:
                events.append(self._bad_event())
                bad.add(index)
            elif roll < 0.03:
                event = self._on_the_servers_day()
                floating.append((event["domain"], event["entity_type"], event["entity_id"]))
                amounts["view"] += 1
                events.append(event)
            elif roll < 0.15 and self._recent:
                self.tally["duplicates"] += 1
                events.append(self._dice.choice(self._recent))
            else:
                events.append(self._good_event(amounts))
        body = json.dumps(events if self._dice.random() < 0.5 else {"events": events}).encode()
        return Parcel(BATCH, body, dict(amounts), len(events), frozenset(bad), tuple(floating))

    def _single(self) -> Parcel:
        roll = self._dice.random()
        if roll < 0.05:
            garbage = self._dice.choice((b"", b"{", b"[]", b"\xff\xfe", b"null", b'{"event_id": 3}', b"[" * 5_000))
            return Parcel(EVENTS, garbage, {}, 1, frozenset({0}))
        if roll < 0.1:
            return Parcel(EVENTS, json.dumps(self._bad_event()).encode(), {}, 1, frozenset({0}))
        if roll < 0.2 and self._recent:
            self.tally["duplicates"] += 1
            return Parcel(EVENTS, json.dumps(self._dice.choice(self._recent)).encode(), {}, 1, frozenset())
        amounts: Counter[str] = Counter()
        return Parcel(EVENTS, json.dumps(self._good_event(amounts)).encode(), dict(amounts), 1, frozenset())

    def _good_event(self, amounts: Counter[str]) -> dict[str, Any]:
        """Entered into the model at once: it is sent until it is answered."""
        dice = self._dice
        entity = dice.choice(ENTITIES)
        action, value = ("download", 1) if dice.random() < 0.2 else ("view", dice.randint(1, 5))
        if dice.random() < 0.5:
            # Half an hour ago: late at night that is another day, and still no day the server decides.
            moment = dt.datetime.now(dt.UTC) - dt.timedelta(minutes=30)
        else:
            moment = dt.datetime.combine(dice.choice(DAYS), dt.time(dice.randrange(24), 59, 59), dt.UTC)
        zone = dt.timezone(dt.timedelta(minutes=dice.choice((0, 0, 420, -210))))
        event = self._event(entity, action, value, moment.astimezone(zone).isoformat())
        self._load.model.add(entity, action, moment.date(), value)
        amounts[action] += value
        self._recent.append(event)
        return event

    def _on_the_servers_day(self) -> dict[str, Any]:
        """From the future, or it does not say when it occurred."""
        moment = dt.datetime.now(dt.UTC) + dt.timedelta(days=self._dice.randint(1, 400))
        event = self._event(("jav", "actor", f"floating {self._prefix}-{self._made}"), "view", 1, moment.isoformat())
        return event if self._dice.random() < 0.5 else {**event, "occurred_at": None}

    def _event(self, entity: tuple[str, str, str], action: str, value: int, at: str) -> dict[str, Any]:
        self._made += 1
        self.tally["made"] += 1
        domain, entity_type, entity_id = entity
        return {
            "event_id": f"{self._prefix}-{self._made}", "domain": domain, "entity_type": entity_type,
            "entity_id": entity_id, "action": action, "value": value, "occurred_at": at, "user_id": 7,
        }  # fmt: skip

    def _bad_event(self) -> dict[str, Any]:
        event = self._event(self._dice.choice(ENTITIES), "view", 1, "2026-02-19T10:00:00Z")
        spoil: dict[str, Any] = self._dice.choice(
            (
                {"action": "steal"}, {"value": 101}, {"value": 0}, {"value": "1"}, {"entity_id": ""}, {"domain": "x"},
                {"entity_id": "a\x00b"}, {"event_id": "x" * 256}, {"occurred_at": "2026-02-19 10:00:00"},
                {"occurred_at": "2026-02-30T10:00:00Z"}, {"occurred_at": ""}, {"event_id": None},
            )
        )  # fmt: skip
        return {**event, **spoil}
