"""The read API of one worker: keys, origins, tags and the cache around the routes.

The ingest application calls it for every path that begins with one of `PREFIXES`, and sends the answer. No event comes
this way. A cached answer costs a look into a dictionary. Requests for the same answer share one question to a store.
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus

from daemon.config import Config, key_hashes
from daemon.domain.entity import Entity
from daemon.errors import MongoAwayError, StoreError
from daemon.metrics import ReadTally
from daemon.read import openapi, response
from daemon.read.breaker import Breaker
from daemon.read.cache import Cache, Spelling
from daemon.read.credentials import is_good, key_of
from daemon.read.endpoint import OPERATOR_ROUTES, PREFIX, Question
from daemon.read.gate import NEVER_STALE, QUICK, WITHOUT_MONGO, Gate, Kind, RefusedReadError
from daemon.read.routes import ROUTES, Routes
from daemon.read.stores import Stores
from daemon.response import JSON, Header, Response

OPENAPI = "openapi"
OPENAPI_PATH = "/openapi.json"
PREFIXES = (*(f"{PREFIX}{route}" for route in ROUTES), OPENAPI_PATH)
"""The beginnings of all paths that are answered here."""

OPENAPI_MAX_AGE_S = 60
STATUS_AT_ONCE = 2
"""Looks at the stores of one worker: GET status, and GET dead beside it."""

Charge = Callable[[Kind | None], None]
"""Told what an answer asks of the stores, before it does; None: nothing that was not asked for already."""

_VARY: Header = ("vary", "origin")
_EXPOSE: Header = ("access-control-expose-headers", "etag")


class Api:
    """Create it in the worker's running loop; close it once."""

    def __init__(self, config: Config) -> None:
        """Connects to no store yet: the first request that needs one does."""
        self.tally = ReadTally()
        """The worker publishes it, with that of ingest."""
        self._stores = Stores(config, self.tally) if config.mongo.url else None
        self._reading = 0
        """Questions that wait for a store, or for others of their kind."""
        self.reconfigure(config)

    def reconfigure(self, config: Config) -> None:
        """Uses another configuration from the next request on. The connections to the stores stay as they are."""
        read = self._read = config.read
        self._keys = key_hashes(config, "reader")
        self._keyed = bool(self._keys)
        self._visibility = "private" if self._keyed else "public"
        self._routes: Routes | None = None
        if self._stores is not None and read.enabled:
            self._routes = Routes(config, self._stores, _now)
            document = openapi.document(config, self._routes.endpoints)
            self._openapi = Response(HTTPStatus.OK, document, [JSON, self._keep(OPENAPI_MAX_AGE_S)])
        self._origins = frozenset(origin.encode() for origin in read.cors_origins)
        self._cache = Cache(read.cache_bytes_max, time.monotonic)
        wait_s = read.wait_ms / 1000
        tops = Gate(read.tops_at_once_max, wait_s)
        self._gates = {
            Kind.TOTALS: Gate(read.reads_in_flight_max, wait_s),
            Kind.SERIES: Gate(read.series_at_once_max, wait_s),
            Kind.MANY: tops,
            Kind.TOP: tops,
            Kind.SUMMARY: Gate(read.summaries_at_once_max, wait_s),
            Kind.FRESH: Gate(read.fresh_at_once_max, wait_s),
            Kind.NAMES: Gate(read.names_at_once_max, wait_s),
            Kind.CATALOGUE: Gate(read.reads_in_flight_max, wait_s),
            Kind.STATUS: Gate(STATUS_AT_ONCE, wait_s),
        }
        self._unavailable = response.unavailable(read.retry_after_s)

    async def close(self) -> None:
        self.tally.publish()
        if self._stores is not None:
            await self._stores.close()

    async def answer(
        self,
        method: str,
        path: str,
        query: str,
        headers: Iterable[tuple[bytes, bytes]],
        charge: Charge,
        *,
        operator: bool = False,
    ) -> Response:
        """`path`: percent-decoded, one of PREFIXES; `query`: as it came; `headers`: names in lower case. `operator`:
        one asks, who may read everything."""
        if self._routes is None:
            return response.NOT_FOUND
        head: dict[bytes, bytes] = {}
        for name, value in headers:
            head.setdefault(name, value)  # the first counts, as everywhere
        route = path[len(PREFIX) :].partition("/")[0] if path.startswith(PREFIX) else OPENAPI
        if route not in ROUTES and route != OPENAPI:  # so a route is one of few names, and labels metrics
            charge(None)
            return response.NOT_FOUND
        found = await self._answer(self._routes, method, route, (path, query), head, charge, operator=operator)
        self.tally.replied(route, found.status)
        if route in OPERATOR_ROUTES:
            return found.plus([response.OWN_PAGE])
        if not self._origins:
            return found
        return Response(found.status, found.body, [*found.headers, *self._cors(head.get(b"origin", b""))])

    async def total(self, entity: Entity, charge: Charge) -> Response:
        """An entity's counters, as `answer` gives them to a reader with a key: for what shows them to everybody."""
        if self._routes is None:
            return response.NOT_FOUND
        route, spelling = "totals", (f"{PREFIX}totals/{'/'.join(entity)}", "")
        found = await self._cached(self._routes, route, spelling, charge)
        self.tally.replied(route, found.status)
        return found

    async def _answer(
        self,
        routes: Routes,
        method: str,
        route: str,
        spelling: Spelling,
        head: Mapping[bytes, bytes],
        charge: Charge,
        *,
        operator: bool,
    ) -> Response:
        if method == "OPTIONS":
            may = route not in OPERATOR_ROUTES and self._allows(head.get(b"origin", b""))
            return response.PREFLIGHT if may else response.OPTIONS
        if method not in ("GET", "HEAD"):
            return response.GET_ONLY
        if route in OPERATOR_ROUTES and not operator:
            return response.OPERATORS_ONLY
        if operator or (self._keyed and is_good(_key(head), self._keys)):
            charge = _free
        elif self._keyed:
            return response.UNAUTHORIZED
        if route == OPENAPI:
            charge(None)
            return self._openapi if spelling[0] == OPENAPI_PATH else response.NOT_FOUND
        found = await self._cached(routes, route, spelling, charge)
        if found.etag and (known := head.get(b"if-none-match")) and _matches(known, found.etag.encode()):
            return response.not_modified(found)
        return found

    async def _cached(self, routes: Routes, route: str, spelling: Spelling, charge: Charge) -> Response:
        found = self._cache.spelled(spelling)
        if found is None:
            return await self._parsed(routes, route, spelling, charge)
        self.tally.hit()
        charge(None)
        return found

    async def _parsed(self, routes: Routes, route: str, spelling: Spelling, charge: Charge) -> Response:
        path, query = spelling
        question = routes.parse(path[len(PREFIX) :], query)
        if isinstance(question, Response):
            return question
        found = self._cache.get(question.key, spelling)
        if found is not None:
            self.tally.hit()
            charge(None)
            return found
        breaker = None if question.kind in WITHOUT_MONGO else routes.breaker
        if breaker is not None and not await breaker.lets_pass():
            charge(None)
            found = self._unavailable
        else:
            found = await self._miss(breaker, route, question, spelling, charge)
        if found.status == HTTPStatus.SERVICE_UNAVAILABLE:
            return self._cache.stale(question.key) or found
        return found

    async def _miss(
        self, breaker: Breaker | None, route: str, question: Question, spelling: Spelling, charge: Charge
    ) -> Response:
        joins = self._cache.is_being_read(question.key)
        is_full = self._reading >= self._read.reads_in_flight_max and question.kind is not Kind.STATUS
        if not joins and is_full:
            charge(None)
            return self._unavailable
        charge(None if joins else question.kind)
        self._reading += not joins
        started_s = time.perf_counter()
        try:
            return await self._cache.join(question.key, lambda: self._read_in_turn(breaker, question, spelling))
        except RefusedReadError as refusal:
            return response.refused(str(refusal), self._read.retry_after_s)
        except StoreError as error:
            self.tally.store_failed(error)
            return self._unavailable
        finally:
            self.tally.missed(route, time.perf_counter() - started_s)

    async def _read_in_turn(self, breaker: Breaker | None, question: Question, spelling: Spelling) -> Response:
        cache = self._cache  # a reload exchanges it
        is_kept = question.ttl_ms and question.kind is not Kind.STATUS
        keep = self._keep(question.ttl_ms // 1000) if is_kept else response.NO_STORE
        try:
            async with self._gates[question.kind]:
                if breaker is not None and breaker.open:  # since it waits for its turn
                    raise RefusedReadError(response.UNAVAILABLE)
                if not question.ttl_ms:
                    # Its answer must be of a moment after each request for it began.
                    cache.close(question.key)
                found = await _read(question, keep)
        except MongoAwayError:
            if breaker is not None and question.kind in QUICK:  # else the question may have been too much
                breaker.failed()
            raise
        finally:
            self._reading -= 1
        if breaker is not None:
            breaker.answered()
        if question.ttl_ms:
            stale_s = 0 if question.kind in NEVER_STALE else self._read.stale_s
            cache.put(question.key, spelling, found, question.ttl_ms / 1000, stale_s)
        return found

    def _keep(self, seconds: int) -> Header:
        return "cache-control", f"{self._visibility}, max-age={seconds}"

    def _allows(self, origin: bytes) -> bool:
        return bool(origin) and (origin in self._origins or b"*" in self._origins)

    def _cors(self, origin: bytes) -> list[Header]:
        if b"*" in self._origins:
            return [("access-control-allow-origin", "*"), _EXPOSE]
        if not self._allows(origin):
            return [_VARY]
        return [_VARY, ("access-control-allow-origin", origin.decode()), _EXPOSE]


async def _read(question: Question, keep: Header) -> Response:
    as_of = dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return response.found(await question.read(), as_of, keep)


def _free(_: Kind | None) -> None:
    """Who has a key may read as much as the gates let pass."""


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


def _key(head: Mapping[bytes, bytes]) -> str:
    return key_of(head.get(b"x-tallyd-key", b"").decode("latin-1"), head.get(b"authorization", b"").decode("latin-1"))


def _matches(known: bytes, etag: bytes) -> bool:
    """Weak comparison (RFC 9110, section 13.1.2)."""
    strong = etag.removeprefix(b"W/")
    return known == b"*" or any(tag.strip().removeprefix(b"W/") == strong for tag in known.split(b","))
