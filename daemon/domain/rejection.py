"""Why a request is answered 422."""

from __future__ import annotations

from typing import Any

from msgspec import Struct


class Rejection(Struct, frozen=True, gc=False):
    """For every wrong field of an event, or parameter of a read: what is wrong with it."""

    errors: dict[str, list[str]]

    def as_laravel(self) -> dict[str, Any]:
        """The body of a 422: `{"message": …, "errors": {field: […]}}`, which existing producers parse."""
        texts = [text for field in self.errors.values() for text in field]
        more = len(texts) - 1
        tail = f" (and {more} more error{'s' if more > 1 else ''})" if more else ""
        return {"message": texts[0] + tail, "errors": self.errors}
