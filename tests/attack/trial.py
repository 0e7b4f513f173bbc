"""One attack on a fresh system: calm, attack, after it; then every event is accounted for.

The legitimate senders run through all phases. What they got no answer to, or 503, they send again in the end, under the
same ids. Then the totals have to hold exactly their events, and of the attackers' at least those answered 202.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import multiprocessing
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

from bench.machine import Others
from daemon.config import Config
from tests.attack import crowd, figures, legit
from tests.attack.attacks import Attack
from tests.attack.crowd import Sent
from tests.attack.figures import Found
from tests.attack.legit import Answered, Legit
from tests.attack.world import Memory, World, raised
from tests.kit.servers import Stack

FRESH = "127.0.200.1"
"""An address that sent nothing yet."""
BLOCK = 0
"""Of the attackers' addresses: each attack has a daemon of its own."""
RELEASE_TIMEOUT_S = 30.0
ASK_EVERY_S = 0.25
SETTLE_TIMEOUT_S = 60.0
SPARE = 1.05
"""A bucket is full at the begin, and a clock is read twice: what the limits may let through besides."""
ALWAYS_REFUSED = ("half-bodies", "tiny-chunks", "refused-unread", "refused-read", "refused-singles", "wrong-keys")


class Times(NamedTuple):
    """Seconds of each phase. `settle`: before the calm, so that nothing of the start is measured."""

    settle: float = 4.0
    calm: float = 10.0
    attack: float = 60.0
    after: float = 7.0


def run(attack: Attack, stack: Stack, scratch: Path, times: Times, *, share: float = 1.0) -> Found:
    """`share`: of the usual amount of planted documents."""
    scratch.mkdir(parents=True)
    with raised(stack, scratch) as world:
        if attack.plant is not None:
            attack.plant(world, share)
        world.env |= {f"TALLYD_{key}": value for key, value in attack.settings.items()}
        with world.daemons(attack.command):
            return _measured(world, attack, times, scratch)


def _measured(world: World, attack: Attack, times: Times, scratch: Path) -> Found:
    port, memory, others = world.ingest.port, Memory(world.ingest), Others()
    memory.start()
    with Legit(port, scratch / "legit") as senders:
        with contextlib.nullcontext() if attack.meanwhile is None else attack.meanwhile(world):
            time.sleep(times.settle)
            calm_s = time.monotonic()
            time.sleep(times.calm)
            begun_s = time.monotonic()
            sent = attacked(attack, port, BLOCK, times.attack)
            ended_s = begun_s + times.attack
        stopped_s = time.monotonic()
        released = asyncio.run(released_after(port, (FRESH, crowd.source(BLOCK)), stopped_s))
        time.sleep(max(0.0, stopped_s + times.after - time.monotonic()))
        over_s = time.monotonic()
        answered = senders.stop()
    memory.end()
    share = others.share()
    asked = sum(each.asked for each in released)
    reached = sent.outcomes.keys() - {"cut off", "timed out"}
    troubles = [] if reached else ["the attack did not reach the daemon"]
    troubles += accounted(world, port, answered, sent, asked)
    fresh, attacker = (each.seconds for each in released)
    taken = world.views() - len(answered)
    per_sender = Config().rate_limit.per_minute
    return Found(
        attack=attack.name,
        probe=attack.probe,
        says=attack.says,
        seconds=times.attack,
        calm=figures.phase(answered, calm_s, begun_s),
        attacked=figures.phase(answered, begun_s, ended_s),
        after=figures.phase(answered, stopped_s, over_s),
        before_mib=round(memory.peak_mib(calm_s, begun_s), 1),
        peak_mib=round(memory.peak_mib(begun_s, over_s), 1),
        after_mib=round(memory.last_mib(over_s), 1),
        fresh_released_s=round(fresh, 2),
        attacker_released_s=round(attacker, 2),
        outcomes=dict(sorted(sent.outcomes.items())),
        answer_bytes_max=sent.answer_bytes_max,
        taken=taken,
        taken_max=asked + int(SPARE * attack.senders * per_sender * (1 + (over_s - begun_s) / 60)),
        refused_only=attack.name in ALWAYS_REFUSED,
        troubles=tuple(troubles),
        others=round(share, 2),
    )


def attacked(attack: Attack, port: int, block: int, seconds: float) -> Sent:
    """Runs the crowd in a process of its own. `block`: of its addresses."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(crowd.run, attack.act, attack.host, port, block, seconds, attack.namespace).result()


class Released(NamedTuple):
    """When an event of an address was taken again, and how many it sent for that."""

    seconds: float
    asked: int
    taken: bool


async def released_after(port: int, sources: Sequence[str], ended_s: float) -> list[Released]:
    """Of each address, in seconds since the end of the attack."""

    async def wait(source: str) -> Released:
        asked, taken = 0, False
        while time.monotonic() < ended_s + RELEASE_TIMEOUT_S:
            asked += 1
            body = json.dumps(legit.good(f"released-{source}-{asked}") | {"entity_id": "released"}).encode()
            if taken := await legit.send(port, source, body) == 202:
                break
            await asyncio.sleep(ASK_EVERY_S)
        return Released(time.monotonic() - ended_s, asked, taken)

    return list(await asyncio.gather(*(wait(source) for source in sources)))


def accounted(world: World, port: int, answered: Sequence[Answered], sent: Sent, asked: int) -> list[str]:
    """What is wrong with the counts. Sends the legitimate events again that got no 202."""
    try:
        asyncio.run(_resend(port, [each for each in answered if each.status != 202]))
        world.drain()
    except AssertionError as error:
        return [f"not settled: {error}"]
    troubles = []
    found, expected = sum(world.legit_views().values()), len(answered)
    if found != expected:
        troubles.append(f"the totals have {found} legitimate events, {expected} were sent")
    least = expected + sent.acked
    most = least + sent.unknown + asked
    if not least <= world.views() <= most:
        troubles.append(f"{world.views()} events were accepted, not {least} to {most}")
    report = world.audit(check=False)
    if not report["holds"]:
        troubles.append(f"the audit found {report['broken']}")
    return troubles


async def _resend(port: int, events: Sequence[Answered]) -> None:
    """Each from its own new address until it is answered 202."""
    first = 0x40_0000  # behind the addresses of the run
    gate = asyncio.Semaphore(20)

    async def again(number: int, event_id: str) -> None:
        body = json.dumps(legit.good(event_id, int(event_id.rpartition("-")[2]))).encode()
        async with gate:
            for _ in range(int(SETTLE_TIMEOUT_S / ASK_EVERY_S)):
                if await legit.send(port, legit.address(first + number), body) == 202:
                    return
                await asyncio.sleep(ASK_EVERY_S)
        raise AssertionError(f"{event_id} is not taken, however often it is sent")

    await asyncio.gather(*(again(n, each.event_id) for n, each in enumerate(events)))
