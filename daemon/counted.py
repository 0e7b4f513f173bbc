"""Counted events in words: the lines that `log.counts` switches on. `tallyd dev` shows them.

`ingest/told.py` and the flusher say them. Whoever does not want them pays nothing for an event.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping

TOLD = logging.getLogger(__name__)
"""Its level says whether they are wanted: see `log.configure`."""
NAMED_MAX = 3
"""So many amounts stand one by one. Of more, a line has the sums."""


def are_wanted() -> bool:
    return TOLD.isEnabledFor(logging.INFO)


def in_words(amounts: Mapping[tuple[str, str], int]) -> str:
    """`amounts`: (entity key, counter) → amount."""
    if len(amounts) <= NAMED_MAX:
        return ", ".join(f"{times(amount)}{counter} of {entity}" for (entity, counter), amount in amounts.items())
    sums: Counter[str] = Counter()
    for (_, counter), amount in amounts.items():
        sums[counter] += amount
    entities = {entity for entity, _ in amounts}
    return f"{', '.join(times(amount) + counter for counter, amount in sums.items())} of {len(entities):,} entities"


def times(amount: int) -> str:
    return "1 " if amount == 1 else f"{amount:,}x "
