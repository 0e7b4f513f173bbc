"""Browsers: which pages' scripts may send events and read the answers (CORS, https://fetch.spec.whatwg.org/).

`app.py` asks it if `[browser] origins` has any, and never otherwise. Cookies play no part, so no answer allows
credentials. A client that is no browser sends no `Origin` and is not affected: this keeps pages out, not programs.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from urllib.parse import urlsplit

from daemon.ingest import response
from daemon.ingest.requests import RequestHead
from daemon.response import Header, Response

_EXPOSED = ("retry-after", "x-tallyd-duplicate", "x-ratelimit-limit", "x-ratelimit-remaining")
_EXPOSE: Header = ("access-control-expose-headers", ", ".join(_EXPOSED))
_VARY: Header = ("vary", "origin")


class _Page:
    """The answers to the pages of one origin, or to those of no named one."""

    def __init__(self, headers: Sequence[Header]) -> None:
        self._headers = headers
        self._allows = headers != [_VARY]
        self.accepted = lru_cache(response.ANSWERS_KEPT)(self.dress)
        """The same of a 202 to a single event."""

    def dress(self, answer: Response) -> Response:
        """The answer with these headers. Each header costs the server 0.5 us: so none exposes what is not there."""
        exposes = self._allows and any(name in _EXPOSED for name, _ in answer.headers)
        return answer.plus([*self._headers, _EXPOSE] if exposes else self._headers)


class Origins:
    """Of one configuration."""

    def __init__(self, origins: Sequence[str]) -> None:
        self._all = _Page([("access-control-allow-origin", "*")]) if "*" in origins else None
        self._named = {origin: _Page([_VARY, ("access-control-allow-origin", origin)]) for origin in origins}
        self._others = _Page([_VARY])

    def allows(self, head: RequestHead) -> bool:
        """Whether the events are counted: they come from a page of an allowed origin, of our own, or from no page."""
        return self._all is not None or self._knows(_first(head, "origin"), head)

    def shows(self, head: RequestHead) -> bool:
        """The same for an image, whose request has no `Origin`: its page is told by `Referer`."""
        if self._all is not None:
            return True
        try:
            page = urlsplit(_first(head, "referer"))
        except ValueError:  # no browser's: "http://["
            return False
        origin = f"{page.scheme}://{page.netloc}" if page.netloc else ""
        if not origin and _first(head, "sec-fetch-site") in ("cross-site", "same-site"):
            return False  # a foreign page that does not say which
        return self._knows(origin, head)

    def _knows(self, origin: str, head: RequestHead) -> bool:
        return not origin or origin in self._named or origin.partition("://")[2] == _first(head, "host").lower()

    def dress(self, answer: Response, head: RequestHead) -> Response:
        """The answer with the headers that its page may ask for."""
        page = self._page(head)
        return page.accepted(answer) if answer.body is response.ACCEPTED.body else page.dress(answer)

    def preflight(self, head: RequestHead) -> Response:
        """Whether the page may send; one that may not gets the same 204, without a permission."""
        return response.PREFLIGHT if self._page(head) is not self._others else response.NO_PREFLIGHT

    def _page(self, head: RequestHead) -> _Page:
        return self._all or self._named.get(_first(head, "origin"), self._others)


def host_of(head: RequestHead) -> str:
    """The name that the client asked for, without a port and in lower case; "" if it named none."""
    host = _first(head, "host").lower()
    name, _, port = host.rpartition(":")
    return name if port.isdigit() else host


def _first(head: RequestHead, name: str) -> str:
    values = head.headers.get_all(name)
    return values[0] if values else ""
