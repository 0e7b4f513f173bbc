"""The HTTP application of one worker: its routes, and the answer to each request.

`rsgi.py` and `asgi.py` hand it requests; `exchange.py` asks it about single events. `handler.py` decides what a body
means. Granian does not limit a body's size, so that limit is here.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import NamedTuple
from uuid import uuid4

import msgspec

from daemon import log
from daemon.buffer.wire import Limit, Visitor
from daemon.config import UNIX, Budget, Config, Dashboard, RateLimit, has_windows, valued_actions
from daemon.domain.entity import Entity
from daemon.domain.rejection import TAKES_VALUE, Rejection, say, say_allowed
from daemon.ingest import accounts, health, response
from daemon.ingest.accounts import Account, Accounts, address_limit
from daemon.ingest.address import HEADERS as FORWARDED_HEADERS
from daemon.ingest.address import TrustedProxies, is_near
from daemon.ingest.handler import Handler
from daemon.ingest.keyring import SIGNATURE_HEADER, Keyring
from daemon.ingest.operators import Operators
from daemon.ingest.origins import Origins, host_of
from daemon.ingest.refusals import Refusals, request_id
from daemon.ingest.requests import CrowdedError, HttpRequest, OpenRequests, RequestHead
from daemon.ingest.robots import Robots
from daemon.ingest.visitors import Visitors
from daemon.read.api import PREFIXES as READ_PREFIXES
from daemon.read.api import Api
from daemon.response import Response, encode, invalid
from daemon.web import dashboard
from daemon.web.assets import Asset, Assets
from daemon.web.badge import badge
from daemon.web.compression import compressed
from daemon.web.pixel import PIXEL, fields_of, is_prefetch
from daemon.web.query import parameters_of

EVENTS_PATH = "/api/v1/analytics/events"
SUPERVISOR_PATHS = ("/healthz", "/livez", "/readyz", "/version")

UNREAD_BYTES_MAX = 16_384
"""After a refusal the server skips a body of this size. It closes the connection over a larger one, and says so."""

_JSON_TYPES = frozenset({"application/json", "text/plain"})
_USUAL_TYPES = _JSON_TYPES | {"text/plain;charset=UTF-8"}
"""As clients spell them: browsers send the last one. Any other spelling goes the long way, to the same answer."""
_NDJSON_TYPES = frozenset({"application/x-ndjson", "application/ndjson", "application/jsonl"})

_log = logging.getLogger(__name__)


Answer = Callable[[RequestHead, Account, HttpRequest], Awaitable[Response]]


class Route(NamedTuple):
    """A path's methods, and what answers it. `name`: as `tallyd_responses_total` says it."""

    name: str
    methods: tuple[str, ...]
    answer: Answer


class _BodyRules(NamedTuple):
    """What a body may be, and the answers to one that may not."""

    types: frozenset[str]
    bytes_max: int
    unsupported: Response
    too_large: Response


