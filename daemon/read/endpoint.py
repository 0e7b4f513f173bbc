"""What every read has: parameters, the type of its answer, and how the answer is found.

A new read is a class in `endpoints/` and a line in the table of `routes.py`. Its description in OpenAPI follows.
"""

from __future__ import annotations

import datetime as dt
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Collection
from functools import partial
from typing import Any, ClassVar, NamedTuple

from msgspec.structs import asdict

from daemon.config import Config, domain_counters, offered_windows
from daemon.domain import rejection
from daemon.domain.entity import Entity
from daemon.domain.rejection import say
from daemon.domain.rollup import Bucketed
from daemon.domain.window import Span, Window, span_before, span_of
from daemon.read.gate import Kind
from daemon.read.parameters import Parameters
from daemon.read.stores import Stores
from daemon.read.sums import DOCUMENTS_FEW, Sums, window_sums
from daemon.response import Body

PREFIX = "/api/v1/analytics/"
OPERATOR_ROUTES = ("status", "dead")
"""Of operators only: no reader's key opens them, and no page of another origin reads them."""


class Question(NamedTuple):
    """What to read. The answer may be kept for `ttl_ms`, and be shared with all who ask the same; 0: neither."""

    key: str
    """The read and its parameters, defaults filled in: the same for all who ask the same, however they spell it."""
    kind: Kind
    read: Callable[[], Awaitable[Body]]
    ttl_ms: int


class Endpoint(ABC):
    """One read under one configuration. `ask` reads nothing; the question it returns raises StoreError when read."""

    summary: ClassVar[str]
    """One line for OpenAPI. `{read.…}` stands for a key of the configuration."""
    about: ClassVar[dict[str, str]] = {}
    """Parameter → what OpenAPI says about it, where its schema does not say all."""
    ids_about: ClassVar[dict[str, str]] = {"ids": "Separated by commas.", "id": "Repeated: ids that hold commas."}
    """The same of ids, as `Parameters.entity_ids` takes them."""
    answer: ClassVar[type[Body]]
    """What is answered, without `as_of`, which follows the last field. It names the read in OpenAPI."""
    ttl_key: ClassVar[str] = "cache_ttl_ms"
    """The key of `[read]` that says how long an answer is kept."""

    def __init__(self, config: Config, stores: Stores, now: Callable[[], dt.datetime]) -> None:
        self.config = config
        self.limits = config.read
        self.ttl_ms: int = getattr(config.read, self.ttl_key)
        self.stores = stores
        self.now = now
        """In UTC."""
        self._kept = asdict(config.retention)
        self._counters = {name: domain_counters(config, name) for name in config.domains}
        self._windows = {name: offered_windows(config, name) for name in ("", *config.domains)}

    @property
    def description(self) -> str:
        """How old the counts are, for OpenAPI."""
        flush = self.config.flush
        return (
            f"Counts appear when they are flushed. They are up to {flush.interval_s:g} s (`flush.interval_s`) and"
            f" {flush.poll_ms} ms (`flush.poll_ms`), the time of two flushes, and {self.ttl_ms} ms"
            f" (`read.{self.ttl_key}`) old."
        )

    @abstractmethod
    def ask(self, place: Entity, parameters: Parameters) -> Question:
        """The question, if `parameters` has no errors then. `place`: what the path names, "" for what it does not."""

    @abstractmethod
    async def _read(self, *arguments: Any, **flags: Any) -> Body:
        """The answer to a question with these arguments."""

    def compares(self, parameters: Parameters, window: Window) -> bool:
        """The parameter `compare` of a read that is about a window."""
        compare = parameters.flag("compare")
        if compare and window == "total":
            parameters.wrong("compare", say(rejection.NOTHING_BEFORE, what=f"the window {window}"))
        return compare

    def today(self) -> dt.date:
        """The UTC day."""
        return self.now().date()

    def windows(self, domain: str) -> tuple[Window, ...]:
        """The windows that are offered; of any domain, for OpenAPI, if the domain is ""."""
        return self._windows[domain]

    def question(self, kind: Kind, *arguments: object, ttl_ms: int, **flags: bool) -> Question:
        """`arguments`, `flags`: of `_read`. Who gives the same asks the same."""
        key = repr((self.answer.__name__, arguments, flags))
        return Question(key, kind, partial(self._read, *arguments, **flags), ttl_ms)

    def kind_of(self, documents: int) -> Kind:
        """The kind of a question that reads so many documents at most."""
        return Kind.SERIES if documents <= DOCUMENTS_FEW else Kind.MANY

    async def window_sums(
        self, place: Entity, ids: Collection[str], counters: Collection[str], span: Span, before: Span | None = None
    ) -> tuple[Sums, Sums]:
        """As of `sums.window_sums`, in the time that sums may take."""
        timeout_s = self.limits.sum_timeout_ms / 1000
        mongo = self.stores.mongo
        return await window_sums(mongo, place.domain, place.type, ids, counters, span, before, sum_timeout_s=timeout_s)

    def before(self, window: Window) -> Span | None:
        """The window before, whole. None: there is none, or documents of it have expired, so nobody can say."""
        span = span_before(span_of(window, self.now()), window)
        if span is None or not isinstance(span.kind, Bucketed):
            return None
        return span if self.is_kept(span.kind, span.buckets[0]) else None

    def is_kept(self, rollup: Bucketed, bucket: str) -> bool:
        """Whether the retention keeps the documents of the bucket."""
        kept_from = rollup.kept_from(self.now(), self._kept)
        return kept_from is None or bucket >= kept_from

    def types(self, domain: str) -> tuple[str, ...]:
        """The entity types of a domain; of all domains, for OpenAPI, if the domain is ""."""
        section = self.config.domains.get(domain)
        if section is not None:
            return section.entity_types
        return tuple(sorted({name for each in self.config.domains.values() for name in each.entity_types}))

    def counters(self, domain: str) -> tuple[str, ...]:
        """The counters of a domain, sorted; of all domains, for OpenAPI, if the domain is ""."""
        return self._counters.get(domain) or tuple(sorted({each for of in self._counters.values() for each in of}))
