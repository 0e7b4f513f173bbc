"""A domain's sums: those of all its entities, as they are in its own documents."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

from daemon.domain.rollup import DOMAIN_DAILY
from daemon.domain.window import days_between
from daemon.rollups.build import build, of_domains
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


def test_the_history_of_a_domain_is_the_sum_of_its_entities_in_any_bucket(system: System) -> None:
    """By hours, too, which also a build knows."""
    types = ["movie", "actor", "tag"]
    system.env["TALLYD_DOMAINS"] = json.dumps({"jav": {"entity_types": types, "hourly": True}})
    now = dt.datetime.now(dt.UTC)
    with system.ingest(**UNCACHED) as ingest:
        count(system)
        system.count(event(entity_id="now", value=5, occurred_at=f"{now:%Y-%m-%dT%H:%M:%SZ}"))
        system.flush()
        for _ in range(2):
            daily = read(ingest, f"series/jav?from={DAYS[0]}&to={DAYS[-1]}&compare=1")
            assert [point["view"] for point in daily["points"]] == [1] * 6 + [6]
            assert [point["view"] for point in daily["previous"]["points"]] == [0] * 7
            assert sum(point["view"] for point in read(ingest, "series/jav?bucket=yearly&type=tag")["points"]) == 3
            for bucket in ("weekly", "monthly", "yearly"):
                points = read(ingest, f"series/jav?bucket={bucket}&from={DAYS[0]}&to={DAYS[-1]}")["points"]
                assert sum(point["view"] for point in points) == 12
            hours = read(ingest, "series/jav?bucket=hourly&window=24h")["points"]
            assert len(hours) == 24
            assert sum(point["view"] for point in hours) in (5, 6), "the view at 00:00 may be a day old"
            assert system.audit("--deep")["holds"]
            system.tallyd_here("audit", "--rebuild-domains")
            system.flush()
        built = system.mongo[DOMAIN_BUILDS].find_one()["built"]
        read_now = {"_id": {"$regex": f"^{built}:"}, "view": {"$gt": 0}}
        system.mongo["analytics_domain_hourly"].update_one(read_now, {"$inc": {"view": 1}})
        broken = system.audit(check=False)["broken"]
        assert [(found["law"], found["difference"]) for found in broken] == [("domains", 1), ("domains", -1)]


def test_a_domain_of_a_sum_beyond_64_bits_loses_nothing() -> None:
    most = 2**63 - 1
    documents = of_domains(build([(f"jav:movie:{id_}", [("view:2026-02-19", str(most))]) for id_ in "abc"]), 1, 0, ())
    assert [document.amounts["view"] for document in documents[DOMAIN_DAILY]] == [most] * 3
    assert len({document.id for document in documents[DOMAIN_DAILY]}) == 3
