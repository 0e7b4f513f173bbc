"""Unpacks gzip chunk by chunk, in bounded memory. It returns all that stands before damage.

Not `gzip.open`: at a cut, its `read` raises and drops what it unpacked since the last full buffer. And the two bytes
that tell gzip from text cannot be put back into a pipe.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

CHUNK_BYTES = 262_144
GZIP_MAGIC = b"\x1f\x8b"
_WINDOW = 16 + zlib.MAX_WBITS
"""Tells zlib to expect gzip's header."""


class UnreadableError(Exception):
    """The content cannot be read further. The message says why. What was read before is good."""


def gunzip(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Decompresses gzip, one member or several in a row, into chunks of bounded size."""
    member = zlib.decompressobj(_WINDOW)
    begun = False
    try:
        for packed in chunks:
            pending = packed
            while pending:
                if member.eof:
                    pending = pending.lstrip(b"\0")  # tapes pad with zeros
                    if not pending:
                        break
                    member, begun = zlib.decompressobj(_WINDOW), False
                begun = True
                plain = member.decompress(pending, CHUNK_BYTES)
                pending = member.unused_data if member.eof else member.unconsumed_tail
                if plain:
                    yield plain
        while begun and not member.eof and (plain := member.decompress(b"", CHUNK_BYTES)):
            yield plain
    except zlib.error as error:
        raise UnreadableError(f"the gzip data is damaged ({error})") from None
    if begun and not member.eof:
        raise UnreadableError("the gzip data ends too early: the file is cut off")
