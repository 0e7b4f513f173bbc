"""What a load takes, by the measured figures. The table of the page is made here.

After a change: python -m tests.unit.doctor.test_capacity
"""

from __future__ import annotations

import datetime as dt
import json
import math
import re
import secrets
import uuid
from pathlib import Path
from typing import Any

import msgspec
import pytest

from daemon import config as configuration
from daemon.buffer.wire import encode_call, unlimited
from daemon.config import Config
from daemon.doctor import capacity as figures
from daemon.doctor.capacity import Load, capacity, shown
from daemon.ingest.decode import Batch, Decoder, build_catalogue
from tests.kit.events import event

ROOT = Path(__file__).resolve().parents[3]
PAGE = ROOT / "ops" / "capacity.md"
COLUMNS = {
    "Redis, maxmemory": "Redis `maxmemory`",
    "Redis, disk": "Redis disk",
    "spool, disk": "spool",
    "MongoDB, disk": "MongoDB disk, a year",
    "MongoDB, memory of its machine": "MongoDB memory",
    "ingest workers": "workers",
    "flushers, MongoDB and MySQL": "flush cores",
}
LOADS = (
    Load(10, 100_000, 10_000),
    Load(100, 1_000_000, 100_000),
    Load(500, 1_000_000, 100_000),
    Load(2_000, 10_000_000, 1_000_000),
    Load(10_000, 10_000_000, 1_000_000),
)


DAYS = tuple(
    Load(events_a_day / 86_400, 10_000_000, 10_000_000, batches=True, node_mbit_s=10_000)
    for events_a_day in (10**9, 10**10, 10**11, 10**12)
)
"""The busy ones: of 10⁹ to 10¹² events a day, on machines with 10 Gbit/s."""
WAYS = {
    "window 48 h, flush 60 s": {"TALLYD_FLUSH__INTERVAL_S": "60"},
    "window 1 h, flush 600 s": {"TALLYD_DEDUPE__WINDOW_S": "3600", "TALLYD_FLUSH__INTERVAL_S": "600"},
}
DAY_COLUMNS = {
    "Redis, ids": "ids",
    "Redis, primaries": "primaries",
    "Redis, shards": "shards",
    "ingest workers": "workers",
    "ring, memory": "rings",
    "MongoDB, journal": "journal",
    "flushers, MongoDB and MySQL": "flush cores",
}


def config(**env: str) -> Config:
    return configuration.load(environ=env)


def amounts(load: Load, **env: str) -> dict[str, float]:
    return {need.what: need.amount for need in capacity(config(**env), load).needs}


def table() -> str:
    head = ["events/s", "entities", "a day", *COLUMNS.values()]
    lines = [head, ["---"] * len(head)]
    for load in LOADS:
        needs = {need.what: shown(need) for need in capacity(config(), load).needs}
        sizes = (f"{load.events_per_second:,.0f}", f"{load.entities:,}", f"{load.active:,}")
        lines.append([*sizes, *(needs[what] for what in COLUMNS)])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def table_of_days() -> str:
    head = ["events a day", "events/s, busiest", "", *DAY_COLUMNS.values(), "what is too small first"]
    lines = [head, ["---"] * len(head)]
    for load in DAYS:
        a_day = f"10^{round(math.log10(load.events_per_second * 86_400))}"
        for way, env in WAYS.items():
            found = capacity(config(TALLYD_REDIS__REPLICAS="1", **env), load)
            needs = {need.what: need for need in found.needs}
            cells = [shown(needs[what]) for what in DAY_COLUMNS]
            cells[1] += f": {needs['Redis, primaries'].of}"
            lines.append([a_day, f"{load.events_per_second * load.peak:,.0f}", way, *cells, found.first])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def with_table(page: str) -> str:
    for name, text in (("table", table()), ("days", table_of_days())):
        page = re.sub(rf"(?<=<!-- {name} -->\n).*?(?=<!-- /{name} -->)", f"{text}\n", page, flags=re.DOTALL)
    return page


def test_the_page_has_the_table_of_the_command() -> None:
    page = PAGE.read_text()
    assert page == with_table(page), "python -m tests.unit.doctor.test_capacity"


