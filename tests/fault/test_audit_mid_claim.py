"""The audit while a claim is half applied: wherever its flusher stands or has died, no law is broken."""

from __future__ import annotations

import asyncio

from daemon.buffer.connection import Connection
from daemon.buffer.layout import Layout
from daemon.verify.audit.audit import auditor
from tests.chaos.steps import Flusher
from tests.kit.system import System, event

TOTALS = "analytics_entity_totals"


def test_the_audit_holds_at_every_step_of_a_claim(system: System) -> None:
    """One that is frozen in several parts, and ends in a dead letter: between the letter and the ack its amounts are in
    both."""
    system.env["TALLYD_FLUSH__CLAIM_US_MAX"] = "1"
    system.count(event(entity_id="a"), event(entity_id="b"))
    system.flush()
    system.count(event(entity_id="a"), event(entity_id="b"), event(entity_id="c"))
    assert asyncio.run(audited_steps(system)) > 20
    assert system.mongo["analytics_dead_letters"].count_documents({}) == 1


async def audited_steps(system: System) -> int:
    config = system.config()
    flusher, connection = Flusher(system, 0), Connection(config.redis, Layout(config))
    flusher.restart(connection)
    steps = 0
    spoil(system, "not a number")
    await flusher.actor.begin(flusher.drain.apply_next())
    while flusher.actor.running:
        spoil(system, 1)  # as it was: the audit shall see nothing but the step
        async with auditor(config) as by:
            assert (await by.audit(thorough=True)).broken == [], f"after {steps} steps"
        spoil(system, "not a number")
        await flusher.actor.step(0)
        steps += 1
    await connection.close()
    await flusher.mongo.close()
    return steps


def spoil(system: System, value: object) -> None:
    system.mongo[TOTALS].update_one({"_id": "jav:movie:a"}, {"$set": {"view": value}})
