"""Whether an answer is the documented one for its parcel. Pure."""

from __future__ import annotations

import json
from typing import Any

from loadtest.parcels import Parcel
from tests.kit.events import BATCH

ACCEPTED = b'{"status":"accepted"}'
QUOTED_BYTES_MAX = 200


def is_known(status: int) -> bool:
    """Whether the answer tells the outcome of the events. No answer and 5xx do not."""
    return 0 < status < 500


def complaint(parcel: Parcel, status: int, body: bytes) -> str:
    """What is wrong with an answer whose outcome is known; "" if nothing is."""
    if status != parcel.status:
        return f"{status} in place of {parcel.status}: {_quoted(body)}"
    if parcel.path != BATCH:
        if status == 202:
            return "" if body == ACCEPTED else f"202 with {_quoted(body)}"
        return _fields_complaint(parcel, _json(body)) if status == 422 else ""
    return _batch_complaint(parcel, _json(body))


def _fields_complaint(parcel: Parcel, answer: Any) -> str:
    named = set(answer["errors"]) if isinstance(answer, dict) and isinstance(answer.get("errors"), dict) else set()
    return "" if named == parcel.wrong[0] else f"422 names {_listed(named)} in place of {_listed(parcel.wrong[0])}"


def _batch_complaint(parcel: Parcel, answer: Any) -> str:
    if not isinstance(answer, dict):
        return f"202 with {answer!r}"
    rejected = {entry["index"]: frozenset(entry["errors"]) for entry in answer.get("rejected", ())}
    if rejected != parcel.wrong:
        return f"rejected {rejected} in place of {parcel.wrong}"
    counted = answer.get("accepted", 0) + answer.get("duplicates", 0)
    return "" if counted == len(parcel.counted) else f"{counted} events in place of {len(parcel.counted)}"


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return _quoted(body)


def _quoted(body: bytes) -> str:
    return repr(body[:QUOTED_BYTES_MAX])[1:]


def _listed(names: set[str] | frozenset[str]) -> str:
    return ", ".join(sorted(names)) or "nothing"
