"""Compares the amounts that the producers had accepted with the ledger, MongoDB and MySQL. All must be at rest."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from msgspec import Struct

from loadtest.tally import DOMAIN, ENTITY_TYPE, Tally
from tests.kit.oracle import COUNTERS
from tests.kit.stores import Stores

DIFFERENCES_MAX = 100
"""Most differences listed; the rest is counted."""
ROWS_COUNTED = "SELECT uuid, views, downloads FROM jav WHERE views <> 0 OR downloads <> 0"

Amounts = Mapping[str, Mapping[str, int]]


class Line(Struct, frozen=True):
    """One counter, wherever it is kept: all of them have to be equal."""

    counter: str
    accepted: int
    """By Locust's producers."""
    ledger: int
    flushed: int
    """The ledger's, too: what claims carried away."""
    mongo: int
    mysql: int


class Difference(Struct, frozen=True):
    where: str
    """Which store, or which of its books."""
    what: str
    """The entity, or the day."""
    counter: str
    expected: int
    found: int

    def __str__(self) -> str:
        return f"{self.where}: {self.what} {self.counter}: {self.found:,} in place of {self.expected:,}"


class Verdict(Struct, frozen=True):
    lines: list[Line]
    differences: list[Difference]
    differences_more: int
    entities: int
    """Compared, in MongoDB and in MySQL."""

    @property
    def exact(self) -> bool:
        return not self.differences


def compare(tally: Tally, stores: Stores) -> Verdict:
    """Compares all of it. Not for use inside a running event loop."""
    ledger = _books_of(stores.ledger())
    totals = {
        document["_id"]: {
            counter: document.get(counter, 0) + document.get("base", {}).get(counter, 0) for counter in COUNTERS
        }
        for document in stores.mongo["analytics_entity_totals"].find({}, [*COUNTERS, "base"])
    }
    rows = {
        f"{DOMAIN}:{ENTITY_TYPE}:{uuid}": {"view": views, "download": downloads}
        for uuid, views, downloads in stores.sql(ROWS_COUNTED)
    }
    differences = [
        *_differences("MongoDB totals", tally.entities, totals),
        *_differences("MySQL", tally.entities, rows),
        *_differences("MongoDB daily", tally.days, _days(stores)),
        *_differences("ledger", *_books(tally, ledger)),
        *_differences("dead letters", {}, {"all": {"documents": stores.dead_letters()}}),
    ]
    return Verdict(
        lines=list(_lines(tally, ledger, totals, rows)),
        differences=differences[:DIFFERENCES_MAX],
        differences_more=max(0, len(differences) - DIFFERENCES_MAX),
        entities=len(tally.entities.keys() | totals.keys() | rows.keys()),
    )


def _differences(where: str, expected: Amounts, found: Amounts) -> Iterator[Difference]:
    """Both ways: amounts that are missing, and amounts that were not sent. An absent amount is 0."""
    for what in sorted(expected.keys() | found.keys()):
        wanted, there = expected.get(what, {}), found.get(what, {})
        for counter in sorted(wanted.keys() | there.keys()):
            if wanted.get(counter, 0) != there.get(counter, 0):
                yield Difference(where, what, counter, wanted.get(counter, 0), there.get(counter, 0))


def _books(tally: Tally, ledger: Amounts) -> tuple[Amounts, Amounts]:
    """The books the ledger must have, and those it has.

    More duplicates than were sent are no difference: what tallyd itself delivers again, from the spool, is one, too.
    """
    sums = tally.sums()
    expected = {"accepted": sums, "flushed": sums, "dead": {}, "duplicate": tally.duplicates}
    found = {book: ledger.get(book, {}) for book in expected}
    found["duplicate"] = {
        counter: min(amount, found["duplicate"].get(counter, 0)) for counter, amount in tally.duplicates.items()
    }
    return expected, found


def _lines(tally: Tally, ledger: Amounts, totals: Amounts, rows: Amounts) -> Iterator[Line]:
    sums = tally.sums()
    for counter in sorted(COUNTERS):
        yield Line(
            counter,
            accepted=sums.get(counter, 0),
            ledger=ledger.get("accepted", {}).get(counter, 0),
            flushed=ledger.get("flushed", {}).get(counter, 0),
            mongo=_sum(totals.values(), counter),
            mysql=_sum(rows.values(), counter),
        )


def _sum(amounts: Iterable[Mapping[str, int]], counter: str) -> int:
    return sum(each.get(counter, 0) for each in amounts)


def _books_of(ledger: Mapping[str, int]) -> dict[str, dict[str, int]]:
    """Book → counter → amount."""
    books: dict[str, dict[str, int]] = {}
    for name, amount in ledger.items():
        book, _, counter = name.partition(":")
        books.setdefault(book, {})[counter] = amount
    return books


def _days(stores: Stores) -> dict[str, dict[str, int]]:
    """UTC date → counter → amount."""
    group = {"_id": "$date", **{counter: {"$sum": f"${counter}"} for counter in COUNTERS}}
    return {each.pop("_id"): each for each in stores.mongo["analytics_entity_daily"].aggregate([{"$group": group}])}
