"""Which Redis a segment is for: its first line, as bytes and as a value.

Two systems may write to one spool by mistake. Each replays only what is its own:

    the segment's                        is replayed   because
    epoch is the current one             yes           it is the same memory, maybe at another address
    address is the configured one        yes           that Redis lost its memory, and the events must not be lost
    first line is of 0.2.0 or older      yes           those lines name no Redis
    neither                              no            `tallyd replay --foreign` takes it in

A worker that has not reached its Redis since its start does not know the epoch. Its segments are known by the address.

The first line, up to 0.2.0: "tallyd spool 1". Now "tallyd spool 2 " and an `Origin` as JSON. Pure, no I/O.
"""

from __future__ import annotations

import re
from urllib.parse import parse_qs, urlsplit

import msgspec

from daemon.buffer.layout import FORMAT
from daemon.config import Config, RedisSection, hosts_of, is_cluster

HEAD_BYTES_MAX = 4_096
"""A longer first line is not ours."""

_OLD = b"tallyd spool 1\n"
_NEW = b"tallyd spool 2 "


class Origin(msgspec.Struct, frozen=True):
    """A Redis, as a segment names it. `epoch`: when it began to count (µs); 0: no connection has told yet."""

    epoch: int
    format: int
    shards: int
    dedupe_window_s: int
    redis: str
    """Its address: host:port/db, or the path of its socket and /db. Never a user or a password. Behind it, with a # in
    between, `redis.prefix` if that is not the default."""

    def is_for(self, here: Origin) -> bool:
        """Whether the segment's events belong into this Redis."""
        return (self.epoch == here.epoch and here.epoch > 0) or self.redis == here.redis

    def foreign_to(self, here: Origin) -> str:
        return f"its events are for the Redis at {printable(self.redis)}, and this one is at {printable(here.redis)}"


def origin_of(config: Config, epoch: int) -> Origin:
    """The Redis of a configuration. `epoch`: as its layout says; 0 if that is not known."""
    redis = redis_address(config.redis.url)
    if config.redis.prefix != RedisSection().prefix:
        redis += f"#{config.redis.prefix}"
    return Origin(epoch, FORMAT, config.redis.shards, config.dedupe.window_s, redis)


def redis_address(url: str) -> str:
    """Where a Redis is: host:port/db, or the path of its socket and /db."""
    parts = urlsplit(url)
    db = parse_qs(parts.query).get("db", [""])[0]
    if parts.scheme == "unix":
        return f"{parts.path}/{db or 0}"
    if not db:
        found = re.fullmatch(r"/(\d+)/?", parts.path)
        db = found[1] if found else "0"
    if is_cluster(url):
        return ",".join(sorted(f"{host.lower()}:{port}" for host, port in hosts_of(url))) + "/0"
    return f"{(parts.hostname or 'localhost').lower()}:{parts.port or 6379}/{int(db)}"


def encode_head(origin: Origin) -> bytes:
    """The first line. JSON has no line break in it."""
    return _NEW + msgspec.json.encode(origin) + b"\n"


def decode_head(data: bytes) -> tuple[int, Origin | None] | None:
    """The length of the first line, and what it names. None if it is not ours."""
    if data.startswith(_OLD):
        return len(_OLD), None
    end = data.find(b"\n", 0, HEAD_BYTES_MAX)
    if not data.startswith(_NEW) or end == -1:
        return None
    try:
        return end + 1, _decode(data[len(_NEW) : end])
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


def is_cut_head(data: bytes) -> bool:
    """Whether the writer was killed while it wrote the first line."""
    return _OLD.startswith(data) or _NEW.startswith(data) or (data.startswith(_NEW) and b"\n" not in data)


def printable(text: str) -> str:
    """A name out of the spool for logs, terminals and JSON. Everything but printable ASCII becomes an escape."""
    return ascii(text)[1:-1]


_decode = msgspec.json.Decoder(Origin).decode
