"""The parameters of an image's address: of the pixel and of the badge."""

from __future__ import annotations

from urllib.parse import parse_qsl

PARAMETERS_MAX = 16
QUERY_CHARS_MAX = 4_096
"""More than the longest id and label take, percent-encoded. Decoding a query of 32 KB holds the loop for 5 ms."""


def parameters_of(query: str) -> dict[str, str]:
    """Of two with one name the first counts. There are none if the query is no UTF-8, too long, or has too many."""
    if len(query) > QUERY_CHARS_MAX:
        return {}
    try:
        return dict(reversed(parse_qsl(query, errors="strict", max_num_fields=PARAMETERS_MAX)))
    except ValueError:
        return {}
