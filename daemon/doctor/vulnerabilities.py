"""Known vulnerabilities of Redis that somebody who can reach it, or who gets at tallyd's password, could use.

Each with the first release that is without it, per branch, as the release notes of Redis have them (state: September
2026). A branch that is not named got no such release unless it is newer than all that are. Whoever adds one looks it
up first.
"""

from __future__ import annotations

from typing import NamedTuple

from daemon.doctor import version
from daemon.doctor.version import Version


class Vulnerability(NamedTuple):
    """`fixed`: one release a branch. `since`: the first release that has it."""

    id: str
    what: str
    fixed: tuple[Version, ...]
    since: Version = (0, 0, 0)

    def affects(self, release: Version) -> bool:
        if release < self.since:
            return False
        same_branch = [fixed for fixed in self.fixed if fixed[:2] == release[:2]]
        return release < same_branch[0] if same_branch else release < max(self.fixed)


VULNERABILITIES = (
    Vulnerability(
        "CVE-2026-81934", "use after free in pending TLS data: code execution (only with TLS)",
        ((6, 2, 24), (7, 2, 16), (7, 4, 11), (8, 2, 9), (8, 4, 6), (8, 6, 6), (8, 8, 2)),
    ),
    Vulnerability(
        "CVE-2026-25243", "RESTORE accesses invalid memory: code execution",
        ((6, 2, 22), (7, 2, 14), (7, 4, 9), (8, 2, 6), (8, 4, 3), (8, 6, 3)),
    ),
    Vulnerability(
        "CVE-2026-23631", "use after free in Lua on a writable replica: code execution",
        ((7, 2, 14), (7, 4, 9), (8, 2, 6), (8, 4, 3), (8, 6, 3)), since=(7, 0, 0),
    ),
    Vulnerability(
        "CVE-2025-49844", "use after free in Lua's parser: code execution",
        ((6, 2, 20), (7, 2, 11), (7, 4, 6), (8, 0, 4), (8, 2, 2)),
    ),
    Vulnerability(
        "CVE-2025-46817", "integer overflow in Lua: code execution",
        ((6, 2, 20), (7, 2, 11), (7, 4, 6), (8, 0, 4), (8, 2, 2)),
    ),
    Vulnerability(
        "CVE-2025-46818", "a Lua script can be run as another user",
        ((6, 2, 20), (7, 2, 11), (7, 4, 6), (8, 0, 4), (8, 2, 2)),
    ),
    Vulnerability(
        "CVE-2025-46819", "a Lua script can read beyond its memory",
        ((6, 2, 20), (7, 2, 11), (7, 4, 6), (8, 0, 4), (8, 2, 2)),
    ),
    Vulnerability(
        "CVE-2025-32023", "out-of-bounds write in HyperLogLog: code execution",
        ((6, 2, 19), (7, 2, 10), (7, 4, 5), (8, 0, 3)),
    ),
    Vulnerability(
        "CVE-2025-21605", "a client without password can use up the memory",
        ((6, 2, 18), (7, 2, 8), (7, 4, 3)),
    ),
    Vulnerability(
        "CVE-2024-46981", "use after free in Lua: code execution",
        ((6, 2, 17), (7, 2, 7), (7, 4, 2)),
    ),
    Vulnerability(
        "CVE-2024-31449", "stack overflow in Lua's bit library: code execution",
        ((6, 2, 16), (7, 2, 6), (7, 4, 1)),
    ),
    Vulnerability(
        "CVE-2023-41056", "heap overflow while buffers grow: code execution",
        ((7, 0, 15), (7, 2, 4)), since=(7, 0, 9),
    ),
    Vulnerability(
        "CVE-2023-45145", "the unix socket is open to all for a moment at start-up",
        ((6, 2, 14), (7, 0, 14), (7, 2, 2)),
    ),
    Vulnerability(
        "CVE-2022-24834", "heap overflow in Lua's cjson and cmsgpack: code execution",
        ((6, 0, 20), (6, 2, 13), (7, 0, 12)),
    ),
    Vulnerability(
        "CVE-2022-24735", "a Lua script can plant code that runs as another user",
        ((6, 2, 7), (7, 0, 0)),
    ),
)  # fmt: skip


def affecting(release: str) -> list[Vulnerability]:
    """Those a release has by its number. A distribution may have mended it without changing the number."""
    return [each for each in VULNERABILITIES if each.affects(version.parse(release))]
