"""The name of a claim."""

from __future__ import annotations

from typing import NamedTuple


class ClaimName(NamedTuple):
    """`seq`: a number that only grows. `nonce`: a text that no other claim has; "": an older version made the claim.

    Two claims of a shard may have one seq, in two histories of a Redis. Of those in the journal, each has its own.
    """

    seq: int
    nonce: str


NO_CLAIM = ClaimName(0, "")
"""The one before the first."""
