"""The key that a reader or an operator sends: in which headers it may be, and whether it is a good one.

`api.py` and `ingest/operators.py` ask it. Only hashes are compared, so the time that it takes tells nothing of a key.
"""

from __future__ import annotations

import binascii
import datetime as dt
from base64 import b64decode
from collections.abc import Mapping

from daemon.config import has_expired, hashed

AUTHORIZATION_CHARS_MAX = 1_024
"""A key has 255 characters at most. A longer header names none."""


def key_of(tallyd_key: str, authorization: str) -> str:
    """The key of a request; "" if it has none. `tallyd_key`, `authorization`: these headers, "" for a missing one.

    Of `Basic` it is the password (RFC 7617): a browser sends that by itself once its user has typed it.
    """
    if tallyd_key:
        return tallyd_key
    scheme, _, given = authorization[:AUTHORIZATION_CHARS_MAX].partition(" ")
    if scheme.lower() == "bearer":
        return given.strip()
    if scheme.lower() == "basic":
        try:
            return b64decode(given.strip(), validate=True).partition(b":")[2].decode("latin-1")
        except (binascii.Error, ValueError):
            return ""
    return ""


def is_good(key: str, hashes: Mapping[str, str]) -> bool:
    """Whether this is one of these keys, and has not expired. `hashes`: as of `config.key_hashes`."""
    until = hashes.get(hashed(key)) if key else None
    return until is not None and not has_expired(until, dt.datetime.now(dt.UTC).date().isoformat())
