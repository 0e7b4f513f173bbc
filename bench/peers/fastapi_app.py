"""The peer as a user of FastAPI would write it: a pydantic model, redis-py, one string key an event, two round trips.

    uvicorn --app-dir bench/peers fastapi_app:app --loop uvloop --http httptools --no-access-log

Runs in the environment of requirements.txt and imports nothing of ours. PEER_REDIS is the address of its Redis.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import Literal

from fastapi import FastAPI
from pydantic import BaseModel, Field
from redis.asyncio import Redis

WINDOW_S = 172_800

app = FastAPI()
store = Redis.from_url(os.environ["PEER_REDIS"])


class Event(BaseModel):
    """What a client sends."""

    event_id: str = Field(min_length=1, max_length=255)
    domain: Literal["jav"] = "jav"
    entity_type: Literal["movie", "actor", "tag"]
    entity_id: str = Field(min_length=1, max_length=255)
    action: Literal["view", "download"]
    value: int = Field(default=1, ge=1, le=100)
    occurred_at: datetime


@app.get("/healthz")
async def healthz() -> dict[str, str]:
    """Who answers here."""
    return {"run_id": os.environ["TALLYD_RUN_ID"]}


@app.post("/api/v1/analytics/events", status_code=202)
async def count(event: Event) -> dict[str, str]:
    """Counts it, unless its id was seen."""
    if await store.set(f"seen:{event.event_id}", 1, nx=True, ex=WINDOW_S):
        entity = f"{event.domain}:{event.entity_type}:{event.entity_id}"
        day = event.occurred_at.astimezone(UTC).date().isoformat()
        async with store.pipeline(transaction=True) as pipe:
            pipe.hincrby(f"counters:{entity}", f"{event.action}:{day}", event.value)
            pipe.sadd("dirty", entity)
            await pipe.execute()
    return {"status": "accepted"}
