"""What a line is: an event, left out, or refused. Each format has a function; both use the daemon's own decoder."""

from __future__ import annotations

from collections.abc import Callable

from daemon.domain.event import Event
from daemon.domain.rejection import Rejection
from daemon.importer import accesslog
from daemon.importer.mapping import Mapping
from daemon.importer.outcome import Format, LeftOut, Reason, Refusal
from daemon.ingest.decode import Decoder, Unreadable

Classify = Callable[[bytes, Callable[[], str]], Event | LeftOut | Refusal]
"""Takes a line, and a function that tells its id. The id is asked for only if the line counts."""

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def recognise(opening: bytes) -> Format:
    """The format of a file with this beginning."""
    return Format.NDJSON if opening.removeprefix(_BYTE_ORDER_MARK).lstrip()[:1] == b"{" else Format.COMBINED


def classify_ndjson(decoder: Decoder) -> Classify:
    """Events in the format of the HTTP API. They carry their own ids."""

    def classify(line: bytes, _line_id: Callable[[], str]) -> Event | LeftOut | Refusal:
        if not line or line.isspace():
            return LeftOut.BLANK
        decoded = decoder.single(line.removeprefix(_BYTE_ORDER_MARK))
        if isinstance(decoded, Event):
            return decoded
        if isinstance(decoded, Unreadable):
            return Refusal(Reason.NOT_JSON)
        return Refusal(Reason.INVALID, decoded.errors)

    return classify


def classify_combined(decoder: Decoder, mapping: Mapping) -> Classify:
    """Requests of an access log. The mapping says which of them count."""

    def classify(line: bytes, line_id: Callable[[], str]) -> Event | LeftOut | Refusal:
        entry = accesslog.parse(line)
        if isinstance(entry, Reason):
            return LeftOut.BLANK if not line or line.isspace() else Refusal(entry)
        target = mapping.classify(entry)
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

    return classify
