"""Whose request it is, when trusted proxies stand in front: their header, walked from the right.

`app.py` asks for each request if `http.trusted_proxies` is set, and for none otherwise. Each proxy appends the address
that it was connected from. So the last entry is the word of the nearest proxy, and the walk stops at the first address
that is no trusted proxy. Everything left of it is what that client wrote, and counts for nothing. Only the configured
header is read: a proxy that writes X-Forwarded-For passes on a `Forwarded` that a client made up (RFC 7239, 8.1).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Sequence

from daemon.config import UNIX

HEADERS = ("x-forwarded-for", "forwarded")
CHARS_CACHED_MAX = 256
"""A longer header is walked each time: a client chose its length."""

_ELEMENT = re.compile(
    r"""\s*(?:[!#$%&'*+.^_`|~0-9A-Za-z-]+=(?:"[^"\\,]*"|[^\s",;]+))"""
    r"""(?:\s*;\s*[!#$%&'*+.^_`|~0-9A-Za-z-]+=(?:"[^"\\,]*"|[^\s",;]+))*\s*"""
)
"""An element of `Forwarded` without a comma in it. A quoted comma splits an element in two, and neither half fits."""
_FOR = re.compile(r"""(?:\A|;)\s*for=(?:"([^"]*)"|([^\s";]*))""", re.IGNORECASE)
_NODE = re.compile(r"\[([^\]]*)\](?::[0-9]{1,5})?|([0-9.]+):[0-9]{1,5}")
"""An address with brackets, a port, or both."""

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


class TrustedProxies:
    """Of one configuration. It remembers what it has walked, `cached_max` headers at most."""

    def __init__(self, proxies: Sequence[str], header: str, cached_max: int) -> None:
        """`proxies`: networks, addresses, or "unix". `header`: the one that they write, in lower case."""
        self.header = header
        self._unix = UNIX in proxies
        self._networks = [ipaddress.ip_network(each) for each in proxies if each != UNIX]
        self._node: Callable[[str], str | None] = _forwarded_node if header == "forwarded" else str.strip
        self._cached_max = cached_max
        self._cached: dict[tuple[str, str], str] = {}

    def client_of(self, peer: str, lines: Sequence[str]) -> str:
        """The address of the client. `peer`: that of the connection, "" for a unix socket. `lines`: the header's, in
        the order in which they came; a line that is not ASCII is missing.

        A hop that names no address (`unknown`, `_hidden`, anything broken) ends the walk: the proxy that wrote it pays.
        """
        if not lines:
            return peer
        text = lines[0] if len(lines) == 1 else ",".join(lines)
        found = self._cached.get((peer, text))
        if found is None:
            found = self._walk(peer, text)
            if len(text) <= CHARS_CACHED_MAX:
                if len(self._cached) >= self._cached_max:
                    self._cached.clear()
                self._cached[peer, text] = found
        return found

    def _walk(self, peer: str, text: str) -> str:
        address, rest = peer, text
        while rest and self._trusts(address):
            rest, _, last = rest.rpartition(",")
            node = self._node(last)
            parsed = _parse(node) if node else None
            if parsed is None:
                break
            address = str(parsed)
        return address

    def _trusts(self, address: str) -> bool:
        parsed = _parse(address)
        return self._unix if parsed is None else any(parsed in network for network in self._networks)


def is_near(peer: str) -> bool:
    """Whether a peer is one of this network, as a proxy of one's own is: loopback, private, link-local, or unix."""
    parsed = _parse(peer)
    return parsed is None or parsed.is_private


def is_loopback(peer: str) -> bool:
    """Whether a peer connected from this machine, over loopback."""
    parsed = _parse(peer)
    return parsed is not None and parsed.is_loopback


def _forwarded_node(element: str) -> str | None:
    """The node that an element of `Forwarded` names with `for=`; None if it names none, or two."""
    if not _ELEMENT.fullmatch(element):
        return None
    named = _FOR.findall(element)
    return named[0][0] or named[0][1] if len(named) == 1 else None


def _parse(node: str) -> IpAddress | None:
    """The address of a node, which may have brackets and a port."""
    found = _NODE.fullmatch(node)
    try:
        parsed = ipaddress.ip_address(found[1] or found[2] if found else node)
    except ValueError:
        return None
    if parsed.version == 4:
        return parsed
    return None if parsed.scope_id else parsed.ipv4_mapped or parsed