class App:
    """Answers every request. Whatever happens, a request gets an answer."""

    def __init__(
        self,
        config: Config,
        requests: OpenRequests,
        handler: Handler,
        reads: Api,
        visitors: Visitors,
        assets: Assets,
        ready: Callable[..., Awaitable[Response]],
    ) -> None:
        """`ready`: answers whether this worker can count. Call it in the running loop."""
        self._assets = assets
        self._fixed_routes = {
            "/healthz": Route("health", ("GET", "HEAD"), health.healthz),
            "/livez": Route("health", ("GET", "HEAD"), health.healthz),
            "/readyz": Route("health", ("GET", "HEAD"), ready),
            "/version": Route("health", ("GET", "HEAD"), health.version),
        }
        self._requests = requests
        self._handler = handler
        self._reads = reads
        self._visitors = visitors
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._warned_of_proxy = False
        self._refusals = Refusals(time.monotonic)
        self._bounds: tuple[Budget, RateLimit] | None = None
        """What the accounts were made for."""
        # What an exchange asks for each event. Bound here, because a method in between would cost a call each.
        self.enter = requests.enter
        self.has_read = requests.has_read
        self.submit = handler.submit
        self.conclude = handler.conclude
        self.reconfigure(config)

    def reconfigure(self, config: Config) -> None:
        """Another configuration from the next request on."""
        self._event_bytes_max = config.http.event_bytes_max
        self._event_rules = _rules(_JSON_TYPES, "application/json or text/plain", config.http.event_bytes_max)
        self._batch_rules = _rules(
            _JSON_TYPES | _NDJSON_TYPES,
            "application/json, text/plain or application/x-ndjson",
            config.http.batch_bytes_max,
        )
        bounds = (config.budget, config.rate_limit)
        if bounds != self._bounds:  # else a reload would forgive everybody
            self._bounds = bounds
            self._accounts = Accounts(config.budget, time.monotonic, address_limit(config.rate_limit))
        self._alias = config.browser.alias
        singles, batches = Route("event", ("POST",), self._event), Route("batch", ("POST",), self._batch)
        self._event_routes = {EVENTS_PATH: singles, f"{EVENTS_PATH}/batch": batches}
        if self._alias:
            self._event_routes |= {self._alias: singles, f"{self._alias}/batch": batches}
        browser = config.browser
        self._pixel_path = browser.pixel
        self._routes = {
            **{
                path: Route("file", ("GET", "HEAD"), self._file(asset))
                for path, asset in self._assets.by_path(browser).items()
            },
            **(self._dashboard(config.dashboard) if config.dashboard.enabled else {}),
            **({browser.pixel: Route("pixel", ("GET",), self._pixel)} if browser.pixel else {}),
            **({browser.badge: Route("badge", ("GET", "HEAD"), self._badge)} if browser.badge else {}),
            **self._event_routes,
            **self._fixed_routes,
        }
        """The other routes are the read API's: every path that begins with one of its PREFIXES."""
        self._operators = Operators(config)
        self._not_found = response.not_found(dashboard=config.dashboard.enabled)
        self.origins = Origins(config.browser.origins) if config.browser.origins else None
        self._hosts = frozenset(config.http.hosts)
        self._guarded = bool(self._hosts or config.browser.origins)
        """Whether a request's names need a look."""
        self._keys = Keyring(config, time.monotonic)
        self._key_required = config.ingest.require_key
        self._asks_who = self._key_required or self._keys.signs
        """Whether a request without a key needs a second look."""
        http = config.http
        self._proxies = (
            TrustedProxies(http.trusted_proxies, http.forwarded_header, config.budget.addresses_max)
            if http.trusted_proxies
            else None
        )
        self._is_direct = not (self._asks_who or self._proxies)
        """Whether a connection's address pays for every request without a key."""
        self._robots = Robots() if config.browser.robots != "count" else None
        self._pixel_robots = self._robots or (Robots() if config.browser.pixel else None)
        """Whose pixels do not count, whatever becomes of their other events."""
        self._valued_actions = valued_actions(config)
        self.visitor = self._visitor if has_windows(config) else None
        """Tells who sent a request. None: nobody needs to know."""
        self._overloaded = response.unavailable(config.ingest.retry_after_s)

    @property
    def closing(self) -> bool:
        return self._requests.closing

    # For an exchange --------------------------------------------------------------------------------------------------

    def takes(self, head: RequestHead) -> Account | None:
        """The sender of a single event in good form. None: `answer` answers this request."""
        if not (
            (head.path == EVENTS_PATH or head.path == self._alias)
            and head.method == "POST"
            and 0 <= head.length <= self._event_bytes_max
            and head.kind in _USUAL_TYPES
        ):
            return None
        if self._guarded and self._refusal(head) is not None:
            return None
        direct = self._is_direct and not head.key
        account = self._accounts.of(head.client) if direct else self._account(head)
        if account is None or account.events_left_ms() or (self._robots and self._is_robot(head, account)):
            return None
        return account

    def _refusal(self, head: RequestHead) -> Response | None:
        """The answer to events that come by a foreign name, or from a foreign page."""
        if self._hosts and host_of(head) not in self._hosts:
            return response.FOREIGN_HOST
        if self.origins is not None and not self.origins.allows(head):
            return response.FOREIGN_ORIGIN
        return None

    def _account(self, head: RequestHead) -> Account | None:
        """Who pays for the request. None: its key is unknown, or it is not known yet whose it is."""
        if head.key:
            account = self._keys.seen.get(head.key) or self._keys.find(head.key)
            if account is not None:
                account.used = True
            return account
        if self._asks_who and (self._key_required or head.headers.get_all(SIGNATURE_HEADER)):
            return None
        return self._accounts.of(self._client(head))

    def used_keys(self) -> list[str]:
        """The ids of the keys that came since the last call."""
        return self._keys.used()

    def _is_robot(self, head: RequestHead, account: Account) -> bool:
        """Whether the request's events are not a person's. Nobody asks it about a producer."""
        if self._robots is None or account.producer:
            return False
        return self._robots.sent(head.headers.get_all("user-agent"))

    def _visitor(self, head: RequestHead, account: Account) -> Visitor | None:
        """Who sent the request's events. None: a producer did, or nobody knows."""
        return None if account.producer else self._visitors.of(account.name, head.headers.get_all("user-agent"))

    def _client(self, head: RequestHead) -> str:
        """The address that the request comes from."""
        if self._proxies is None:
            return head.client
        return self._proxies.client_of(head.client, head.headers.get_all(self._proxies.header))

    def crowded(self) -> Response:
        """The answer to a request that the worker has no place for."""
        self._requests.tally.refused("in_flight")
        return self._overloaded

    def explain(
        self,
        head: RequestHead,
        body: bytes,
        account: Account,
        visitor: Visitor | None,
        tell: Callable[[Response], None],
    ) -> None:
        """Answers an event that `submit` returned False for, in a task: `tell` is told the answer."""
        task = self._loop.create_task(self._explain(head, body, account, visitor, tell))
        self._tasks.add(task)  # the loop itself holds it only weakly
        task.add_done_callback(self._tasks.discard)

    async def _explain(
        self,
        head: RequestHead,
        body: bytes,
        account: Account,
        visitor: Visitor | None,
        tell: Callable[[Response], None],
    ) -> None:
        try:
            answer = await self._handler.event(body, account, visitor=visitor)
        except Exception:  # noqa: BLE001  (see `failed`)
            answer = self.failed(head)
        tell(answer)

    def leave(
        self, head: RequestHead, answer: Response, account: Account, route: str, began: float, *, events: bool = True
    ) -> None:
        """A request that began is answered. `route`, `began`: as of `IngestTally.answered`. `events`: it was to bring
        some."""
        if answer.status >= 400:
            if answer.status < 500 and answer.status != HTTPStatus.TOO_MANY_REQUESTS:
                account.charge(accounts.REQUEST_REFUSED)
                if events:
                    self._handler.charge(account, 1)
            self._refusals.note(head, answer)
        self._requests.leave(answer, route, began)

    def failed(self, head: RequestHead) -> Response:
        """The answer to a request that raised an exception nobody planned for. Call it in the `except` clause.

        The exception is logged. The client gets nothing of its text.
        """
        with log.bound(**({"request_id": id_} if (id_ := request_id(head)) else {})):
            _log.exception("A request failed")
        return response.FAILED

    # For all other requests -------------------------------------------------------------------------------------------

    async def answer(self, request: HttpRequest) -> Response:
        """The answer to any request."""
        head, began = request.head, time.monotonic()
        account = self._account(head) or self._accounts.of(self._client(head))
        self._requests.begin()
        try:
            answer = await self._answer(head, account, request)
        except CrowdedError:
            answer = self.crowded()
        except Exception:  # noqa: BLE001  (see `failed`)
            answer = self.failed(head)
        except BaseException:
            self._requests.abandon()
            raise
        if answer.status >= 400 and head.method == "POST" and not 0 <= head.length <= UNREAD_BYTES_MAX:
            answer = Response(answer.status, answer.body, answer.closing_headers)  # the body may not have been read
        brings_events = head.method == "POST" or head.path == self._pixel_path
        self.leave(head, answer, account, self._route_name(head.path), began, events=brings_events)
        if self.origins is not None and head.path in self._event_routes:
            return self.origins.dress(answer, head)
        return answer

    def _route_name(self, path: str) -> str:
        route = self._routes.get(path)
        if route is not None:
            return route.name
        return "read" if path.startswith(READ_PREFIXES) else "other"

    async def _answer(self, head: RequestHead, account: Account, request: HttpRequest) -> Response:
        # A supervisor's question is not refused: a busy worker is a live one.
        if head.path not in SUPERVISOR_PATHS:
            if self._hosts and host_of(head) not in self._hosts:
                return response.FOREIGN_HOST
            if head.method == "OPTIONS" and self.origins is not None and head.path in self._event_routes:
                return self.origins.preflight(head)
            if (left_ms := account.left_ms()) and not self._lets_operator_pass(head):
                return self._too_many(head, left_ms, account.limit if head.path in self._event_routes else None)
            if self._requests.crowded:
                raise CrowdedError
        route = self._routes.get(head.path)
        if route is None:
            if head.path.startswith(READ_PREFIXES):
                operator = self._operators.admit(head)
                answer = await self._reads.answer(
                    head.method, head.path, request.query, request.headers, account.charge_read, operator=operator
                )
                return await compressed(answer, head.headers.get_all) if operator else answer
            return self._not_found
        if head.method not in route.methods:
            return response.method_not_allowed(", ".join(route.methods))
        return await route.answer(head, account, request)

    def _too_many(self, head: RequestHead, left_ms: int, limit: Limit | None) -> Response:
        """429 to a sender that spent its limit. If it is a proxy that nobody trusts, the log says so once."""
        if (
            not (self._warned_of_proxy or self._proxies or head.key)
            and is_near(head.client)
            and any(head.headers.get_all(name) for name in FORWARDED_HEADERS)
        ):
            self._warned_of_proxy = True
            _log.warning(
                "http.trusted_proxies is empty, and %s sends X-Forwarded-For and has spent its limit: all clients"
                " behind this proxy share one. If it is yours, name it there.",
                head.client or UNIX,
            )
        return response.too_many(left_ms, limit)

    async def _event(self, head: RequestHead, account: Account, request: HttpRequest) -> Response:
        body = await self._body(head, account, request, self._event_rules)
        if isinstance(body, Response):
            return body
        sender = self._sender(head, account, body)
        if isinstance(sender, Response):
            return sender
        visitor = self.visitor and self.visitor(head, sender)
        return await self._handler.event(body, sender, robot=self._is_robot(head, sender), visitor=visitor)

    async def _batch(self, head: RequestHead, account: Account, request: HttpRequest) -> Response:
        body = await self._body(head, account, request, self._batch_rules)
        if isinstance(body, Response):
            return body
        sender = self._sender(head, account, body)
        if isinstance(sender, Response):
            return sender
        return await self._handler.batch(
            body,
            sender,
            ndjson=_media_type(head.kind) in _NDJSON_TYPES,
            robot=self._is_robot(head, sender),
            visitor=self.visitor and self.visitor(head, sender),
        )

    def _lets_operator_pass(self, head: RequestHead) -> bool:
        """Whether an operator wants to see something: also while others of the same address are refused."""
        return head.path.startswith((dashboard.PATH, *READ_PREFIXES)) and self._operators.admit(head)

    def _dashboard(self, section: Dashboard) -> dict[str, Route]:
        """The page, its files, and the way to it."""
        page = dashboard.page(demo=section.demo)

        async def answer(head: RequestHead, account: Account, _: HttpRequest) -> Response:
            if not self._operators.admit(head):
                return self._operators.refusal
            account.charge(accounts.READ)
            return page.answer(head.headers.get_all)

        async def lead(*_: object) -> Response:
            return dashboard.LEAD

        return {
            dashboard.PATH: Route("file", ("GET", "HEAD"), answer),
            **({"/": Route("file", ("GET", "HEAD"), lead)} if section.demo else {}),
            **{path: Route("file", ("GET", "HEAD"), self._file(asset)) for path, asset in dashboard.files().items()},
        }

    def _file(self, asset: Asset) -> Answer:
        async def answer(head: RequestHead, account: Account, _: HttpRequest) -> Response:
            account.charge(accounts.READ)
            return asset.answer(head.headers.get_all)

        return answer

    async def _pixel(self, head: RequestHead, account: Account, request: HttpRequest) -> Response:
        if self.origins is not None and not self.origins.shows(head):
            return response.FOREIGN_ORIGIN
        if left_ms := account.events_left_ms():
            return self._too_many(head, left_ms, account.limit)
        if head.key and not account.producer:
            return response.UNKNOWN_KEY
        fields = fields_of(request.query)
        if fields.get("action") in self._valued_actions:
            return invalid(Rejection({"action": [say(TAKES_VALUE, "action")]}))
        body = encode({**fields, "event_id": str(uuid4())})
        get_all = head.headers.get_all
        assert self._pixel_robots is not None, "a pixel has them"
        robot = is_prefetch(get_all) or self._pixel_robots.sent(get_all("user-agent"))
        visitor = self.visitor and self.visitor(head, account)
        answer = await self._handler.event(body, account, robot=robot, visitor=visitor)
        return PIXEL if answer.status == HTTPStatus.ACCEPTED else answer

    async def _badge(self, _: RequestHead, account: Account, request: HttpRequest) -> Response:
        """Shows a counter's total to everybody, also where readers need a key."""
        given = parameters_of(request.query)
        entity = Entity(given.get("d", ""), given.get("t", ""), given.get("id", ""))
        found = await self._reads.total(entity, account.charge_read)
        if found.status != HTTPStatus.OK:
            return found
        counters, counter = msgspec.json.decode(found.body)["counters"], given.get("c", "view")
        if counter not in counters:
            return invalid(Rejection({"c": [say_allowed("c", counters)]}))
        return badge(given.get("label", counter), counters[counter])

    async def _body(
        self, head: RequestHead, account: Account, request: HttpRequest, rules: _BodyRules
    ) -> bytes | Response:
        """The whole body, or the answer to one that may not be."""
        if self._guarded and (refusal := self._refusal(head)) is not None:
            return refusal
        # The limit of an address is not that of a producer that signs from there.
        if left_ms := account.left_ms() if self._signature(head) else account.events_left_ms():
            return self._too_many(head, left_ms, account.limit)
        if head.kind and _media_type(head.kind) not in rules.types:
            return rules.unsupported
        if head.key and not account.producer:
            return response.UNKNOWN_KEY
        if self._key_required and not account.producer and not self._signature(head):
            return response.KEY_REQUIRED
        if head.length > rules.bytes_max:
            return rules.too_large
        body = await self._requests.read(request, account, head.length, rules.bytes_max)
        return rules.too_large if body is None else body

    def _signature(self, head: RequestHead) -> str:
        """What a request was signed with; "" if it was not, or has a key."""
        if head.key or not self._keys.signs:
            return ""
        return next(iter(head.headers.get_all(SIGNATURE_HEADER)), "")

    def _sender(self, head: RequestHead, account: Account, body: bytes) -> Account | Response:
        """Whose events these are: the account's, or those of the producer that signed them. Or why nobody's."""
        signature = self._signature(head)
        if not signature:
            return account
        signer = self._keys.signer(signature, head.path, body)
        if signer is None:
            return response.BAD_SIGNATURE
        signer.used = True
        left_ms = signer.events_left_ms()
        return response.too_many(left_ms, signer.limit) if left_ms else signer


def _rules(types: frozenset[str], accepted: str, bytes_max: int) -> _BodyRules:
    return _BodyRules(types, bytes_max, response.unsupported(accepted), response.too_large(bytes_max))


def _media_type(kind: str) -> str:
    """The content type without its parameters."""
    return kind.partition(";")[0].strip().lower()
