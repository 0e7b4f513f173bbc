"""What a line is: an event, left out, or refused. Each format has a method; both use the daemon's own decoder."""

from __future__ import annotations

import time
from collections.abc import Callable

from daemon.config import Config
from daemon.domain.event import Event
from daemon.domain.rejection import Rejection
from daemon.errors import ConfigError
from daemon.importer import accesslog
from daemon.importer.mapping import Mapping
from daemon.importer.outcome import Format, LeftOut, Reason, Refusal
from daemon.ingest.decode import Decoder, Unreadable, build_catalogue

Classify = Callable[[bytes, Callable[[], str]], Event | LeftOut | Refusal]
"""Takes a line, and a function that tells its id. The id is asked for only if the line counts."""

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_NO_ROUTES = """\
The configuration does not say which requests of an access log count, and as what. Add routes:

    [domains.web]
    entity_types = ["page"]

    [[import.routes]]
    pattern = '(/|\\.html)$'
    domain = "web"
    entity_type = "page"
    entity_id = "{0}"
    action = "view"

(ops/weblog.example.toml in the source tree is a complete example. If the file is NDJSON, say `--format ndjson`.)"""


def recognise(opening: bytes) -> Format:
    """The format of a file with this beginning."""
    return Format.NDJSON if opening.removeprefix(_BYTE_ORDER_MARK).lstrip()[:1] == b"{" else Format.COMBINED


class Classifier:
    """Built once from the configuration, for all files."""

    def __init__(self, config: Config, producer: str = "") -> None:
        """`producer`: who sent the NDJSON events, or would have; "": someone without a key."""
        catalogue = build_catalogue(config, any_age=True)
        self._decoder = Decoder(catalogue, batch_events_max=config.http.batch_events_max, clock=time.time)
        self._producer = producer
        self._mapping = Mapping(config.import_)
        self._has_routes = bool(config.import_.routes)

    def of(self, chosen: Format) -> Classify:
        """The method for a format. Raises ConfigError if the configuration has no routes, and the format needs them."""
        if chosen is Format.NDJSON:
            return self._ndjson
        if not self._has_routes:
            raise ConfigError(_NO_ROUTES)
        return self._combined

    def _ndjson(self, line: bytes, _line_id: Callable[[], str]) -> Event | LeftOut | Refusal:
        """Events in the format of the HTTP API. They carry their own ids."""
        if not line or line.isspace():
            return LeftOut.BLANK
        decoded = self._decoder.single(line.removeprefix(_BYTE_ORDER_MARK), self._producer)
        if isinstance(decoded, Event):
            return decoded
        if isinstance(decoded, Unreadable):
            return Refusal(Reason.NOT_JSON)
        return Refusal(Reason.INVALID, decoded.errors)

    def _combined(self, line: bytes, line_id: Callable[[], str]) -> Event | LeftOut | Refusal:
        """Requests of an access log. The mapping says which of them count."""
        entry = accesslog.parse(line)
        if isinstance(entry, Reason):
            return LeftOut.BLANK if not line or line.isspace() else Refusal(entry)
        target = self._mapping.classify(entry)
        if isinstance(target, LeftOut):
            return target
        decoded = self._decoder.admit(
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
