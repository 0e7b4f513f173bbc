r"""Lines of access logs, in the common and combined formats of Apache and nginx. Pure. `mapping` says what counts.

    host ident user [17/May/2015:10:05:03 +0000] "GET /path?query HTTP/1.1" 200 1234 "referrer" "user agent"

The common format ends after the size. Anything after the user agent (times, forwarded addresses) is ignored. The last
quote may be missing: syslog cuts long lines. Before the date anything but an unescaped quote may stand: a virtual host,
or a user with spaces. Both servers write a quote inside a field as `\"` or `\x22`, and bytes that are no text as
`\xhh`. Raw bytes are read as `\xhh`, too, so two paths that differ in them stay different.
"""

from __future__ import annotations

import re

from msgspec import Struct

from daemon.importer.outcome import Reason

_QUOTED = r'[^"\\]*+(?:\\.[^"\\]*+)*+'
_MONTH_NAMES = "Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec"
_LINE = re.compile(
    rf'(?:[^"\\]|\\.)*? \[(\d\d/(?:{_MONTH_NAMES})/\d{{4}}:\d\d:\d\d:\d\d [+-]\d{{4}})\]'
    rf' "({_QUOTED})" (\d\d\d) (?:\d+|-)(?= |\Z)(?: "{_QUOTED}" "({_QUOTED}))?',
    re.ASCII | re.DOTALL,
)
_METHOD = re.compile(r"[A-Za-z][A-Za-z_-]*\Z")
_ABSOLUTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/?]*")
_MONTHS = {month: f"{number:02d}" for number, month in enumerate(_MONTH_NAMES.split("|"), start=1)}


class Entry(Struct, frozen=True, gc=False):
    """One request. `method` is "" if the client sent nothing (`-`). `agent` is None if the format has none."""

    method: str
    path: str
    """As logged, without the query string and without the host of an absolute URI."""
    status: int
    agent: str | None
    date: str
    """As logged; see `rfc3339`."""


def parse(line: bytes) -> Entry | Reason:
    """The request of a line, or why it has none."""
    match = _LINE.match(line.decode(errors="backslashreplace"))
    if match is None:
        return Reason.MALFORMED
    date, request, status, agent = match.groups()
    if request in ("-", ""):
        return Entry("", "", int(status), agent, date)
    method, _, target = request.partition(" ")
    path, _, protocol = target.rpartition(" ")
    if not protocol.startswith("HTTP/"):  # HTTP/0.9 has none, and garbage may hold spaces
        path = target
    if not path or not _METHOD.match(method):
        return Reason.BAD_REQUEST
    return Entry(method, _path(path), int(status), agent, date)


def rfc3339(date: str) -> str:
    """`17/May/2015:10:05:03 +0200` as `2015-05-17T10:05:03+02:00`. It does not check that the day exists."""
    return f"{date[7:11]}-{_MONTHS[date[3:6]]}-{date[:2]}T{date[12:20]}{date[21:24]}:{date[24:]}"


def _path(target: str) -> str:
    if target[0] != "/" and (absolute := _ABSOLUTE.match(target)):
        target = target[absolute.end() :]
        if not target.startswith("/"):
            target = f"/{target}"
    return target.partition("?")[0]
