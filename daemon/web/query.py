"""The parameters of an image's address: of the pixel and of the badge."""

from __future__ import annotations

from urllib.parse import parse_qsl

PARAMETERS_MAX = 16


def parameters_of(query: str) -> dict[str, str]:
    """Of two with one name the first counts. None if the query is no UTF-8, or has too many."""
    try:
        return dict(reversed(parse_qsl(query, errors="strict", max_num_fields=PARAMETERS_MAX)))
    except ValueError:
        return {}
