"""What became of a request whose events were sent to Redis.

`wire.py` makes the first two from a reply, the batcher makes the third, and the handler turns all into answers.
"""

from __future__ import annotations

import msgspec


class Counted(msgspec.Struct, frozen=True, gc=False):
    """Redis counted `new` events of the request. Its other events were duplicates."""

    new: int


class Limited(msgspec.Struct, frozen=True, gc=False):
    """The request's address is over its rate limit, so nothing was counted. It may ask again in `left_ms` (≥ 1)."""

    left_ms: int


class Failed(msgspec.Struct, frozen=True, gc=False):
    """It is unknown whether Redis counted the events. The client may send them again: their ids decide."""

    why: str


Outcome = Counted | Limited | Failed
