"""The file that `tallyd key` keeps (`keys.file`): the keys of producers and readers, hashed.

Who calls it: `load`, which checks the entries like those of the configuration, and `tallyd key`. It never holds a key
itself, but for one that signs: an HMAC is made with the secret, so the secret has to be there.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import msgspec

from daemon.errors import ConfigError

HASH_PREFIX = "sha256:"


def hashed(key: str) -> str:
    """A key at rest. It is random, so one round of SHA-256 is enough: there is nothing to guess."""
    return HASH_PREFIX + hashlib.sha256(key.encode()).hexdigest()


def at_rest(key: str) -> str:
    """The hash of a key that a configuration holds in clear, or as its hash."""
    return key if key.startswith(HASH_PREFIX) else hashed(key)


def has_expired(expires: str, today: str) -> bool:
    """`expires`: the first day on which a key is refused, "" for never. Both days as 2027-01-31."""
    return bool(expires) and today >= expires


def read_entries(file: Path) -> list[Any]:
    """The entries as plain data, not checked yet; none if there is no file. Raises ConfigError."""
    try:
        found = msgspec.json.decode(file.read_bytes())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ConfigError(f"Cannot read {file} (keys.file): {error.strerror}.") from None
    except msgspec.DecodeError as error:
        raise ConfigError(f"{file} (keys.file) is not what `tallyd key` wrote: {error}.") from None
    if not isinstance(found, dict) or not isinstance(entries := found.get("entries"), list):
        raise ConfigError(f"{file} (keys.file) is not what `tallyd key` wrote.")
    return entries
