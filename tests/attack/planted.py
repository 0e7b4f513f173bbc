"""Documents that are there before the daemons start: a past for the reads to be about."""

from __future__ import annotations

import datetime as dt
import random

from tests.attack.world import World
from tests.kit.oracle import Model

ENTITIES = 3_000
DAYS = 90
CHUNK = 5_000


def ninety_days(world: World, share: float) -> None:
    """Views of many movies on each of 90 days, with other favourites each day: no list of few shortens the way.

    The five rollups agree with each other, and become the baseline of the epoch that the first daemon begins.
    """
    model, dice = Model(), random.Random(1)
    today = dt.datetime.now(dt.UTC).date()
    for ago in range(1, DAYS + 1):
        for n in range(int(ENTITIES * share)):
            model.add(
                ("jav", "movie", f"past-{n}"),
                "view",
                today - dt.timedelta(days=ago),
                int(dice.paretovariate(0.8)) % 10_000 + 1,
            )
    at = dt.datetime.now(dt.UTC)
    for name, documents in model.rollups({}).items():
        made = [{**document, "flush_seq": 0, "updated_at": at} for document in documents.values()]
        for begin in range(0, len(made), CHUNK):
            world.mongo[f"analytics_entity_{name}"].insert_many(made[begin : begin + CHUNK], ordered=False)
