"""What reads answer, byte for byte, and that its description leaves nothing out."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
from typing import Any

import msgspec
import pytest

from daemon.config import Config, load
from daemon.domain.entity import Entity
from daemon.metrics import ReadTally
from daemon.read import openapi
from daemon.read.api import PREFIXES
from daemon.read.endpoint import PREFIX, Endpoint
from daemon.read.endpoints.domains import Domain, Domains, EntityType
from daemon.read.endpoints.entities import Entities, Named
from daemon.read.endpoints.series import EntitySeries, ManySeries, Series, SeriesBefore
from daemon.read.endpoints.summary import Before, Summary
from daemon.read.endpoints.top import Top
from daemon.read.endpoints.totals import EntityTotal, Total, Totals
from daemon.read.parameters import Parameters
from daemon.read.response import NO_STORE, found, not_modified
from daemon.read.routes import ENDPOINTS, Routes
from daemon.read.stores import Stores
from daemon.read.top import Ranked
from daemon.response import Body

NOW = "2026-02-19T10:00:00.000Z"
DAY = dt.date(2026, 2, 19)
STORES = {"TALLYD_MONGO__URL": "mongodb://nowhere/tallyd", "TALLYD_REDIS__URL": "redis://nowhere"}
CONFIG = load(environ=STORES)
BODIES = [
    (
        Total("jav", "movie", "m", False, {"download": 0, "view": 3}),
        b'{"domain":"jav","entity_type":"movie","entity_id":"m","fresh":false,"counters":{"download":0,"view":3},',
    ),
    (
        Totals("jav", "movie", "total", [EntityTotal("m", {"view": 3})]),
        (b'{"domain":"jav","entity_type":"movie","window":"total",'
        b'"totals":[{"entity_id":"m","counters":{"view":3}}],'),
    ),
    (
        Totals("jav", "movie", "7d", [EntityTotal("m", {"view": 3}, {"view": 2})]),
        (b'{"domain":"jav","entity_type":"movie","window":"7d",'
        b'"totals":[{"entity_id":"m","counters":{"view":3},"previous":{"view":2}}],'),
    ),
    (
        Top(domain="jav", entity_type="movie", counter="view", window="7d", rows=[Ranked("m", 3)]),
        (b'{"domain":"jav","entity_type":"movie","counter":"view","window":"7d",'
        b'"rows":[{"entity_id":"m","amount":3}],'),
    ),
    (
        Top(
            domain="jav", entity_type="movie", counter="view", window="7d", enriched=True,
            rows=[Ranked("m", 3, previous=4, row={"code": "x"}), Ranked("n", 1, row=None)],
        ),
        (b'{"domain":"jav","entity_type":"movie","counter":"view","window":"7d","enriched":true,'
        b'"rows":[{"entity_id":"m","amount":3,"previous":4,"row":{"code":"x"}},'
        b'{"entity_id":"n","amount":1,"row":null}],'),
    ),
    (
        Series("jav", "movie", "m", "daily", DAY, DAY, msgspec.Raw(b'[{"date":"2026-02-19","view":3}]')),
        (b'{"domain":"jav","entity_type":"movie","entity_id":"m","bucket":"daily","from":"2026-02-19",'
        b'"to":"2026-02-19","points":[{"date":"2026-02-19","view":3}],'),
    ),
    (
        Series(
            "jav", "movie", "m", "daily", DAY, DAY, msgspec.Raw(b"[]"),
            SeriesBefore(DAY - dt.timedelta(1), DAY - dt.timedelta(1), msgspec.Raw(b"[]")),
        ),
        (b'{"domain":"jav","entity_type":"movie","entity_id":"m","bucket":"daily","from":"2026-02-19",'
        b'"to":"2026-02-19","points":[],"previous":{"from":"2026-02-18","to":"2026-02-18","points":[]},'),
    ),
    (
        ManySeries(
            "jav", "movie", "daily", DAY, DAY, ["2026-02-19"], [EntitySeries("m", msgspec.Raw(b'{"view":[3]}'))]
        ),
        (b'{"domain":"jav","entity_type":"movie","bucket":"daily","from":"2026-02-19","to":"2026-02-19",'
        b'"labels":["2026-02-19"],"series":[{"entity_id":"m","counters":{"view":[3]}}],'),
    ),
    (
        Summary(
            domain="jav", days=1, labels=["2026-02-19"], counters={"view": [3]}, sums={"view": 3}, top_window="day",
            top={"movie": {"view": [Ranked("m", 3)]}},
        ),
        (b'{"domain":"jav","days":1,"labels":["2026-02-19"],"counters":{"view":[3]},"sums":{"view":3},'
        b'"top_window":"day","top":{"movie":{"view":[{"entity_id":"m","amount":3}]}},'),
    ),
    (
        Summary(
            domain="jav", entity_type="movie", days=1, labels=["2026-02-19"], counters={"view": [3]}, sums={"view": 3},
            previous=Before(["2026-02-18"], {"view": [2]}, {"view": 2}), top_window="day",
        ),
        (b'{"domain":"jav","entity_type":"movie","days":1,"labels":["2026-02-19"],"counters":{"view":[3]},'
        b'"sums":{"view":3},"previous":{"labels":["2026-02-18"],"counters":{"view":[2]},"sums":{"view":2}},'
        b'"top_window":"day",'),
    ),
    (
        Entities("jav", "movie", "A-1", [Named("a", {"code": "A-1"})]),
        (b'{"domain":"jav","entity_type":"movie","label":"A-1",'
        b'"entities":[{"entity_id":"a","row":{"code":"A-1"}}],'),
    ),
    (
        Domains(
            [Domain("jav", True, ["view"], ["view"], [EntityType("movie", True, ["code"], "https://shop.example/{id}")])],
            ["total"], 500, 100,
        ),
        (b'{"domains":[{"name":"jav","hourly":true,"counters":["view"],"actions":["view"],"types":[{"name":"movie","label":true,'
        b'"enrich":["code"],"url":"https://shop.example/{id}"}]}],"windows":["total"],"ids_max":500,'
        b'"series_ids_max":100,'),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("body", "sent"), BODIES, ids=lambda each: type(each).__name__)
def test_the_fields_of_an_answer_are_sent_in_this_order(body: Body, sent: bytes) -> None:
    assert found(body, NOW, NO_STORE).body == sent + b'"as_of":"2026-02-19T10:00:00.000Z"}'


def test_the_tag_stays_while_the_counts_do() -> None:
    first, later, other = (
        found(Total("jav", "movie", "m", False, {"view": amount}), as_of, NO_STORE)
        for amount, as_of in ((3, NOW), (3, "2026-02-20T10:00:00.000Z"), (4, NOW))
    )
    assert first.etag == later.etag != other.etag
    assert not_modified(first).headers == [NO_STORE, ("etag", first.etag)]


def endpoints(config: Config = CONFIG) -> dict[str, Endpoint]:
    async def build() -> dict[str, Endpoint]:
        stores = Stores(config, ReadTally())
        try:
            return Routes(config, stores, lambda: dt.datetime(2026, 2, 19, 10, tzinfo=dt.UTC)).endpoints
        finally:
            await stores.close()

    return asyncio.run(build())


def test_every_text_about_a_parameter_is_about_one_that_is_taken() -> None:
    for endpoint in endpoints().values():
        parameters = Parameters("")
        endpoint.ask(Entity("jav", "movie", "m"), parameters)
        assert set(endpoint.about) <= set(parameters.described)


def test_every_read_is_described_with_the_type_of_its_answer() -> None:
    document: dict[str, Any] = json.loads(openapi.document(CONFIG, endpoints()))
    for path, endpoint in ENDPOINTS.items():
        assert (PREFIX + path).startswith(PREFIXES)
        answer = document["paths"][PREFIX + path]["get"]["responses"]["200"]["content"]["application/json"]
        assert answer["schema"]["$ref"] == f"#/components/schemas/{endpoint.answer.__name__}"
        schema = document["components"]["schemas"][endpoint.answer.__name__]
        assert list(schema["properties"])[-1] == schema["required"][-1] == "as_of"


def test_a_daemon_without_domains_is_described_too() -> None:
    config = load(environ={**STORES, "TALLYD_DOMAINS": "{}"})
    json.loads(openapi.document(config, endpoints(config)))


def test_the_description_says_how_old_totals_may_be() -> None:
    said = endpoints()["totals/{domain}/{type}/{id}"].description
    assert f"{CONFIG.flush.interval_s:g} s (`flush.interval_s`)" in said
    assert f"{CONFIG.read.cache_ttl_ms} ms (`read.cache_ttl_ms`)" in said
    assert "`fresh=1`" in said