def measured(group: str, name: str) -> float:
    rows: list[dict[str, Any]] = json.loads((ROOT / "bench" / "results" / f"{group}.json").read_text())["rows"]
    [row] = [row for row in rows if row["name"] == name]
    values: list[float] = sorted(row["ours"])
    return values[len(values) // 2]


@pytest.mark.parametrize(
    ("figure", "measured_"),
    [
        (figures.DEDUPE_EVENT_BYTES, measured("memory", "memory")),
        (figures.REDIS_BATCH_US, measured("batch", "redis-cpu") + 1.2),
        (figures.FLUSH_ENTITY_US, measured("scale", "scale-100000")),
        (figures.ROW_US, 1e6 / measured("replica", "replica") + 15),
    ],
)
def test_a_figure_is_the_measured_one(figure: float, measured_: float) -> None:
    assert measured_ <= figure * 1.02
    assert figure <= measured_ * 1.1


def test_ids_are_remembered_for_two_windows() -> None:
    one_window = amounts(Load(1, 1, 1), TALLYD_DEDUPE__WINDOW_S="86400")["Redis, ids"]
    assert one_window == 2 * 86_400 * figures.DEDUPE_EVENT_BYTES


@pytest.mark.parametrize("field", ["events_per_second", "entities", "active", "peak", "outage_h", "years"])
def test_more_of_anything_never_takes_less(field: str) -> None:
    small, large = (Load(**{**dict.fromkeys(("entities", "active"), 1_000), "events_per_second": 10, field: amount})
                    for amount in (1_000, 5_000))  # fmt: skip
    before, after = amounts(small), amounts(large)
    assert all(after[what] >= before[what] for what in before)


def test_an_entity_has_one_document_a_bucket() -> None:
    disk = amounts(Load(100, 10, 10))["MongoDB, disk"] / (figures.DOCUMENT_BYTES + figures.DOCUMENT_INDEX_BYTES)
    # Totals, days, weeks, months and the year; a leap year has 366 days.
    assert disk == pytest.approx(10 * (1 + 366 + 366 / 7 + 366 / 31 + 1))


def test_old_days_that_expire_take_no_disk() -> None:
    load = Load(100, 1_000, 1_000)
    kept = amounts(load, TALLYD_RETENTION__DAILY_DAYS="30", TALLYD_RETENTION__WEEKLY_WEEKS="4")
    assert kept["MongoDB, disk"] < amounts(load)["MongoDB, disk"] / 5


def test_hours_take_disk_for_as_long_as_they_are_kept_and_no_more_than_events() -> None:
    hourly = {"TALLYD_DOMAINS": '{"jav": {"entity_types": ["movie"], "hourly": true}}'}

    def more(load: Load, **env: str) -> float:
        return amounts(load, **hourly, **env)["MongoDB, disk"] - amounts(load, **env)["MongoDB, disk"]

    a_document = figures.DOCUMENT_BYTES + figures.DOCUMENT_INDEX_BYTES
    assert more(Load(100, 10**6, 10**5)) == pytest.approx(8 * 24 * 10**5 * a_document)
    assert more(Load(1, 10**6, 10**5)) == pytest.approx(8 * 86_400 * a_document)
    assert more(Load(1, 10**6, 10**5), TALLYD_RETENTION__HOURLY_DAYS="2") == pytest.approx(2 * 86_400 * a_document)


def test_the_keys_that_are_too_small_are_named() -> None:
    assert not capacity(config(), Load(10, 1_000, 1_000)).settings
    named = capacity(config(), Load(20_000, 1_000_000, 1_000_000)).settings
    assert named["dedupe.events_per_window"] == str(20_000 * 172_800)
    assert {"http.workers", "spool.bytes_max"} <= named.keys()
    many = capacity(config(), Load(100_000, 1_000_000, 1_000_000)).settings
    shards = int(many["redis.shards"].partition(" ")[0])
    assert shards > 1
    assert int(many["dedupe.events_per_window"]) == 100_000 * 172_800, "of all shards together"


def need(what: str, load: Load, **env: str) -> figures.Need:
    [found] = [need for need in capacity(config(**env), load).needs if need.what == what]
    return found


def test_primaries_are_what_takes_the_most_of_them() -> None:
    load = Load(100_000, 10**6, 10**6, batches=True)
    found = need("Redis, primaries", load)
    by = [int(n.replace(",", "")) for n in re.findall(r"([\d,]+) by", found.of)]
    assert len(by) == 3
    assert found.amount == max(by)
    assert need("Redis, primaries", msgspec.structs.replace(load, node_bytes=2.0**30)).amount > found.amount
    assert need("Redis, primaries", msgspec.structs.replace(load, node_mbit_s=1)).amount > found.amount


def test_each_primary_has_its_replicas_and_several_shards() -> None:
    load = Load(100_000, 10**6, 10**6, batches=True)
    primaries = need("Redis, primaries", load, TALLYD_REDIS__REPLICAS="2").amount
    assert primaries > 1
    assert need("Redis, nodes", load, TALLYD_REDIS__REPLICAS="2").amount == 3 * primaries
    assert need("Redis, shards", load, TALLYD_REDIS__REPLICAS="2").amount >= figures.SHARDS_PER_PRIMARY * primaries
    assert need("Redis, shards", Load(1, 1, 1)).amount == 1


def test_a_short_window_takes_less_memory_and_fewer_primaries() -> None:
    load = DAYS[1]
    assert "ids" in capacity(config(), load).first
    short = need("Redis, primaries", load, TALLYD_DEDUPE__WINDOW_S="3600")
    assert short.amount <= need("Redis, primaries", load).amount / 4


def test_a_longer_interval_takes_fewer_cores_for_the_flush() -> None:
    what = "flushers, MongoDB and MySQL"
    often, rarely = (need(what, DAYS[2], TALLYD_FLUSH__INTERVAL_S=seconds) for seconds in ("60", "600"))
    assert rarely.amount < often.amount


def test_what_is_too_small_first_is_told() -> None:
    assert capacity(config(), Load(10, 1_000, 1_000)).first.startswith("nothing")
    assert "one entity" in capacity(config(TALLYD_DEDUPE__WINDOW_S="3600"), DAYS[3]).first


def test_the_journal_holds_its_claims_of_every_shard() -> None:
    found = need("MongoDB, journal", Load(1_000_000, 10**8, 10**8), TALLYD_FLUSH__INTERVAL_S="3600")
    shards = need("Redis, shards", Load(1_000_000, 10**8, 10**8)).amount
    assert found.amount == 100 * shards * 5_000 * figures.CLAIM_ENTITY_BYTES


def test_a_claim_takes_so_many_bytes_of_the_journal() -> None:
    entity = [f"jav:movie:{uuid.uuid4()}", 2, "view:2026-02-19", "12", "like:2026-02-19", "1"]
    assert 0.9 < len(msgspec.msgpack.encode(entity * 1_000)) / 1_000 / figures.CLAIM_ENTITY_BYTES <= 1


def test_a_call_takes_so_many_bytes_an_event() -> None:
    on_the_wire = [event(event_id=secrets.token_hex(18), entity_id=str(uuid.uuid4())) for _ in range(200)]
    noon = dt.datetime.fromisoformat(on_the_wire[0]["occurred_at"]).timestamp()
    decoder = Decoder(build_catalogue(config()), batch_events_max=200, clock=lambda: noon)
    decoded = decoder.batch(msgspec.json.encode(on_the_wire))
    assert isinstance(decoded, Batch)
    call = encode_call([unlimited(decoded.events)], "anl:{0}:counters:")
    assert 0.9 < len(call) / 200 / figures.CALL_EVENT_BYTES <= 1


def test_the_ring_of_a_worker_may_be_too_small() -> None:
    named = capacity(config(TALLYD_REDIS__UNCONFIRMED_BYTES_MAX="65536"), Load(10_000, 1_000, 1_000)).settings
    assert int(named["redis.unconfirmed_bytes_max"]) > 65_536


def test_batches_take_fewer_cores() -> None:
    alone, together = Load(30_000, 1_000, 1_000), Load(30_000, 1_000, 1_000, batches=True)
    assert amounts(together)["ingest workers"] < amounts(alone)["ingest workers"]


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text()))
