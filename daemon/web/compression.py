"""Which answers are sent compressed: the files for browsers, and what the dashboard reads.

`assets.py` compresses its files once. `ingest/app.py` compresses an operator's reads as they are sent: nobody else can
make a worker spend time so. gzip only, because the standard library has no brotli.
"""

from __future__ import annotations

import asyncio
import gzip
import re
from collections.abc import Callable, Sequence
from functools import partial

from daemon.response import Response

BYTES_MIN = 1_024
"""A shorter body fits one packet with its head, compressed or not."""
AT_ONCE_BYTES_MAX = 8_192
"""A longer one is compressed in a thread: it would hold the worker's loop, which also takes events."""
_LEVEL = 4
"""Of 9: an answer of 6 KB takes 0.1 ms, and level 9 makes it 3 % shorter."""
_CODINGS_MAX = 16
"""Of an Accept-Encoding so many are looked at: a head may hold thousands."""
_is_refused = re.compile(r"\s*q\s*=\s*0(\.0*)?\s*\Z").match


async def compressed(answer: Response, get_all: Callable[[str], Sequence[str]]) -> Response:
    """The answer as it is, or compressed. Its tag is a weak one, so it holds for both. `get_all`: the values of one of
    the request's headers."""
    if len(answer.body) < BYTES_MIN or not takes_gzip(get_all("accept-encoding")):
        return answer
    compress = partial(gzip.compress, answer.body, _LEVEL, mtime=0)
    body = compress() if len(answer.body) <= AT_ONCE_BYTES_MAX else await asyncio.to_thread(compress)
    headers = [*answer.headers, ("content-encoding", "gzip"), ("vary", "accept-encoding")]
    return Response(answer.status, body, headers, answer.etag)


def takes_gzip(accepted: Sequence[str]) -> bool:
    """Whether an Accept-Encoding names gzip, or everything, and does not refuse it (RFC 9110, section 12.5.3)."""
    wishes: dict[str, bool] = {}
    for each in ",".join(accepted).lower().split(",", _CODINGS_MAX)[:_CODINGS_MAX]:
        coding, _, weight = each.partition(";")
        wishes.setdefault(coding.strip(), not _is_refused(weight))
    return wishes.get("gzip", wishes.get("*", False))
