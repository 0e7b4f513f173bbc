"""One shard of a Redis, its scripts called the way their headers say and nothing of `daemon` in between.

The keys, the msgpack and the replies are spelled out here a second time on purpose: a test that goes through
`daemon.buffer.counters` could not tell a script that keeps its contract from two errors that fit each other.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import msgspec
import redis

from tests.kit.stores import hash_of

LUA = Path(__file__).resolve().parents[2] / "lua"
SCRIPTS = (
    "ingest",
    "claim",
    "ack",
    "amend",
    "begin_sync",
    "settle",
    "layout",
    "unfold",
    "pending",
    "mark",
    "epoch",
    "set_aside",
)
DAY = "2026-02-19"
WINDOW_S = 172_800
BITS = 4

Increment = tuple[str, str, str]
"""Counter, field, amount."""
Amounts = list[tuple[str, dict[str, int]]]
"""Entity, and per field its amount."""


def step(counter: str = "view", amount: int | str = 1, day: str = DAY) -> Increment:
    return (counter, f"{counter}:{day}", str(amount))


class Ev(NamedTuple):
    """One event as `ingest.lua` sees it. `visit`: hash of its visit, and `repeated` counts if that is there already."""

    id: str
    entity: str = "jav:movie:m"
    effect: tuple[Increment, ...] = (step(),)
    visit: str = ""
    repeated: tuple[Increment, ...] = ()
    window_ms: int = 30_000


class Claimed(NamedTuple):
    """A reply of `claim.lua`. `parts`: per part, its entities' fields."""

    status: str
    seq: int
    parts: dict[int, Amounts]
    left: int
    taken_from: bytes | None = None
    """The owner it was taken over from."""
    acked: int = 0
    """Of a sealed one: the claim that Redis has accounted for."""
    nonce: str = ""

    @property
    def amounts(self) -> Amounts:
        """Of all parts; an entity that was frozen twice shows twice."""
        return [pair for part in sorted(self.parts) for pair in self.parts[part]]

    @property
    def by_entity(self) -> dict[str, dict[str, int]]:
        entities = dict(self.amounts)
        assert len(entities) == len(self.amounts), "an entity is in the batch twice"
        return entities


class Pending(NamedTuple):
    """A reply of `pending.lua`. `parts`: per part, its entities' fields; None for one that was not handed out."""

    acked: int
    seq: int
    parts: dict[int, Amounts | None]
    live: dict[str, int]

    @property
    def batch(self) -> dict[str, dict[str, int]] | None:
        """Of a batch of one part: entity → field → amount, None if it was not handed out."""
        (part,) = self.parts.values() or (None,)
        return None if part is None else dict(part)


def digest(event_id: str) -> tuple[int, str]:
    """Which bucket an event id falls into, and what is stored there."""
    hashed = hashlib.sha256(event_id.encode()).digest()
    return int.from_bytes(hashed[:4], "big"), str(int.from_bytes(hashed[4:12], "big", signed=True))


class Req(NamedTuple):
    """One request as `ingest.lua` sees it. `refused`: what it is charged besides its events."""

    sender: str
    events: Sequence[Ev] = ()
    rate: int = 0
    new: int = 0
    refused: int = 0


def blob(requests: Iterable[Req], counters: str) -> bytes:
    """ARGV 1 of `ingest.lua`. `counters`: prefix of an entity's hash."""
    effects: list[tuple[Increment, ...]] = []
    limits: list[int] = []
    items: list[str | int] = []
    visits: list[str | int] = []
    for request in requests:
        limit_at, n = 0, len(request.events)
        if request.rate or request.new:
            limit_at = len(limits) + 1
            limits += [request.rate, request.new]
        items += [request.sender, limit_at, n + request.refused, n]
        for event in request.events:
            effects += [each for each in (event.effect, event.repeated) if each and each not in effects]
            if event.visit:
                visits += [len(items) + 1, event.visit, event.window_ms, effects.index(event.repeated) + 1]
            items += [*digest(event.id), f"{counters}:{event.entity}", effects.index(event.effect) + 1]
    flat = [[text for increment in effect for text in increment] for effect in effects]
    return pack([limits, flat, items, visits] if visits else [limits, flat, items])


