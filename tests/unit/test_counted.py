"""What was counted, in words."""

from __future__ import annotations

import pytest

from daemon.counted import in_words


@pytest.mark.parametrize(
    ("amounts", "words"),
    [
        ({("a:b:c", "view"): 1}, "1 view of a:b:c"),
        ({("a:b:c", "view"): 2_000, ("a:b:c", "download"): 1}, "2,000x view of a:b:c, 1 download of a:b:c"),
        ({(f"a:b:{n}", "view"): 1 for n in range(4)}, "4x view of 4 entities"),
        ({(f"a:b:{n % 3}", str(n // 3)): 5 for n in range(6)}, "15x 0, 15x 1 of 3 entities"),
    ],
)
def test_a_few_are_named_and_many_are_summed(amounts: dict[tuple[str, str], int], words: str) -> None:
    assert in_words(amounts) == words
