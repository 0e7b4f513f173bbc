"""The tracker's files as they are served, and what any file for browsers has: tags, compression, headers.

A worker reads them once, at its start (`ingest/boot.py`); `ingest/app.py` answers with them, and `tallyd snippet` names
their hash. A request never reads a file. They are part of the package, so a missing one is a broken installation.
"""

from __future__ import annotations

import gzip
import hashlib
from base64 import b64encode
from collections.abc import Callable, Sequence
from http import HTTPStatus
from pathlib import Path

from daemon.config import Browser
from daemon.response import Header, Response
from daemon.web.compression import takes_gzip

SOURCE, BUILT, COUNTS = "tracker/analytics.js", "static/analytics.min.js", "tracker/counts.js"
NAME, BUILT_NAMES = "/analytics.js", ("/analytics.min.js", "/analytics.v1.js")
HASH_CHARS = 12
"""Of the SHA-256, in the name under which the bytes never change."""

_LATEST = "public, max-age=3600, stale-while-revalidate=86400"
FOR_EVER = "public, max-age=31536000, immutable"
ANY_PAGE: tuple[Header, ...] = (
    ("access-control-allow-origin", "*"),  # module scripts and `integrity` are CORS requests
    ("cross-origin-resource-policy", "cross-origin"),
)
_UNENCODED = ("content-type", "content-encoding")


class Asset:
    """A file under one rule of caching: as it is, compressed, and the answers to those who have it already."""

    def __init__(
        self, content: bytes, keep: str, kind: str = "text/javascript", use: Sequence[Header] = ANY_PAGE
    ) -> None:
        """`keep`: its Cache-Control. `kind`: its content type. `use`: the headers that say who may use it."""
        tag = hashlib.sha256(content).hexdigest()[:32]
        self._plain = _Answers(content, f'"{tag}"', keep, kind, use)
        # Without a time, so that every worker sends the same bytes.
        gzipped = gzip.compress(content, mtime=0)
        self._gzipped = _Answers(gzipped, f'"{tag}-gzip"', keep, kind, use, ("content-encoding", "gzip"))

    def answer(self, get_all: Callable[[str], Sequence[str]]) -> Response:
        """The answer to a GET or HEAD. `get_all`: the values of a header."""
        answers = self._gzipped if takes_gzip(get_all("accept-encoding")) else self._plain
        return answers.unchanged if answers.is_known(get_all("if-none-match")) else answers.found


class _Answers:
    """Of one representation. Their messages are built once, so no Response is told its tag."""

    def __init__(self, body: bytes, tag: str, keep: str, kind: str, use: Sequence[Header], *encoding: Header) -> None:
        self._tag = tag
        headers = [
            ("content-type", f"{kind}; charset=utf-8"),
            *encoding,
            ("cache-control", keep),
            ("etag", tag),
            ("vary", "accept-encoding"),
            *use,
            ("x-content-type-options", "nosniff"),
        ]
        self.found = Response(HTTPStatus.OK, body, headers)
        self.unchanged = Response(
            HTTPStatus.NOT_MODIFIED, b"", [header for header in headers if header[0] not in _UNENCODED]
        )

    def is_known(self, known: Sequence[str]) -> bool:
        """Whether an If-None-Match has the tag: by weak comparison (RFC 9110, section 13.1.2), as proxies weaken it."""
        return any(self._tag in value or value.strip() == "*" for value in known)  # the tag has its quotes


class Assets:
    """The files of this version."""

    def __init__(self) -> None:
        """Reads them. Raises OSError."""
        folder = Path(__file__).parent
        source, built, counts = ((folder / name).read_bytes() for name in (SOURCE, BUILT, COUNTS))
        self.integrity = f"sha384-{b64encode(hashlib.sha384(built).digest()).decode()}"
        """Of the built file, as the attribute `integrity` has it."""
        self._hash = hashlib.sha256(built).hexdigest()[:HASH_CHARS]
        self._source, self._built, self._kept = Asset(source, _LATEST), Asset(built, _LATEST), Asset(built, FOR_EVER)
        self._counts = Asset(counts, _LATEST)

    def hashed(self, path: str) -> str:
        """The name of the built file beside a script's: "/s.0123456789ab.js" beside "/s.js"."""
        return f"{path.removesuffix('.js')}.{self._hash}.js"

    def by_path(self, browser: Browser) -> dict[str, Asset]:
        """What the configuration serves, by path."""
        if not browser.tracker:
            return {}
        served = {NAME: self._source, **dict.fromkeys(BUILT_NAMES, self._built), self.hashed(NAME): self._kept}
        if browser.script:
            served |= {browser.script: self._built, self.hashed(browser.script): self._kept}
        # The tracker imports it from where it came from itself.
        return {**{counts_beside(path): self._counts for path in served}, **served}


def counts_beside(path: str) -> str:
    """The name of the module that fills in counts, beside a script's."""
    return f"{path.rpartition('/')[0]}/{COUNTS.rpartition('/')[2]}"