class Shard:
    """The scripts of one shard of `redis`."""

    def __init__(self, client: redis.Redis, number: int = 3) -> None:
        self.redis = client
        self.tag = f"anl:{{{number}}}"
        self.sha = {name: client.script_load((LUA / f"{name}.lua").read_text()) for name in SCRIPTS}
        self.dirty_key, self.claim_key, self.replica_key, self.ledger_key, self.seen_key = (
            f"{self.tag}:{name}" for name in ("dirty", "claim", "replica", "ledger", "seen")
        )
        self._handed: dict[int, tuple[str, int]] = {}
        """Seq of each claim that was handed out → its nonce, and the claim before it."""
        self.floor, self.floor_nonce = 0, ""
        """As MongoDB has it: each ack raises it."""

    # The scripts ------------------------------------------------------------------------------------------------

    def ingest(
        self, *requests: tuple[str, Sequence[Ev]] | Req, rate: int = 0, window_s: int = WINDOW_S, bits: int = BITS
    ) -> list[Any]:
        """`rate`: events a minute of each sender that is named; a Req says its own.

        Per request: how many were new; [new, k, ms] if the last k were not taken; -ms if nothing was.
        """
        sent = [each if isinstance(each, Req) else Req(*each, rate if each[0] else 0) for each in requests]
        return [_without_room(reply) for reply in self.told(*sent, window_s=window_s, bits=bits)]

    def told(self, *requests: Req, window_s: int = WINDOW_S, bits: int = BITS) -> list[Any]:
        """The reply as it is: it also tells how much room is left."""
        return list(self.ingest_raw(blob(requests, f"{self.tag}:counters"), window_s, bits))

    def count(self, *events: Ev, **options: int) -> int:
        """One unlimited request; returns how many of its events were new."""
        (new,) = self.ingest(("", events), **options)
        return int(new)

    def ingest_raw(self, *args: Any) -> Any:
        prefixes = (f"{self.tag}:{name}" for name in ("counters", "rate", "aside", "visit"))
        return self._run("ingest", [self.dirty_key, self.ledger_key, self.seen_key, *prefixes], args)

    def claim(
        self, owner: str = "a", *, lease_ms: int = 60_000, floor: int | None = None, entities: int = 1_000,
        fields: int = 10_000, us: int = 1_000_000, floor_nonce: str = "", nonce: str = "",
    ) -> Claimed:  # fmt: skip
        """One call: "more" if another is to follow. With `us=0`, each freezes one entity. `floor`: None for its own."""
        ends = (self.floor, self.floor_nonce) if floor is None else (floor, floor_nonce)
        reply = self.claim_raw(owner, lease_ms, *ends, entities, fields, us, nonce or secrets.token_hex(4))
        match reply:
            case [b"behind" | b"ahead" as status, seq, *_]:
                return Claimed(status.decode(), int(seq), {}, 0)
            case [b"empty", left]:
                return Claimed("empty", 0, {}, left)
            case [b"busy", left_ms]:
                return Claimed("busy", 0, {}, left_ms)
            case [b"more", part, payload, left, *others]:
                return Claimed("more", int(part), {int(part): unpack(payload)} if payload else {}, left, *others)
            case [b"new", seq, payload, left, acked, given, names, *others]:
                frozen = self.frozen()
                assert set(frozen) == {int(name) for name in names}
                if payload:
                    assert frozen[int(seq)] == unpack(payload)
                return self._told("new", seq, frozen, left, acked, given, *others)
            case [b"again", seq, flat, left, acked, given, *others]:
                return self._told("again", seq, unpack_parts(flat), left, acked, given, *others)
        raise AssertionError(reply)

    def _told(
        self, status: str, seq: bytes, parts: dict[int, Any], left: int, acked: bytes, nonce: bytes,
        taken_from: bytes | None = None,
    ) -> Claimed:  # fmt: skip
        self._handed[int(seq)] = (nonce.decode(), int(acked))
        return Claimed(status, int(seq), parts, left, taken_from, int(acked), nonce.decode())

    def claim_whole(self, owner: str = "a", **limits: Any) -> Claimed:
        """As many calls as it takes."""
        while (claimed := self.claim(owner, **limits)).status == "more":
            pass
        return claimed

    def frozen(self) -> dict[int, Amounts]:
        """The parts of the batch in flight, as they lie there."""
        fields = cast("dict[bytes, bytes]", self.redis.hgetall(self.claim_key))
        return {
            int(field.removeprefix(b"payload:")): unpack(payload)
            for field, payload in fields.items()
            if field.startswith(b"payload:")
        }

    def claim_raw(self, *args: Any) -> Any:
        keys = [self.dirty_key, self.claim_key, f"{self.tag}:counters", self.ledger_key, f"{self.tag}:aside"]
        return self._run("claim", keys, args)

    def ack(
        self, seq: int | str, booked: Mapping[str, int] | None = None, due: Sequence[str] = (), *, more: bool = False,
        nonce: str | None = None, acked: int | None = None,
    ) -> int:  # fmt: skip
        """`nonce` and `acked`: None for those that the claim was handed out with."""
        given, before = self._handed.get(int(seq), ("", 0))
        given, before = given if nonce is None else nonce, before if acked is None else acked
        self.floor, self.floor_nonce = max((self.floor, self.floor_nonce), (int(seq), given))
        keys = [self.claim_key, self.replica_key, self.ledger_key, f"{self.tag}:aside"]
        args = (seq, given, before, flat(booked), pack(list(due)), "more" if more else "")
        return int(self._run("ack", keys, args))

    def amend(
        self, claimed: Claimed, parts: Sequence[bytes], booked: Mapping[str, int] | None = None,
        due: Sequence[str] = (), *, acked: int | None = None,
    ) -> int:  # fmt: skip
        """`parts`: as `payloads` had them. `acked`: None for the claim before it."""
        names = (self.dirty_key, self.claim_key, f"{self.tag}:counters", self.ledger_key, self.replica_key)
        args = (
            claimed.acked if acked is None else acked, claimed.seq, claimed.nonce, secrets.token_hex(4), flat(booked),
            pack(list(due)), *parts,
        )  # fmt: skip
        return int(self._run("amend", [*names, f"{self.tag}:aside"], args))

    def payloads(self) -> list[bytes]:
        """The parts of the claim in flight, as bytes."""
        fields = cast("dict[bytes, bytes]", self.redis.hgetall(self.claim_key))
        return [payload for field, payload in sorted(fields.items()) if field.startswith(b"payload:")]

    def settle(self, *pairs: tuple[str, str]) -> int:
        flat = [text for pair in pairs for text in pair]
        return int(self._run("settle", [self.replica_key], (pack(flat),)))

    def begin_sync(self, *entities: str) -> int:
        return int(self._run("begin_sync", [f"{self.tag}:syncing"], (pack(list(entities)),)))

    def unfold(self, part: int | str) -> list[Any]:
        return list(self._run("unfold", [self.claim_key], (part,)))

    def pending(self, entity: str, known: int | str = "") -> Pending:
        """`known`: the seq of the batch whose parts are not wanted."""
        whole, acked, seq, parts, flat = self.pending_raw(entity, known, 1_000, 1_000_000)
        assert whole == b"whole"
        fields = {field.decode(): int(amount) for field, amount in zip(flat[::2], flat[1::2], strict=True)}
        return Pending(int(acked or 0), int(seq or 0), unpack_parts(parts), fields)

    def pending_raw(self, *args: Any) -> Any:
        return self._run("pending", [self.claim_key, f"{self.tag}:counters"], args)

    def layout(self, *args: str) -> dict[bytes, bytes]:
        flat = self._run("layout", ["anl:layout"], args)
        return dict(zip(flat[::2], flat[1::2], strict=True))

    def mark(self, mark: str = "", good_for_ms: int = 0) -> str:
        return str(self._run("mark", ["anl:layout"], (mark, good_for_ms)).decode())

    def epoch(self, epoch: str = "") -> str:
        return str(self._run("epoch", ["anl:layout"], (epoch,)).decode())

    def set_aside(self, epoch: str, entities: int = 1_000) -> list[int]:
        keys = [self.dirty_key, self.claim_key, self.ledger_key, f"{self.tag}:counters", f"{self.tag}:aside"]
        return list(self._run("set_aside", keys, (epoch, entities)))

    def _run(self, script: str, keys: Sequence[str], args: Sequence[Any]) -> Any:
        return self.redis.evalsha(self.sha[script], len(keys), *keys, *args)

    # What lies in Redis -----------------------------------------------------------------------------------------

    def live(self) -> dict[str, dict[str, int]]:
        """Entity → field → amount, of every hash there is."""
        prefix = f"{self.tag}:counters:"
        return {
            key.decode().removeprefix(prefix): {f: int(a) for f, a in hash_of(self.redis, key).items()}
            for key in self.redis.scan_iter(f"{prefix}*", count=1_000)
        }

    def dirty(self) -> set[str]:
        return {entity.decode() for entity in cast("set[bytes]", self.redis.smembers(self.dirty_key))}

    def ledger(self) -> dict[str, int]:
        return {field: int(amount) for field, amount in hash_of(self.redis, self.ledger_key).items()}

    def seen(self) -> dict[str, str]:
        return hash_of(self.redis, self.seen_key)

    def keys(self, part: str = "") -> set[str]:
        """Every key that begins with this part of the shard's."""
        return {key.decode() for key in self.redis.scan_iter(f"{self.tag}:{part}*", count=1_000)}

    def asides(self) -> dict[str, bytes | None]:
        """The keys that were moved away, by the name they had → their DUMP."""
        prefix = f"{self.tag}:aside:"
        return {key.removeprefix(prefix).partition(":")[2]: self.redis.dump(key) for key in self.keys("aside:")}

    def everything(self) -> dict[bytes, tuple[bytes | None, bool]]:
        """Every key of the database: what it holds, and whether it expires."""
        return {key: (self.redis.dump(key), self.redis.pttl(key) != -1) for key in self.redis.scan_iter(count=1_000)}

    def age(self, windows: int = 1) -> None:
        """Lets time pass for the dedupe memory: what it knows is afterwards that many windows older."""
        gen = int(self.seen()["gen"])
        for key in sorted(self.keys("seen:")):
            _, old, bucket = key.removeprefix(f"{self.tag}:").split(":")
            self.redis.rename(key, f"{self.seen_key}:{int(old) - windows}:{bucket}")
        self.redis.hset(self.seen_key, "gen", gen - windows)


