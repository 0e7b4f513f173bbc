"""The expected counts, from plain dictionaries and the calendar. Imports nothing of `daemon`."""

from __future__ import annotations

import datetime as dt
import threading
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

Document = dict[str, Any]
Rollups = dict[str, dict[str, Document]]

BUCKETS = (
    ("totals", "", ""),
    ("daily", "date", "%Y-%m-%d"),
    ("weekly", "week", "%G-W%V"),
    ("monthly", "month", "%Y-%m"),
    ("yearly", "year", "%Y"),
)
"""Collection, the field of its bucket, and how strftime writes it."""
ROLLUPS = tuple(name for name, _, _ in BUCKETS)
COUNTERS = ("view", "download")


def ids_of(entity_key: str, day: dt.date) -> dict[str, str]:
    """Collection → `_id` of the document that an amount of this UTC day belongs to."""
    return {name: ":".join([entity_key, *([day.strftime(pattern)] if pattern else [])]) for name, _, pattern in BUCKETS}


def expected_rollups(counted: Iterable[tuple[str, str, dt.date, int]]) -> dict[str, dict[str, dict[str, int]]]:
    """Collection → `_id` → counters, of these (entity key, counter, UTC day, amount)."""
    sums: dict[str, dict[str, Counter[str]]] = {name: {} for name in ROLLUPS}
    for key, counter, day, amount in counted:
        for name, id_ in ids_of(key, day).items():
            sums[name].setdefault(id_, Counter())[counter] += amount
    return {name: {id_: dict(counters) for id_, counters in documents.items()} for name, documents in sums.items()}


class Model:
    """Whole documents, for several producers at once: the methods are called from any thread.

    An event is entered once, when it is made; that it is sent five times changes nothing. Only its day may be open: an
    event from the future, or without a time, counts under the server's: each day on which it was sent is possible.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._amounts: dict[tuple[str, str, str], dict[dt.date, dict[str, int]]] = {}
        self._floating: dict[tuple[str, str, str], tuple[str, int, set[dt.date]]] = {}

    def add(self, entity: tuple[str, str, str], counter: str, day: dt.date, amount: int) -> None:
        with self._lock:
            counters = self._amounts.setdefault(entity, {}).setdefault(day, {})
            counters[counter] = counters.get(counter, 0) + amount

    def add_floating(self, entity: tuple[str, str, str], counter: str, amount: int, sent_on: dt.date) -> None:
        """An event whose day is the server's, the only one of its entity. Called again when it is sent again."""
        with self._lock:
            self._floating.setdefault(entity, (counter, amount, set()))[2].add(sent_on)

    def rollups(self, found: Mapping[str, Mapping[str, Document]]) -> Rollups:
        """All documents there must be. Of a floating event's days the one `found` is taken, if it is possible."""
        documents: Rollups = {name: {} for name in ROLLUPS}
        with self._lock:
            for entity, days in self._amounts.items():
                for day, counters in days.items():
                    for counter, amount in counters.items():
                        _enter(documents, entity, day, counter, amount)
            for entity, (counter, amount, days_possible) in self._floating.items():
                key = ":".join(entity)
                met = [day for day in days_possible if f"{key}:{day.isoformat()}" in found.get("daily", {})]
                _enter(documents, entity, (met or sorted(days_possible))[0], counter, amount)
        return documents

    def totals(self) -> dict[str, int]:
        """Amount per counter of everything that was entered."""
        sums = dict.fromkeys(COUNTERS, 0)
        with self._lock:
            for days in self._amounts.values():
                for counters in days.values():
                    for counter, amount in counters.items():
                        sums[counter] += amount
            for counter, amount, _ in self._floating.values():
                sums[counter] += amount
        return sums


def before(id_: str) -> Document:
    """The columns of a movie's row before tallyd counts: some 0, some large."""
    number = zlib.crc32(id_.encode())
    return {"view": number % 3 * 1_000, "download": number % 2}


def replica(totals: Mapping[str, Document], ids: frozenset[str]) -> dict[str, tuple[int, int]]:
    """The rows of MySQL: (views, downloads) of each of these movies, from before and counted."""
    rows = {}
    for id_ in ids:
        document, base = totals.get(f"jav:movie:{id_}", {}), before(id_)
        rows[id_] = (document.get("view", 0) + base["view"], document.get("download", 0) + base["download"])
    return rows


def differences(expected: Mapping[str, Mapping[str, Any]], found: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """One line for each document that is missing, too many, or not exactly as it must be."""
    for name, documents in expected.items():
        there = found.get(name, {})
        for id_ in documents.keys() | there.keys():
            if documents.get(id_) != there.get(id_):
                yield f"{name} {id_}: expected {documents.get(id_)}, found {there.get(id_)}"


def _enter(documents: Rollups, entity: tuple[str, str, str], day: dt.date, counter: str, amount: int) -> None:
    domain, kind, id_ = entity
    ids = ids_of(":".join(entity), day)
    for name, field, pattern in BUCKETS:
        document = documents[name].get(ids[name])
        if document is None:
            document = {"_id": ids[name], "domain": domain, "entity_type": kind, "entity_id": id_}
            document |= dict.fromkeys(COUNTERS, 0) | ({field: day.strftime(pattern)} if field else {})
            documents[name][ids[name]] = document
        document[counter] += amount
