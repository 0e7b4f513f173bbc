"""What became of a write to a sink. One shape for all of them."""

from __future__ import annotations

from typing import NamedTuple


class Failure(NamedTuple):
    """One document or row that cannot take what it was given, and why. Waiting would not help it."""

    target: str
    """Collection or table."""
    id: str
    reason: str


class SinkResult(NamedTuple):
    """Counts of documents or rows. A write that could not be decided is no result but a StoreError."""

    applied: int
    already: int = 0
    """Left alone because they hold this claim already."""
    missing: int = 0
    """Have no row to be written to."""
    failures: tuple[Failure, ...] = ()
    inserted: int = 0
    """Of those applied, the ones that were not there before. Of a claim: its new entities."""

    def plus(self, other: SinkResult) -> SinkResult:
        """Both together."""
        return SinkResult(
            self.applied + other.applied,
            self.already + other.already,
            self.missing + other.missing,
            self.failures + other.failures,
            self.inserted + other.inserted,
        )