def _without_room(reply: Any) -> Any:
    match reply:
        case int(single):
            return single % 2
        case [ms, _]:
            return -ms
        case [new, 0, 0, _]:
            return new
        case [new, missing, ms, _]:
            return [new, missing, ms]
    raise AssertionError(reply)


def flat(booked: Mapping[str, int] | None) -> bytes:
    return pack([text for field, amount in (booked or {}).items() for text in (field, str(amount))])


def pack(value: object) -> bytes:
    return msgspec.msgpack.encode(value)


def unpack_parts(flat: Sequence[bytes]) -> dict[int, Any]:
    """{part, payload, ...} of a reply; None for a part whose payload is left out."""
    return {
        int(part): unpack(payload) if payload else None for part, payload in zip(flat[::2], flat[1::2], strict=True)
    }


def unpack(payload: bytes) -> Amounts:
    """A payload of `claim.lua`: entity, number of pairs, the pairs, and so on."""
    flat, at, amounts = msgspec.msgpack.decode(payload), 0, []
    while at < len(flat):
        entity, n = flat[at], flat[at + 1]
        pairs = flat[at + 2 : at + 2 + 2 * n]
        assert all(isinstance(text, str) for text in pairs), "amounts are decimal text"
        amounts.append((entity, {field: int(amount) for field, amount in zip(pairs[::2], pairs[1::2], strict=True)}))
        at += 2 + 2 * n
    return amounts
