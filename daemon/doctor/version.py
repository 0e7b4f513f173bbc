"""Version numbers of servers, to be compared. A version that cannot be read is older than any other."""

from __future__ import annotations

import re

Version = tuple[int, int, int]

_NUMBERS = re.compile(r"(\d+)\.(\d+)(?:\.(\d+))?")


def parse(text: str) -> Version:
    """The first dotted number of a text: `10.11.19-MariaDB-0+deb12u1` is (10, 11, 19)."""
    match = _NUMBERS.search(text)
    return (int(match[1]), int(match[2]), int(match[3] or 0)) if match else (0, 0, 0)


def dotted(version: Version) -> str:
    return ".".join(map(str, version))
