"""Whatever stands in a line of a file of days, it is a day or named as wrong."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.domain.admission import entity_id_problem
from daemon.domain.entity import Entity
from daemon.domain.rollup import DAILY
from daemon.errors import ConfigError
from daemon.move.backfill.dailyfile import AMOUNT_MAX, Day, Wrong, parse, reader

HEADER = "entity,date,counter,amount"
COUNTERS = {("jav", "movie"): ("view", "download")}
GOOD: dict[str, Any] = {"entity": "jav:movie:a:b", "date": "2026-02-19", "counter": "view", "amount": 3}


def as_json(**fields: Any) -> bytes:
    return json.dumps(GOOD | fields).encode()


def json_day(line: bytes) -> Day | Wrong:
    return parse(7, line, reader("{")[0], COUNTERS)


def test_a_good_line_either_way() -> None:
    day = Day(7, Entity("jav", "movie", "a:b"), "2026-02-19", "view", 3)
    assert json_day(as_json()) == day
    assert parse(7, b"jav:movie:a:b,2026-02-19,view,3\r", reader(HEADER)[0], COUNTERS) == day
    parts, is_line = reader("amount , entity_id,domain,entity_type,date,counter,more")
    assert not is_line
    assert parse(7, b'3,"a:b",jav,movie,2026-02-19,view,x', parts, COUNTERS) == day


def test_an_integer_may_be_an_id() -> None:
    line = json.dumps({"domain": "jav", "entity_type": "movie", "entity_id": 12} | GOOD | {"entity": None})
    assert json_day(line.encode()) == Wrong(7, "entity", "must name an entity, as jav:movie:ID")
    found = json_day(line.replace('"entity": null, ', "").encode())
    assert isinstance(found, Day)
    assert found.entity == Entity("jav", "movie", "12")


@pytest.mark.parametrize("header", ["", "uuid,views", "entity,date,counter", "domain,entity_type,date,counter,amount"])
def test_a_header_that_lacks_a_column_is_refused(header: str) -> None:
    with pytest.raises(ConfigError, match="--daily: the first line"):
        reader(header)


values = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.lists(st.integers(), max_size=2))
lines = st.one_of(
    st.binary(max_size=60),
    st.text(max_size=60).map(lambda text: text.encode()),
    st.text(alphabet="jav:movie,2026-'\"\\\x00\r 19", max_size=60).map(lambda text: text.encode()),
    st.dictionaries(st.sampled_from(list(GOOD)), values).map(lambda fields: as_json(**fields)),
    st.binary(max_size=8).map(lambda raw: b'{"entity": "jav:movie:' + raw + b'", "date": "2026-02-19"}'),
    st.just(b'{"entity": "jav:movie:\\ud800", "date": "2026-02-19", "counter": "view", "amount": 3}'),
)


@given(line=lines, csv=st.booleans())
def test_any_line_is_a_day_or_named_as_wrong(line: bytes, csv: bool) -> None:
    found = parse(7, line, reader(HEADER if csv else "{")[0], COUNTERS)
    assert found.line == 7
    if isinstance(found, Day):
        assert found.entity[:2] in COUNTERS
        assert entity_id_problem(found.entity.id) is None
        assert found.entity.key.encode()
        assert DAILY.parse(found.date) is not None
        assert found.counter in COUNTERS["jav", "movie"]
        assert 0 <= found.amount <= AMOUNT_MAX
