from __future__ import annotations
import asyncio, json, time, itertools, hashlib, hmac, signal, datetime as dt, os
from collections import Counter
import psutil, pytest, httpx
from tests.kit.system import BATCH, EVENTS, Ingest, System, event, wait_until

SECRET = "a-signing-secret-0123456789"
def entries(**kw):
    return json.dumps([{"id": "sig1", "name": "shop", "secret": SECRET, **kw}])

def sig(path, body, t=None):
    t = str(int(time.time())) if t is None else t
    return f"key=sig1,t={t},v1=" + hmac.new(SECRET.encode(), f"{t}.{path}.".encode() + body, hashlib.sha256).hexdigest()

async def _burst(port, lines, body, source, go):
    head = (f"POST {BATCH} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n").encode()
    r, w = await asyncio.open_connection("127.0.0.1", port, local_addr=(source, 0))
    w.write(head + body[:-1]); await w.drain()
    await go.wait()
    w.write(body[-1:])
    try:
        line = await asyncio.wait_for(r.readline(), 30)
    except Exception as e:
        line = repr(e).encode()
    w.close()
    return line.split()[1].decode() if line.split() else "lost"

@pytest.mark.parametrize("conns", [0, 31, 100])
def test_burst(shared_system: System, conns: int):
    shared_system.redis.flushall()
    with shared_system.ingest(RATE_LIMIT__PER_MINUTE="60", BUDGET__PER_MINUTE="3000") as ingest:
        port = httpx.URL(ingest.url).port
        # a worker's memory
        workers = [p for p in ingest.workers()]
        rss0 = sum(p.memory_info().rss for p in workers)
        peak = 0
        async def main():
            nonlocal peak
            legit, lat = Counter(), []
            stop = False
            async def one(n):
                t = time.monotonic()
                body = json.dumps(event()).encode()
                try:
                    r, w = await asyncio.open_connection("127.0.0.1", port, local_addr=(f"127.9.{n // 250}.{n % 250 + 1}", 0))
                    w.write((f"POST {EVENTS} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n").encode() + body)
                    line = await asyncio.wait_for(r.readline(), 10)
                    w.close()
                    legit[line.split()[1].decode()] += 1
                except Exception as e:
                    legit[repr(e)[:40]] += 1
                lat.append(time.monotonic() - t)
            async def legits():
                tasks = []
                for n in itertools.count():
                    if stop: break
                    tasks.append(asyncio.create_task(one(n)))
                    await asyncio.sleep(1 / 250)
                await asyncio.gather(*tasks)
            async def mem():
                nonlocal peak
                while not stop:
                    peak = max(peak, sum(p.memory_info().rss for p in workers)); await asyncio.sleep(.05)
            m = asyncio.create_task(mem())
            l = asyncio.create_task(legits())
            got = Counter()
            bodies = []
            for k in range(conns):
                bodies.append(json.dumps([event(entity_id=f"x{k}-{i}" ) for i in range(2000)]).encode())
            for _ in range(4):
                go = asyncio.Event()
                ts = [asyncio.create_task(_burst(port, 1, b, "127.0.0.77", go)) for b in bodies]
                await asyncio.sleep(.7); go.set()
                got.update(await asyncio.gather(*ts))
                await asyncio.sleep(1.2)
            stop = True
            await l; await m
            lat.sort()
            assert set(legit) == {"202"} and peak < 2 * rss0 and got["202"] <= 4
            print("\nRESULT conns", conns, "attack", dict(got), "legit", dict(legit), "p50/p99 ms", round(lat[len(lat)//2]*1000), round(lat[int(len(lat)*.99)]*1000), "rss MiB", rss0 >> 20, peak >> 20)
        asyncio.run(main())

@pytest.mark.parametrize("interface", ["rsgi", "asgi"])
def test_big_half(shared_system: System, interface: str):
    """300 half-sent batches of 1 MiB - 1 from one address"""
    with shared_system.ingest(HTTP__INTERFACE=interface, RATE_LIMIT__PER_MINUTE="60", BUDGET__PER_MINUTE="3000") as ingest:
        port = httpx.URL(ingest.url).port
        workers = ingest.workers()
        rss0 = sum(p.memory_info().rss for p in workers)
        async def main():
            body = b"[" + b" " * (1048576 - 2) + b"]"
            go = asyncio.Event()
            ts = [asyncio.create_task(_burst(port, 1, body, "127.0.0.78", go)) for _ in range(300)]
            await asyncio.sleep(4)
            peak = sum(p.memory_info().rss for p in workers)
            assert peak < 2 * rss0
            go.set()
            got = Counter(await asyncio.gather(*ts))
            print("\nRESULT big half", interface, rss0 >> 20, peak >> 20, dict(got))
        asyncio.run(main())

@pytest.mark.parametrize("interface", ["rsgi", "asgi"])
def test_signed(shared_system: System, interface: str):
    with shared_system.ingest(HTTP__INTERFACE=interface, KEYS__ENTRIES=entries(), RATE_LIMIT__PER_MINUTE="5") as ingest:
        shared_system.redis.flushall()
        assert [ingest.post(event()).status_code for _ in range(6)] == [202] * 5 + [429]
        body = json.dumps(event()).encode()
        assert 202 == (httpx.post(ingest.url + EVENTS, content=body, headers={"content-type": "application/json", "x-tallyd-signature": sig(EVENTS, body)}).status_code)
    with shared_system.ingest(HTTP__INTERFACE=interface, KEYS__ENTRIES=entries(expires="2020-01-01")) as ingest:
        body = json.dumps(event()).encode()
        assert 401 == (httpx.post(ingest.url + EVENTS, content=body, headers={"content-type": "application/json", "x-tallyd-signature": sig(EVENTS, body)}).status_code)

def test_new_entities(shared_system: System):
    shared_system.redis.flushall()
    with shared_system.ingest(RATE_LIMIT__PER_MINUTE="600", RATE_LIMIT__NEW_ENTITIES_PER_MINUTE="1") as ingest:
        assert [ingest.post(event(entity_id=e)).status_code for e in "aabaa"] == [202, 202, 429, 202, 202]

@pytest.mark.parametrize("interface", ["rsgi", "asgi"])
def test_read_headers(shared_system: System, interface: str):
    with shared_system.ingest(HTTP__INTERFACE=interface, READ__KEY="a-reader-key-of-mine") as ingest:
        def st(*keys):
            return httpx.get(ingest.url + "/openapi.json", headers=[("x-tallyd-key", k) for k in keys]).status_code
        assert (st("a-reader-key-of-mine", "bad"), st("bad", "a-reader-key-of-mine")) == (200, 401)
        print("RESULT non-ascii header", httpx.get(ingest.url + "/openapi.json", headers=[(b"x-tallyd-key", b"a-reader-key-of-mine"), (b"x-a", b"\xff")]).status_code)
