"""The dashboard's page and its files, as the ingest daemon serves them (`dashboard.enabled`).

The page is `static/dashboard.html`; its files are in `static/dashboard/`, as they are written: nothing is built. The
page names them relatively, "dashboard/app.js", so that it also works below another path of a proxy. It is served with
the hash of all of them in that place, "dashboard/0123456789ab/app.js". So a browser keeps a file for ever, and modules
import each other by their plain names. Whoever may load a file learns nothing: they are those of the package. The page
itself is for operators (`ingest/operators.py`), and no other page may frame it, open it or load it.
"""

from __future__ import annotations

import hashlib
from functools import cache
from http import HTTPStatus
from pathlib import Path

from daemon.response import Header, Response
from daemon.web.assets import FOR_EVER, HASH_CHARS, Asset

PATH = "/dashboard"
LEAD = Response(HTTPStatus.SEE_OTHER, b"", [("location", PATH[1:]), ("cache-control", "no-store")])
"""From / to the page."""
KINDS = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
"""The files that are served of the folder."""

_KEEP = "private, no-cache"
_OWN_PAGE: tuple[Header, ...] = (("cross-origin-resource-policy", "same-origin"),)
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self';"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script';"
    " trusted-types 'none'"
)
"""Ids come from strangers. With `require-trusted-types-for` a browser refuses to make HTML of a string."""
_PAGE: tuple[Header, ...] = (
    *_OWN_PAGE,
    ("content-security-policy", _POLICY),
    ("cross-origin-opener-policy", "same-origin"),
    ("referrer-policy", "no-referrer"),
    ("x-frame-options", "DENY"),
)


@cache
def page(*, demo: bool) -> Asset:
    """The page. `demo`: its root element has `data-demo`, for the button that sends an event. Raises OSError."""
    html = (_folder().with_suffix(".html")).read_text()
    html = html.replace('"dashboard/', f'"dashboard/{_hash()}/')
    if demo:
        html = html.replace("<html ", "<html data-demo ", 1)
    return Asset(html.encode(), _KEEP, "text/html", _PAGE)


@cache
def files() -> dict[str, Asset]:
    """Its files by path. Raises OSError."""
    return {
        f"{PATH}/{_hash()}/{name}": Asset(content, FOR_EVER, KINDS[Path(name).suffix], _OWN_PAGE)
        for name, content in _contents().items()
    }


def _folder() -> Path:
    return Path(__file__).parent / "static" / "dashboard"


@cache
def _contents() -> dict[str, bytes]:
    folder = _folder()
    return {
        str(each.relative_to(folder)): each.read_bytes() for each in sorted(folder.rglob("*")) if each.suffix in KINDS
    }


@cache
def _hash() -> str:
    named = (f"{name}\0{len(content)}\0".encode() + content for name, content in _contents().items())
    return hashlib.sha256(b"".join(named)).hexdigest()[:HASH_CHARS]
