"""The badge: a count as an SVG image. `ingest/app.py` reads the count (`browser.badge`).

The label comes from whoever writes the address of the image, so it is bounded and escaped. The image holds no script,
no style and no reference, and its headers forbid them.
"""

from __future__ import annotations

import unicodedata
from html import escape
from http import HTTPStatus

from daemon.response import Response

LABEL_CHARS_MAX = 40
MAX_AGE_S = 60
"""How long a browser shows a count without asking again."""

_CHAR_PX, _WIDE_CHAR_PX, _MARGIN_PX, _HEIGHT_PX = 7, 12, 6, 20
_HEADERS = [
    ("content-type", "image/svg+xml; charset=utf-8"),
    ("cache-control", f"max-age={MAX_AGE_S}"),
    ("x-content-type-options", "nosniff"),
    ("cross-origin-resource-policy", "cross-origin"),
    ("content-security-policy", "default-src 'none'"),
]
_SVG = """\
<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" role="img" aria-label="{label}: {number}">\
<title>{label}: {number}</title>\
<rect width="{width}" height="{height}" rx="3" fill="#555"/>\
<rect x="{left}" width="{right}" height="{height}" rx="3" fill="#0969da"/>\
<g fill="#fff" text-anchor="middle" font-family="Verdana,DejaVu Sans,sans-serif" font-size="11">\
<text x="{label_at}" y="14">{label}</text><text x="{number_at}" y="14">{number}</text></g></svg>"""


def badge(label: str, amount: int) -> Response:
    """The image. Of the label it shows LABEL_CHARS_MAX characters, without those that cannot be seen."""
    shown = "".join(each for each in label if each.isprintable())[:LABEL_CHARS_MAX]
    number = f"{amount:,}"
    left, right = _width_px(shown), _width_px(number)
    svg = _SVG.format(
        width=left + right,
        height=_HEIGHT_PX,
        left=left,
        right=right,
        label=escape(shown),
        number=number,
        label_at=left / 2,
        number_at=left + right / 2,
    )
    return Response(HTTPStatus.OK, svg.encode(), _HEADERS)


def _width_px(text: str) -> int:
    wide = sum(unicodedata.east_asian_width(each) in "WF" for each in text)
    return 2 * _MARGIN_PX + wide * _WIDE_CHAR_PX + (len(text) - wide) * _CHAR_PX
