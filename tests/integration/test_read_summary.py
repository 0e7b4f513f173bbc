"""A domain's sums: those of all its entities, as they are in its own documents."""

from __future__ import annotations

import datetime as dt
from typing import Any

from daemon.domain.window import days_between
from daemon.rollups.collections import DOMAIN_BUILDS, FLOORS
from tests.kit.system import Ingest, System, event

TODAY = dt.datetime.now(dt.UTC).date()
DAYS = days_between(TODAY - dt.timedelta(6), TODAY)
ONE_SYSTEM = True
UNCACHED = {"READ__CACHE_TTL_MS": "0", "READ__TOP_CACHE_TTL_MS": "0", "READ__STALE_S": "0"}
API = "/api/v1/analytics"


def count(system: System) -> None:
    """A view each day, of a movie or a tag, and two downloads of a movie today."""
    kinds = ("movie", "tag")
    system.count(
        *(event(entity_type=kinds[n % 2], occurred_at=f"{day}T00:00:00Z") for n, day in enumerate(DAYS)),
        *(event(entity_id=id_, action="download", occurred_at=f"{DAYS[-1]}T00:00:00Z") for id_ in "ab"),
    )


def read(ingest: Ingest, path: str) -> dict[str, Any]:
    answer = ingest.client.get(f"{API}/{path}")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_a_summary_is_the_sum_of_all_entities_whatever_wrote_them(system: System) -> None:
    with system.ingest(**UNCACHED) as ingest:
        nothing = read(ingest, "summary/jav?days=7&top=0")
        assert nothing["counters"] == {"view": [0] * 7, "download": [0] * 7}, "nothing was ever flushed"

        count(system)
        system.flush()
        assert read(ingest, "summary/jav?days=7&top=0")["counters"] == {"view": [1] * 7, "download": [0] * 6 + [2]}
        assert read(ingest, "summary/jav?days=7&type=tag&top=0")["sums"] == {"view": 3, "download": 0}
        compared = read(ingest, "summary/jav?days=1&compare=1&top=0")
        assert (compared["sums"], compared["previous"]["sums"]) == (
            {"view": 1, "download": 2},
            {"view": 1, "download": 0},
        )

        system.tallyd_here("audit", "--rebuild-domains")
        count(system)
        system.flush()
        assert read(ingest, "summary/jav?days=7&top=0")["sums"] == {"view": 14, "download": 4}
        assert system.audit("--deep")["holds"]

        system.mongo[DOMAIN_BUILDS].delete_many({})
        system.mongo[FLOORS].update_many({}, {"$unset": {"domains": 1}})
        unbuilt = ingest.client.get(f"{API}/summary/jav?days=7&top=0")
        assert unbuilt.status_code == 503
        assert "not built yet" in unbuilt.text
        system.flush()
        assert read(ingest, "summary/jav?days=7&top=0")["sums"] == {"view": 14, "download": 4}
