"""What a totals document says of its row."""

from __future__ import annotations

from typing import Any

import pytest

from daemon.replica.synced import synced


@pytest.mark.parametrize(
    ("document", "amounts"),
    [
        ({"synced": {"view": 3, "download": 0, "like": 1}}, {"view": 3, "download": 0}),
        ({"synced": {"view": 3}}, None),
        ({"synced": {"view": 3, "download": "many"}}, None),
        ({"synced": "all"}, None),
        ({}, None),
    ],
)
def test_it_says_all_of_a_row_or_nothing(document: dict[str, Any], amounts: dict[str, int] | None) -> None:
    assert synced(document, ("view", "download")) == amounts
