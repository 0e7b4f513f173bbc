"""What one shard holds in Redis: its ledger, the live amounts and those in flight. Reads only."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct
from redis.asyncio import Redis

from daemon.buffer.counters import parse_ledger
from daemon.buffer.due import amounts_in_flight
from daemon.buffer.keys import Keys
from daemon.domain.claim import ClaimName
from daemon.domain.counter import add_up, parse_amount, parse_field
from daemon.domain.rollup import DAILY, Rollup
from daemon.rollups.build import build

SCAN_COUNT = 1_000

Sums = dict[str, int]


class HotMarks(Struct, frozen=True):
    """Values that change whenever a count moves. If two reads are equal, nothing moved between them."""

    accepted: Sums
    last_seq: int
    in_flight_seq: int


class Hot(Struct, frozen=True):
    """One shard. `in_flight`: the claim as the documents that it will become; None if there is none."""

    shard: int
    ledger: Sums
    live_by_day: dict[str, Sums]
    in_flight_seq: int
    in_flight: Rollup | None
    nonce: str
    """Of the claim in flight."""
    marks: HotMarks
    malformed: int
    """Values under our keys that are no amounts. They are in no sum."""

    @property
    def in_flight_name(self) -> ClaimName:
        return ClaimName(self.in_flight_seq, self.nonce)

    @property
    def live(self) -> Sums:
        return add_up(self.live_by_day.values())

    def booked(self, name: str) -> Sums:
        """The ledger's `<name>:<counter>` entries by counter."""
        return booked(self.ledger, name)

    def in_flight_sums(self) -> Sums:
        return {} if self.in_flight is None else self.in_flight.sums()


def booked(ledger: Sums, name: str) -> Sums:
    prefix = f"{name}:"
    return {field.removeprefix(prefix): amount for field, amount in ledger.items() if field.startswith(prefix)}


def moving_entities(hot: Iterable[Hot]) -> set[str]:
    """Entities of the claims in flight: some of their rollups may be written, and others not yet."""
    claims = [shard.in_flight for shard in hot if shard.in_flight is not None]
    return {document.entity.key for claim in claims for kind in claim.documents.values() for document in kind}


async def read_marks(redis: Redis, all_keys: Keys, shard: int) -> HotMarks:
    keys = all_keys.shard(shard)
    async with redis.pipeline(transaction=True) as pipe:
        pipe.hgetall(keys.ledger)
        pipe.hmget(keys.claim, "last", "seq")
        ledger, (last, seq) = await pipe.execute()
    return HotMarks(booked(parse_ledger(ledger), "accepted"), int(last or 0), int(seq or 0))


async def read_hot(redis: Redis, all_keys: Keys, shard: int) -> Hot:
    """Reads one shard. The live amounts are read in pieces, so compare `marks` with a later `read_marks`."""
    keys = all_keys.shard(shard)
    async with redis.pipeline(transaction=True) as pipe:
        pipe.hgetall(keys.ledger)
        pipe.hgetall(keys.claim)
        raw_ledger, claim = await pipe.execute()
    ledger = parse_ledger(raw_ledger)
    live, malformed = await _live(redis, keys.dirty, keys.counters_prefix)
    seq, rollup = int(claim.get(b"seq", 0)), None
    if seq:
        rollup = build(await amounts_in_flight(redis, keys, claim))
        malformed += len(rollup.malformed)
    marks = HotMarks(booked(ledger, "accepted"), int(claim.get(b"last", 0)), seq)
    nonce = claim.get(b"nonce", b"").decode(errors="backslashreplace")
    return Hot(shard, ledger, live, seq, rollup, nonce, marks, malformed)


async def _live(redis: Redis, dirty: str, prefix: str) -> tuple[dict[str, Sums], int]:
    """Amounts by UTC day and counter, and how many values are foreign."""
    days: dict[str, Sums] = {}
    malformed = 0
    cursor = 0
    while True:
        cursor, members = await redis.sscan(dirty, cursor, count=SCAN_COUNT)
        async with redis.pipeline(transaction=False) as pipe:
            for member in members:
                pipe.hgetall(f"{prefix}:{_text(member)}")
            for fields in await pipe.execute(raise_on_error=False):
                if not isinstance(fields, dict):  # no hash: foreign
                    malformed += 1
                    continue
                for name, text in fields.items():
                    field, amount = parse_field(_text(name)), parse_amount(_text(text))
                    if field is None or amount is None:
                        malformed += 1
                    else:
                        sums = days.setdefault(DAILY.bucket_of(field.at), {})
                        sums[field.counter] = sums.get(field.counter, 0) + amount
        if cursor == 0:
            return days, malformed


def _text(raw: object) -> str:
    assert isinstance(raw, bytes)  # redis-py's types allow for clients that decode; ours does not
    return raw.decode(errors="backslashreplace")
