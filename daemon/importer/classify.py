"""What a line is: an event, left out, or refused. One judge a format; both end in the daemon's own decoder."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

from daemon.domain.event import Event
from daemon.domain.rejection import Rejection
from daemon.importer import accesslog
from daemon.importer.mapping import Mapping
from daemon.importer.outcome import LeftOut, Reason, Refusal
from daemon.ingest.decode import Decoder, Unreadable

Judge = Callable[[bytes, Callable[[], str]], Event | LeftOut | Refusal]
"""Takes a line and what tells its id (asked only for a line that counts)."""

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class Format(Enum):
    COMBINED = "combined"
    """Access log, combined or common."""
    NDJSON = "ndjson"


def recognise(opening: bytes) -> Format:
    """The format of a file that begins so."""
    return Format.NDJSON if opening.removeprefix(_BYTE_ORDER_MARK).lstrip()[:1] == b"{" else Format.COMBINED


def ndjson_judge(decoder: Decoder) -> Judge:
    """Events as the HTTP API takes them. They carry their own ids."""

    def judge(line: bytes, _line_id: Callable[[], str]) -> Event | LeftOut | Refusal:
        if not line or line.isspace():
            return LeftOut.BLANK
        decoded = decoder.single(line.removeprefix(_BYTE_ORDER_MARK))
        if isinstance(decoded, Event):
            return decoded
        if isinstance(decoded, Unreadable):
            return Refusal(Reason.NOT_JSON)
        return Refusal(Reason.INVALID, decoded.errors)

    return judge


def combined_judge(decoder: Decoder, mapping: Mapping) -> Judge:
    """Requests, as far as the mapping counts them."""

    def judge(line: bytes, line_id: Callable[[], str]) -> Event | LeftOut | Refusal:
        entry = accesslog.parse(line)
        if isinstance(entry, Reason):
            return LeftOut.BLANK if not line or line.isspace() else Refusal(entry)
        target = mapping.judge(entry)
        if isinstance(target, LeftOut):
            return target
        decoded = decoder.admit(
            {
                "event_id": line_id(),
                "domain": target.domain,
                "entity_type": target.entity_type,
                "entity_id": target.entity_id,
                "action": target.action,
                "occurred_at": accesslog.rfc3339(entry.date),
            }
        )
        return Refusal(Reason.INVALID, decoded.errors) if isinstance(decoded, Rejection) else decoded

    return judge
