"""The client behind trusted proxies: only what they wrote themselves is believed."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.ingest.address import CHARS_CACHED_MAX, TrustedProxies, is_near

NEAR, FAR = "10.0.0.1", "10.0.0.2"
"""Two proxies of ours: the one that connects to us, and the one in front of it."""
CLIENT = "198.51.100.7"
proxies = TrustedProxies(["10.0.0.0/8", "2001:db8:ffff::/48", "unix"], "x-forwarded-for", 100)
standard = TrustedProxies(["10.0.0.0/8"], "forwarded", 100)


@pytest.mark.parametrize(
    ("line", "client"),
    [
        (CLIENT, CLIENT),
        (f"{CLIENT}, {FAR}", CLIENT),
        (f"6.6.6.6, {CLIENT}, {FAR}", CLIENT),
        (f"{CLIENT}:4711", CLIENT),
        (f"[{'2001:db8::1'}]:4711", "2001:db8::1"),
        ("[2001:DB8:0::1]", "2001:db8::1"),
        ("2001:db8::1", "2001:db8::1"),
        (f"::ffff:{CLIENT}", CLIENT),
        (f"{CLIENT},2001:db8:ffff::1", CLIENT),
        (f" {CLIENT} ,\t{FAR} ", CLIENT),
        (f"{FAR}, 10.0.0.9", FAR),  # a client inside the trusted network
    ],
)
def test_the_client_is_the_last_address_that_is_no_proxy(line: str, client: str) -> None:
    assert proxies.client_of(NEAR, [line]) == client


@pytest.mark.parametrize("peer", ["6.6.6.6", "2001:db8::6", "11.0.0.1", "[2001:db8::6]"])
def test_the_header_of_an_untrusted_peer_counts_for_nothing(peer: str) -> None:
    assert proxies.client_of(peer, [CLIENT]) == peer


@pytest.mark.parametrize("peer", ["::ffff:10.0.0.1", "[::ffff:10.0.0.1]", ""])
def test_a_proxy_is_known_by_its_mapped_address_and_by_the_unix_socket(peer: str) -> None:
    assert proxies.client_of(peer, [CLIENT]) == CLIENT


def test_a_unix_socket_is_trusted_only_by_name() -> None:
    assert TrustedProxies(["10.0.0.0/8"], "x-forwarded-for", 1).client_of("", [CLIENT]) == ""


@pytest.mark.parametrize(
    "broken",
    ["", "unknown", "_hidden", "198.51.100", "198.51.100.7:x", "[::1", "::1]", "a.example", "fe80::1%eth0", "1.2.3.4.5",
     "198.51.100.7:123456", '"198.51.100.7"', "0x1.2.3.4", "01.2.3.4", "1.2.3.4 5.6.7.8", "for=1.2.3.4"],
)  # fmt: skip
def test_a_hop_without_an_address_ends_the_walk_and_its_proxy_pays(broken: str) -> None:
    assert proxies.client_of(NEAR, [f"{CLIENT}, {broken}"]) == NEAR
    assert proxies.client_of(NEAR, [f"{CLIENT}, {broken}, {FAR}"]) == FAR


def test_lines_of_the_header_are_one_list_in_their_order() -> None:
    assert proxies.client_of(NEAR, ["6.6.6.6", f"{CLIENT}, {FAR}"]) == CLIENT
    assert proxies.client_of(NEAR, [CLIENT, "6.6.6.6"]) == "6.6.6.6"
    assert proxies.client_of(NEAR, []) == NEAR


@pytest.mark.parametrize(
    ("line", "client"),
    [
        (f"for={CLIENT}", CLIENT),
        (f"For={CLIENT};Proto=https;by=203.0.113.43", CLIENT),
        (f'proto=http; for="{CLIENT}:47011"', CLIENT),
        ('for="[2001:db8:cafe::17]:4711"', "2001:db8:cafe::17"),
        (f'for=6.6.6.6, for={CLIENT}, for="{FAR}"', CLIENT),
        (f"for={CLIENT}, for=unknown", NEAR),
        (f"for={CLIENT}, for=_hidden", NEAR),
        (f"for={CLIENT}, for=_SEVKISEK, for={FAR}", FAR),
        (f"for={CLIENT}, by=203.0.113.43", NEAR),
        (f"for={CLIENT};for=6.6.6.6", NEAR),
        (f"{CLIENT}", NEAR),
        # Whatever a client gets into a quoted value, the last piece has its closing quote, and fits nothing.
        (f'for={CLIENT};host="a, for=6.6.6.6"', NEAR),
        (f'for={CLIENT};host="a, for=6.6.6.6;b="', NEAR),
        (f'for={CLIENT};host="a, for=6.6.6.6;b=\\""', NEAR),
        (f'for="6.6.6.6, for={CLIENT}', CLIENT),  # a client's open quote does not swallow what the proxy added
    ],
)
def test_the_standard_header_is_walked_alike(line: str, client: str) -> None:
    assert standard.client_of(NEAR, [line]) == client


def test_long_headers_are_not_remembered_and_the_memory_is_bounded() -> None:
    few = TrustedProxies(["10.0.0.0/8"], "x-forwarded-for", 10)
    for number in range(100):
        assert few.client_of(NEAR, [f"198.51.100.{number}"]) == f"198.51.100.{number}"
        assert few.client_of(NEAR, [f"{'6.6.6.6, ' * CHARS_CACHED_MAX}198.51.100.{number}"]) == f"198.51.100.{number}"
    kept = few._cached
    assert 0 < len(kept) <= 10
    assert all(len(text) <= CHARS_CACHED_MAX for _, text in kept)


addresses = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)).map(str)


@given(forged=st.text(st.characters(max_codepoint=127)), client=addresses, hops=st.lists(st.sampled_from([FAR, NEAR])))
def test_nothing_a_client_writes_changes_who_it_is(forged: str, client: str, hops: list[str]) -> None:
    parsed = ipaddress.ip_address(client)
    expected = str(getattr(parsed, "ipv4_mapped", None) or parsed)
    if proxies._trusts(expected):
        return
    assert proxies.client_of(NEAR, [", ".join([forged, client, *hops])]) == expected
    assert proxies.client_of(NEAR, [forged, *[", ".join([client, *hops])]]) == expected
    elements = [f'for="[{each}]"' if ":" in each else f"for={each}" for each in (client, *hops)]
    if standard.client_of(NEAR, elements[:1]) == expected:
        assert standard.client_of(NEAR, [", ".join([forged, *elements])]) == expected


@given(st.text(), st.lists(st.text(st.sampled_from('0123456789abcdef.:[],;="%_ for'))))
def test_no_header_raises(peer: str, lines: list[str]) -> None:
    proxies.client_of(peer, lines)
    standard.client_of(NEAR, lines)


@pytest.mark.parametrize(
    ("peer", "near"),
    [("127.0.0.1", True), ("10.1.2.3", True), ("[::1]", True), ("fd00::1", True), ("", True), ("8.8.8.8", False)],
)
def test_a_proxy_of_ones_own_is_in_a_private_network(peer: str, near: bool) -> None:
    assert is_near(peer) == near
