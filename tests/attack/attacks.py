"""The attacks. `ATTACKS` lists them; each function is one, and runs until its crowd's time is over.

The rates are those at which version 0.2.0 gave way, or more. Nothing here needs more than one computer at home.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import ipaddress
import json
import random
import secrets
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, NamedTuple

from tests.attack import planted
from tests.attack.crowd import Crowd, Line, Pace
from tests.attack.namespace import NAMESPACE, OUTSIDE, SUBNET, entered
from tests.attack.world import World
from tests.kit.commands import TALLYD
from tests.kit.events import BATCH, event
from tests.kit.wire import head, request

READ = "/api/v1/analytics"
NDJSON = "application/x-ndjson"
REFUSED = request(b"{}\n" * 2_000, BATCH, content_type=NDJSON)
"""6 KB: two thousand events with every field missing."""


class Attack(NamedTuple):
    """One attack, and what it needs."""

    name: str
    probe: str
    """Its number in the list of probes that this suite was made from."""
    says: str
    act: Callable[[Crowd], Awaitable[None]]
    senders: int = 1
    """How many senders it has in the eyes of the rate limit. It may not get more counted than all of theirs."""
    settings: Mapping[str, str] = {}
    plant: Callable[[World, float], None] | None = None
    """Puts documents into the empty stores. Told the share of the usual amount."""
    meanwhile: Callable[[World], AbstractContextManager[None]] | None = None
    """What else is wrong: entered before the calm, left after the attack."""
    command: tuple[str, ...] = TALLYD
    host: str = "127.0.0.1"
    """Where the attackers connect to."""
    namespace: str = ""
    """The network namespace they are in."""


# Bodies -----------------------------------------------------------------------------------------------------------


async def half_bodies(crowd: Crowd) -> None:
    """A head and one byte, 4,200 times from one address; opened again when it is given up."""
    half = head(content_type="application/json", content_length=99) + b"{"
    await _hold(crowd, crowd.sources(1) * 4_200, half, opened_per_s=500)


async def tiny_chunks(crowd: Crowd) -> None:
    """Chunks of one byte from 20 connections, 600 KB/s altogether."""
    chunks, blocks_per_s = b"1\r\n \r\n" * 500, 200
    begin = head(BATCH, content_type="application/json", transfer_encoding="chunked")
    pace = Pace(blocks_per_s, crowd)

    async def drip(source: str) -> None:
        while crowd.left_s:
            try:
                with await crowd.open(source) as line:
                    await line.send(begin)
                    waiting = asyncio.create_task(_wait(crowd, line))
                    try:
                        while not waiting.done() and await pace.next() is not None:
                            await line.send(chunks)
                        await waiting
                    finally:
                        waiting.cancel()
            except (OSError, TimeoutError) as error:
                crowd.lost(error)
                await asyncio.sleep(0.1)

    await asyncio.gather(*(drip(source) for source in crowd.sources(4) * 5))


async def refused_unread(crowd: Crowd) -> None:
    """500 refused batches at once from 10 addresses, then 10 a second; no answer is ever read."""
    pace = Pace(10, crowd)
    with ExitStack() as lines:

        async def send(source: str) -> None:
            try:
                line = lines.enter_context(await crowd.open(source, receive_bytes=1_024))
                await line.send(REFUSED)
                crowd.outcomes["not read"] += 1
            except (OSError, TimeoutError) as error:
                crowd.lost(error)

        await asyncio.gather(*(send(source) for source in crowd.sources(10) * 50))
        while (number := await pace.next()) is not None:
            await send(crowd.sources(10)[number % 10])


async def refused_read(crowd: Crowd) -> None:
    """The same batches and read, at the rate that 30 addresses were allowed."""
    await crowd.flood(crowd.sources(30), lambda _: REFUSED, per_s=30)


async def refused_singles(crowd: Crowd) -> None:
    """Events with a wrong field, 1,000 a second from four addresses."""
    bad = request(json.dumps(event(value="many")).encode())
    await crowd.flood(crowd.sources(4) * 4, lambda _: bad, per_s=1_000)


async def too_many(crowd: Crowd) -> None:
    """Good events far over the limit, 2,000 a second from four addresses."""
    await crowd.flood(crowd.sources(4) * 4, lambda _: request(_view()), per_s=2_000, events=1)


async def wrong_keys(crowd: Crowd) -> None:
    """Guessing keys, 3,000 a second from one address."""
    await crowd.flood(
        crowd.sources(1) * 8, lambda n: request(_view(), x_tallyd_key=f"a-guessed-key-{n:09}"), per_s=3_000, events=1
    )


# Heads and connections --------------------------------------------------------------------------------------------


async def slow_heads(crowd: Crowd) -> None:
    """5,000 connections that send a byte of their head every ten seconds, from five addresses."""

    async def drip(source: str, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        while crowd.left_s:
            try:
                with await crowd.open(source) as line:
                    for byte in head(content_length=2):
                        await line.send(bytes([byte]))
                        if await line.closed(min(10.0, crowd.left_s)):
                            crowd.outcomes["closed"] += 1
                            break
                        if not crowd.left_s:
                            break
            except (OSError, TimeoutError) as error:
                crowd.lost(error)
                await asyncio.sleep(1)

    spread_s = min(10.0, crowd.left_s / 4)
    every = crowd.sources(5) * 1_000
    await asyncio.gather(*(drip(source, spread_s * n / len(every)) for n, source in enumerate(every)))


async def idle_connections(crowd: Crowd) -> None:
    """12,000 connections that say nothing, from four addresses."""
    await _hold(crowd, crowd.sources(4) * 3_000, b"", opened_per_s=3_000)


async def idle_and_few_files(crowd: Crowd) -> None:
    """1,100 of them from one address, to a daemon that was started with 1,024 files (a shell's limit)."""
    await _hold(crowd, crowd.sources(1) * 1_100, b"", opened_per_s=1_000)


# Reads ------------------------------------------------------------------------------------------------------------


async def summary_variants(crowd: Crowd) -> None:
    """The summary of 90 days under ever new spellings of its query, 50 a second from one address."""
    await crowd.flood(crowd.sources(1) * 100, lambda n: _get(f"/summary/jav?days=90{'&' * (n % 900 + 1)}"), per_s=50)


async def top_variants(crowd: Crowd) -> None:
    """The top list of 90 days with ever new limits, 50 a second."""
    ask = "/top/jav/movie?window=90d&limit={}&counter={}{}"
    await crowd.flood(
        crowd.sources(1) * 16,
        lambda n: _get(ask.format(n % 100 + 1, ("view", "download")[n % 2], "&" * (n // 200))), per_s=50,
    )  # fmt: skip


async def series_of_nothing(crowd: Crowd) -> None:
    """Daily series over two years of ids that do not exist, 400 a second."""
    today = dt.datetime.now(dt.UTC).date()
    ask = f"/series/jav/movie/{{}}?bucket=daily&from={today - dt.timedelta(days=700)}&to={today}"
    await crowd.flood(crowd.sources(1) * 32, lambda _: _get(ask.format(secrets.token_hex(8))), per_s=400)


async def totals_of_nothing(crowd: Crowd) -> None:
    """The totals of 500 ids that do not exist, 200 a second."""

    def ask(_: int) -> bytes:
        return _get("/totals/jav/movie?ids=" + ",".join(secrets.token_hex(8) for _ in range(500)))

    await crowd.flood(crowd.sources(1) * 16, ask, per_s=200)


async def fresh_totals(crowd: Crowd) -> None:
    """Exact totals (`fresh=1`) of an entity that is being flushed, from 64 connections."""
    ask = _get("/totals/jav/movie/legit-1?fresh=1")
    await crowd.flood(crowd.sources(1) * 64, lambda _: ask, per_s=2_000)


async def reads_of_a_frozen_mongod(crowd: Crowd) -> None:
    """500 reads a second while MongoDB does not answer."""
    await crowd.flood(crowd.sources(1) * 64, lambda _: _get(f"/totals/jav/movie/{secrets.token_hex(8)}"), per_s=500)


async def metrics(crowd: Crowd) -> None:
    """/metrics and other spellings of it, from 16 connections."""
    asks = [_get(path, prefix="") for path in ("/metrics", "/%6detrics", "/metrics?x", "//metrics")]
    await crowd.flood(crowd.sources(1) * 16, lambda n: asks[n % len(asks)], per_s=2_000)


async def readyz(crowd: Crowd) -> None:
    """/readyz, from 16 connections."""
    await crowd.flood(crowd.sources(1) * 16, lambda _: _get("/readyz", prefix=""), per_s=5_000)


# Cardinality ------------------------------------------------------------------------------------------------------


async def new_entities(crowd: Crowd) -> None:
    """Batches of 2,000 new entities each, 15 a second from one address."""
    await crowd.flood(crowd.sources(1) * 4, lambda _: _batch(2_000, long=False), per_s=15, events=2_000)


async def long_new_entities(crowd: Crowd) -> None:
    """Batches of 600 new entities with ids of 255 four-byte characters, from 20 addresses."""
    await crowd.flood(crowd.sources(20), lambda _: _batch(600, long=True), per_s=15, events=600)


async def many_event_ids(crowd: Crowd) -> None:
    """Far more event ids than the dedupe memory was laid out for, of one entity, from 20 addresses."""

    def batch(_: int) -> bytes:
        return request(json.dumps([_fields(entity_id="one") for _ in range(1_000)]).encode(), BATCH)

    await crowd.flood(crowd.sources(20), batch, per_s=20, events=1_000)


async def many_days(crowd: Crowd) -> None:
    """One entity on 120,000 different days, then its exact total over and over."""
    first = dt.date(1900, 1, 1)

    def batch(n: int) -> bytes:
        days = (first + dt.timedelta(days=(n * 2_000 + k) % 44_000) for k in range(2_000))
        made = [_fields(entity_id="one", occurred_at=f"{day}T12:00:00Z") for day in days]
        return request(json.dumps(made).encode(), BATCH)

    sending = crowd.flood(crowd.sources(1) * 2, batch, per_s=15, events=2_000)
    reading = crowd.flood(crowd.sources(1) * 8, lambda _: _get("/totals/jav/movie/one?fresh=1"), per_s=100)
    await asyncio.gather(sending, reading)


async def flood_without_redis(crowd: Crowd) -> None:
    """Batches of 2,000 without pause from one address, while Redis does not answer."""
    await crowd.flood(crowd.sources(1) * 4, lambda _: _batch(2_000, long=False), per_s=40, events=2_000)


# Addresses --------------------------------------------------------------------------------------------------------


async def forged_forwarded(crowd: Crowd) -> None:
    """Each event with another X-Forwarded-For and Forwarded, 400 a second from one address."""

    def one(n: int) -> bytes:
        other = ipaddress.ip_address(0xC633_6400 + n)
        return request(_view(), x_forwarded_for=other, forwarded=f"for={other}", x_real_ip=other)

    await crowd.flood(crowd.sources(1) * 8, one, per_s=400, events=1)


async def one_ipv6_network(crowd: Crowd) -> None:
    """An event from each of ever new addresses of one /64, 500 a second."""
    pace, dice = Pace(500, crowd), random.Random()
    first = int(SUBNET.network_address)

    async def work() -> None:
        while await pace.next() is not None:
            try:
                with await crowd.open(str(ipaddress.IPv6Address(first + dice.getrandbits(64)))) as line:
                    await line.send(request(_view()))
                    crowd.note(await line.answer(), 1)
            except (OSError, TimeoutError) as error:
                crowd.lost(error, 1)

    await asyncio.gather(*(work() for _ in range(32)))


# ------------------------------------------------------------------------------------------------------------------


@contextmanager
def redis_frozen(world: World) -> Iterator[None]:
    with world.frozen("redis"):
        yield


@contextmanager
def mongo_frozen(world: World) -> Iterator[None]:
    with world.frozen("mongo"):
        yield


ATTACKS = (
    Attack("half-bodies", "P4", "4,200 half-sent bodies", half_bodies),
    Attack("tiny-chunks", "P5", "chunks of one byte, 600 KB/s", tiny_chunks, 4),
    Attack("refused-unread", "P6", "500 refused batches, not read", refused_unread, 10),
    Attack("refused-read", "P7", "30 refused batches a second", refused_read, 30),
    Attack("refused-singles", "P7", "1,000 wrong events a second", refused_singles, 4),
    Attack("too-many", "-", "2,000 good events a second, far over the limit", too_many, 4),
    Attack("wrong-keys", "P34", "3,000 guessed keys a second", wrong_keys),
    Attack(
        "summary-variants", "P8", "one summary under ever new spellings", summary_variants, plant=planted.ninety_days
    ),
    Attack("top-variants", "P9", "ever new top lists of 90 days", top_variants, plant=planted.ninety_days),
    Attack("series-of-nothing", "P10", "400 series of unknown ids a second", series_of_nothing),
    Attack("totals-of-nothing", "P10", "200 times 500 unknown ids a second", totals_of_nothing),
    Attack("fresh-totals", "P11", "exact totals from 64 connections", fresh_totals),
    Attack("metrics", "P12", "/metrics from 16 connections", metrics),
    Attack("readyz", "P12", "/readyz from 16 connections", readyz),
    Attack("new-entities", "P13", "30,000 new entities a second", new_entities),
    Attack("long-new-entities", "P13", "9,000 new entities a second with the longest ids", long_new_entities, 20),
    Attack(
        "many-event-ids", "P14", "a dedupe memory laid out for 10,000 ids", many_event_ids, 20,
        settings={"DEDUPE__EVENTS_PER_WINDOW": "10000"},
    ),
    Attack(
        "flood-without-redis", "P15", "80,000 events a second while Redis is frozen", flood_without_redis,
        settings={"SPOOL__BYTES_MAX": str(64 << 20)}, meanwhile=redis_frozen,
    ),
    Attack("many-days", "P16", "one entity on 44,000 days, read exactly", many_days),
    Attack("forged-forwarded", "P19", "400 forged X-Forwarded-For a second", forged_forwarded),
    Attack(
        "one-ipv6-network", "P20", "500 addresses of one /64 a second", one_ipv6_network,
        settings={"HTTP__HOST": "::"}, meanwhile=lambda _: entered(), host=OUTSIDE, namespace=NAMESPACE,
    ),
    Attack("slow-heads", "P21", "5,000 slow heads", slow_heads, 5),
    Attack("idle-connections", "P21", "12,000 idle connections", idle_connections, 4),
    Attack(
        "idle-and-few-files", "P21", "1,100 idle connections, 1,024 files", idle_and_few_files,
        command=("prlimit", "--nofile=1024:", *TALLYD),
    ),
    Attack(
        "reads-of-a-frozen-mongod", "P10", "500 reads a second, MongoDB frozen", reads_of_a_frozen_mongod,
        meanwhile=mongo_frozen,
    ),
)  # fmt: skip


async def _hold(crowd: Crowd, froms: list[str], begin: bytes, *, opened_per_s: float) -> None:
    """A connection from each of these addresses that sends this and waits; opened again when the server ends it."""
    pace = Pace(opened_per_s, crowd)

    async def hold(source: str) -> None:
        while await pace.next() is not None:
            try:
                with await crowd.open(source) as line:
                    await line.send(begin)
                    await _wait(crowd, line)
            except (OSError, TimeoutError) as error:
                crowd.lost(error)

    await asyncio.gather(*(hold(source) for source in froms))


async def _wait(crowd: Crowd, line: Line) -> None:
    """For the answer, or until the time is over."""
    try:
        crowd.note(await line.answer(crowd.left_s))
    except TimeoutError:
        crowd.outcomes["held"] += 1


def _fields(**fields: Any) -> dict[str, Any]:
    """An event of now, whose id and entity are of the attackers."""
    now = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
    return event(**{"entity_id": "attacked", "occurred_at": now, **fields})


def _view() -> bytes:
    return json.dumps(_fields()).encode()


def _batch(events: int, *, long: bool) -> bytes:
    """New entities; `long`: with ids of 255 characters of four bytes."""
    pad = "\U0001f600" * 239 if long else ""
    made = [_fields(entity_id=secrets.token_hex(8) + pad) for _ in range(events)]
    return request(json.dumps(made, ensure_ascii=False).encode(), BATCH)


def _get(path: str, *, prefix: str = READ) -> bytes:
    return head(prefix + path, "GET")
