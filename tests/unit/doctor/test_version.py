"""Version numbers of servers."""

from __future__ import annotations

import pytest

from daemon.doctor import version


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("10.11.19-MariaDB-0+deb12u1", (10, 11, 19)),
        ("8.0.36", (8, 0, 36)),
        ("8.4", (8, 4, 0)),
        ("7.2.4-rc1", (7, 2, 4)),
        ("unstable", (0, 0, 0)),
    ],
)
def test_a_version_is_its_first_dotted_number(text: str, parsed: tuple[int, int, int]) -> None:
    assert version.parse(text) == parsed
