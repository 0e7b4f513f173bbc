"""The scenarios. Which faults belong to one is in `faults.py`. Pure values: read by the swarm, too."""

from __future__ import annotations

from typing import NamedTuple

BURST_EVERY_S = 5.0
BURST_S = 1.0


class Scenario(NamedTuple):
    """A kind of load. Shares are probabilities of a request."""

    name: str
    about: str
    users: int = 32
    rate: float = 1_000
    """Requests a second of all users together; 0: as fast as they can."""
    burst_factor: float = 1
    """For BURST_S in every BURST_EVERY_S, the rate is this many times as high."""
    entities: int = 5_000
    again_share: float = 0
    """Requests that repeat one that was accepted."""
    hot_share: float = 0
    """Events for the first entity; the others are spread over all."""
    invalid_share: float = 0
    """Requests that must be refused, or refused in part."""
    batch_events: int = 0
    """Events of a request; 0: requests are single events."""


SCENARIOS = (
    Scenario("steady", "Single events at a constant rate."),
    Scenario("burst", "Quiet, and every 5 s one second of ten times as much.", users=100, rate=200, burst_factor=10),
    Scenario("duplicates", "30 % of the requests repeat one that was accepted.", again_share=0.3),
    Scenario("hot_entity", "One entity takes half of all events.", hot_share=0.5),
    Scenario("wide", "Events spread evenly over 1,000,000 entities.", entities=1_000_000),
    Scenario("mixed_invalid", "30 % of the requests are wrong, and each gets its own answer.", invalid_share=0.3),
    Scenario("batch", "Batches of 200 events.", users=8, rate=40, batch_events=200),
    Scenario("redis_outage", "Redis freezes; later it is stopped and started. Events wait in the spool.", rate=500),
    Scenario("rolling_restart", "The ingest daemon gives way to a new one, three times.", rate=500),
)
BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}


def rate_at(scenario: Scenario, rate: float, elapsed_s: float) -> float:
    """Requests a second wanted at this moment, `rate` being that outside of bursts."""
    in_burst = elapsed_s % BURST_EVERY_S >= BURST_EVERY_S - BURST_S
    return rate * scenario.burst_factor if in_burst else rate
