"""The formats of a file, what becomes of a line, and the tallies. Every line ends in exactly one of the counts here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from enum import Enum

from msgspec import Struct, field


class Format(Enum):
    AUTO = "auto"
    """As the beginning of the file says: one of the others."""
    COMBINED = "combined"
    """Access log, combined or common."""
    NDJSON = "ndjson"


class LeftOut(Enum):
    """Why a good line is not counted. This is expected, so it is only tallied."""

    BLANK = "blank"
    NO_ROUTE = "no_route"
    METHOD = "method"
    STATUS = "status"
    BOT = "bot"


class Reason(Enum):
    """Why a line is rejected. It is tallied and written to the file of rejects."""

    MALFORMED = "malformed"
    """Not a line of the combined or common log format."""
    BAD_REQUEST = "bad_request"
    """The client sent no HTTP request: for example a TLS handshake to a plain port."""
    NOT_JSON = "not_json"
    INVALID = "invalid"
    """The configuration does not admit the event."""
    LINE_TOO_LONG = "line_too_long"


class Refusal(Struct, frozen=True, gc=False):
    """A rejected line. `errors`: what is wrong with each field of an invalid event."""

    reason: Reason
    errors: dict[str, list[str]] | None = None


class FileTally(Struct):
    """The result of one file. Each of its lines is counted, a duplicate, unsent, left out, or rejected."""

    name: str
    format: str = ""
    lines: int = 0
    counted: int = 0
    duplicates: int = 0
    resent: int = 0
    """Events sent again because Redis had not answered. If the first call arrived, they are duplicates."""
    unsent: int = 0
    """Events that Redis had not answered when the run stopped. The next run sends them."""
    left_out: Counter[str] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)
    from_line: int = 1
    """The first line that was read. Those before it were imported earlier."""
    seconds: float = 0.0
    error: str | None = None
    """Why the file was not read to its end."""

    @property
    def events(self) -> int:
        """The lines that are events."""
        return self.lines - self.left_out.total() - self.rejected.total()


def total(files: Sequence[FileTally]) -> FileTally:
    """The sum over all files."""
    whole = FileTally("total")
    for each in files:
        for name in ("lines", "counted", "duplicates", "resent", "unsent", "seconds"):
            setattr(whole, name, getattr(whole, name) + getattr(each, name))
        whole.left_out += each.left_out
        whole.rejected += each.rejected
    return whole
