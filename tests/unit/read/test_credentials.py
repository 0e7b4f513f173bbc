"""The key of a request, from the headers it may be in."""

from __future__ import annotations

from base64 import b64encode

import pytest

from daemon.config import hashed
from daemon.read.credentials import AUTHORIZATION_CHARS_MAX, is_good, key_of

KEY = "a-key-of-somebody"


def basic(text: str) -> str:
    return f"Basic {b64encode(text.encode()).decode()}"


@pytest.mark.parametrize(
    ("tallyd_key", "authorization", "found"),
    [
        ("", "", ""),
        (KEY, "", KEY),
        (KEY, "Bearer another", KEY),
        ("", f"Bearer {KEY}", KEY),
        ("", f"bearer  {KEY} ", KEY),
        ("", basic(f"user:{KEY}"), KEY),
        ("", basic(f":{KEY}").replace("Basic", "bAsIc"), KEY),
        ("", basic(f"user:{KEY}:more"), f"{KEY}:more"),
        ("", basic(KEY), ""),
        ("", f"Basic {KEY}", ""),
        ("", "Basic", ""),
        ("", "Basic ====", ""),
        ("", "Basic \xe9", ""),
        ("", f"Digest {KEY}", ""),
        ("", KEY, ""),
    ],
)
def test_the_key_is_found(tallyd_key: str, authorization: str, found: str) -> None:
    assert key_of(tallyd_key, authorization) == found


def test_a_header_that_is_too_long_names_no_key() -> None:
    assert len(key_of("", "Bearer " + "x" * 100_000)) < AUTHORIZATION_CHARS_MAX


def test_only_a_known_key_that_has_not_expired_is_good() -> None:
    assert is_good(KEY, {hashed(KEY): ""})
    assert is_good(KEY, {hashed(KEY): "9999-12-31"})
    assert not is_good(KEY, {hashed(KEY): "2026-01-01"})
    assert not is_good("", {hashed(""): ""}), "an entry without a hash opens nothing"
    assert not is_good("", {"": ""})
    assert not is_good(hashed(KEY), {hashed(KEY): ""})
