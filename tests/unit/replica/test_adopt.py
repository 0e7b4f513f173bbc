"""Which totals documents lack a base, and which can't have one."""

from __future__ import annotations

from typing import Any

import pytest

from daemon.replica.adopt import fits, holds_numbers, lacking

COUNTERS = ("view", "download")


@pytest.mark.parametrize(
    ("document", "names"),
    [
        (None, ["view", "download"]),
        ({"view": 3}, ["view", "download"]),
        ({"base": {"view": 0}}, ["download"]),
        ({"base": {"view": 0, "download": 1}}, []),
    ],
)
def test_a_document_lacks_the_bases_it_does_not_name(document: dict[str, Any] | None, names: list[str]) -> None:
    assert lacking(document, COUNTERS) == names


@pytest.mark.parametrize("edited", [{"view": "3"}, {"view": 1.5}, {"base": {"download": None}}, {"base": "many"}])
def test_an_edited_document_holds_no_numbers(edited: dict[str, Any]) -> None:
    assert holds_numbers({"view": 3, "base": {"view": 1}}, COUNTERS)
    assert not holds_numbers(edited, COUNTERS)


def test_a_row_beyond_64_bits_does_not_fit() -> None:
    assert fits({"view": 2**63 - 1})
    assert not fits({"view": 2**63})
