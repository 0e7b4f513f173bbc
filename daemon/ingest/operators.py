"""Who may see the dashboard: operators with a key, and without any key a browser on this machine.

`app.py` asks it for the page and for reads. What comes from this machine is told by three things together. The
connection is from loopback. The name that was asked for is one of loopback: a page of a foreign name, which somebody
pointed at 127.0.0.1 (DNS rebinding), asks for its own name. No header of a proxy is there: a proxy that nobody declared
connects from loopback, too. nginx with a bare `proxy_pass` sends no such header and asks for loopback's name. But it
does not pass on the `Connection: keep-alive` that every browser sends: it says "close", and since 1.29.7 nothing. A
proxy that hides itself better cannot be told from a browser. So a key is the only safe door as soon as there is a
proxy, and `tallyd doctor` says so.

A browser on this machine needs no key, and one that was told the key sends it by itself. So a script of any other page
could ask in the operator's name, and with `read.cors_origins` read the answer. Such a request is nobody's.
"""

from __future__ import annotations

import ipaddress
from http import HTTPStatus

from daemon.config import Config, key_hashes
from daemon.ingest.address import is_loopback
from daemon.ingest.origins import host_of
from daemon.ingest.requests import RequestHead
from daemon.read.credentials import is_good, key_of
from daemon.response import message

PROXY_HEADERS = (
    "forwarded",
    "via",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-forwarded-server",
    "x-forwarded-port",
    "x-forwarded-prefix",
    "x-real-ip",
    "x-client-ip",
    "x-cluster-client-ip",
    "x-original-forwarded-for",
    "x-envoy-external-address",
    "cf-connecting-ip",
    "true-client-ip",
)
"""A request with one of them came through a proxy, or pretends to."""
_BROWSER_NAMES = ("localhost", "[::1]")

KEY_NEEDED = message(
    HTTPStatus.UNAUTHORIZED,
    "The dashboard needs an operator's key: any user, and the key as the password.",
    ("www-authenticate", 'Basic realm="tallyd", charset="UTF-8"'),
    ("cache-control", "no-store"),
)
NO_KEY_SET = message(
    HTTPStatus.FORBIDDEN,
    "Only a browser on the daemon's own machine sees this, without a proxy, until there is an operator's key: `tallyd"
    " key new --operator NAME`, or dashboard.key.",
    ("cache-control", "no-store"),
)


class Operators:
    """Of one configuration."""

    def __init__(self, config: Config) -> None:
        self._hashes = key_hashes(config, "operator")
        self._at_hand = config.dashboard.enabled and not self._hashes and not config.http.trusted_proxies
        """Whether a browser on this machine needs no key."""
        self.refusal = KEY_NEEDED if self._hashes else NO_KEY_SET

    def admit(self, head: RequestHead) -> bool:
        """Whether an operator sent the request."""
        if self._hashes:
            authorization = next(iter(head.headers.get_all("authorization")), "")
            by_browser = not head.key and authorization[:6].lower() == "basic "
            if by_browser and _is_foreign_page(head):
                return False
            return is_good(key_of(head.key, authorization), self._hashes)
        return self._at_hand and _is_at_hand(head) and not _is_foreign_page(head)


def _is_foreign_page(head: RequestHead) -> bool:
    """Whether a page of another origin asks, by a script or to show it as its own. A link does no harm."""
    get_all = head.headers.get_all
    origin, host = (next(iter(get_all(name)), "") for name in ("origin", "host"))
    if origin and origin.partition("://")[2] != host.lower():
        return True
    site, mode = (next(iter(get_all(name)), "") for name in ("sec-fetch-site", "sec-fetch-mode"))
    return site in ("cross-site", "same-site") and mode != "navigate"


def _is_at_hand(head: RequestHead) -> bool:
    """Whether a program on this machine sent it, and asked for this machine."""
    if not is_loopback(head.client) or len(head.headers.get_all("host")) != 1:
        return False
    # Whether it is there: a value that is not ASCII is not returned, and a client may make the proxy send one.
    if any(name in head.headers for name in PROXY_HEADERS):
        return False
    if [value.lower() for value in head.headers.get_all("connection")] != ["keep-alive"]:
        return False
    host = host_of(head)
    if host in _BROWSER_NAMES:
        return True
    try:
        return ipaddress.IPv4Address(host).is_loopback
    except ValueError:
        return False
