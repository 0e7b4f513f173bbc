"""Lines of access logs as servers write them, and as attackers do."""

from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.domain.instant import parse_instant
from daemon.importer.accesslog import Entry, parse, rfc3339
from daemon.importer.outcome import Reason

DATE = "17/May/2015:10:05:03 +0000"
AGENT = "Mozilla/5.0 (X11; Linux x86_64) Gecko/20100101 Firefox/27.0"
PREFIX = f"83.149.9.216 - - [{DATE}]"


def entry(path: str = "/a", method: str = "GET", status: int = 200, agent: str | None = AGENT) -> Entry:
    return Entry(method, path, status, agent, DATE)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (f'{PREFIX} "GET /a HTTP/1.1" 200 203023 "http://x/" "{AGENT}"', entry()),
        (f'{PREFIX} "GET /a HTTP/1.1" 200 203023', entry(agent=None)),
        (f'{PREFIX} "GET /a HTTP/1.1" 304 - "-" "-"', entry(status=304, agent="-")),
        (f'{PREFIX} "GET /a HTTP/1.1" 200 1 "-" ""', entry(agent="")),
        (f'2001:db8::1 - - [{DATE}] "GET /a HTTP/2.0" 200 1 "-" "{AGENT}"', entry()),
        (f'::1 - jane doe [{DATE}] "GET /a HTTP/1.1" 200 1 "-" "{AGENT}"', entry()),
        (f'::1 - o\\"hara [x] [{DATE}] "GET /a HTTP/1.1" 200 1 "-" "{AGENT}"', entry()),
        (f'www.example.com:443 ::1 - - [{DATE}] "GET /a HTTP/1.1" 200 1 "-" "{AGENT}"', entry()),
        (f'{PREFIX} "GET /a HTTP/1.1" 200 1 "-" "{AGENT}" "10.0.0.1, 10.0.0.2" 0.003', entry()),
        (f'{PREFIX} "GET /a HTTP/1.1" 200 1 0.003 upstream', entry(agent=None)),
        (f'{PREFIX} "GET /a?b=/c?d HTTP/1.1" 200 1 "-" "{AGENT}"', entry()),
        (f'{PREFIX} "GET /?a HTTP/1.1" 200 1 "-" "{AGENT}"', entry("/")),
        (f'{PREFIX} "GET /a" 200 1 "-" "{AGENT}"', entry()),
        (f'{PREFIX} "GET http://example.com:80/a?b HTTP/1.1" 200 1 "-" "{AGENT}"', entry()),
        (f'{PREFIX} "GET http://example.com HTTP/1.1" 200 1 "-" "{AGENT}"', entry("/")),
        (f'{PREFIX} "GET http://example.com?b=/c HTTP/1.1" 200 1 "-" "{AGENT}"', entry("/")),
        (f'{PREFIX} "GET //a/../b%20c/%C3%A9 HTTP/1.1" 200 1 "-" "{AGENT}"', entry("//a/../b%20c/%C3%A9")),
        (f'{PREFIX} "GET /a b c HTTP/1.1" 200 1 "-" "{AGENT}"', entry("/a b c")),
        (f'{PREFIX} "GET /a\\"b HTTP/1.1" 200 1 "-" "{AGENT}"', entry('/a\\"b')),
        (f'{PREFIX} "GET /a HTTP/1.1" 200 1 "-" "say \\"hi\\""', entry(agent='say \\"hi\\"')),
        (f'{PREFIX} "GET /a HTTP/1.1" 200 1 "-" "a\\\\"', entry(agent="a\\\\")),
        (f'{PREFIX} "OPTIONS * HTTP/1.1" 200 1 "-" "{AGENT}"', entry("*", method="OPTIONS")),
        (f'{PREFIX} "M-SEARCH /a HTTP/1.1" 200 1 "-" "{AGENT}"', entry(method="M-SEARCH")),
        (f'{PREFIX} "-" 408 0 "-" "{AGENT}"', entry("", method="", status=408)),
        (f'{PREFIX} "" 400 0 "-" "-"', entry("", method="", status=400, agent="-")),
    ],
)
def test_a_request_is_understood(line: str, expected: Entry) -> None:
    assert parse(line.encode()) == expected


def test_an_agent_that_was_cut_off_is_read_as_far_as_it_goes() -> None:
    cut = parse(f'{PREFIX} "GET /a HTTP/1.1" 200 1 "-" "Mozilla/5.0 (compa'.encode())
    assert cut == entry(agent="Mozilla/5.0 (compa")


def test_bytes_that_are_no_text_are_written_as_the_servers_write_them_and_stay_different() -> None:
    paths = [
        parsed.path
        for raw in (b"/caf\xe9", b"/caf\xe8", "/café".encode())
        if isinstance(parsed := parse(PREFIX.encode() + b' "GET ' + raw + b' HTTP/1.1" 200 1 "-" "-"'), Entry)
    ]
    assert paths == ["/caf\\xe9", "/caf\\xe8", "/café"]


@pytest.mark.parametrize(
    "request_line",
    [r"\x16\x03\x01\x02\x00\x01", "\x16\x03\x01", "GET", "GET ", "/a HTTP/1.1", "{json}", "SSH-2.0-Go"],
)
def test_what_is_no_http_request_is_told_from_a_malformed_line(request_line: str) -> None:
    assert parse(f'{PREFIX} "{request_line}" 400 226 "-" "-"'.encode()) is Reason.BAD_REQUEST


@pytest.mark.parametrize(
    "line",
    [
        "",
        "what is this?",
        f'{PREFIX} "GET /a HTTP/1.1" 200',
        f'{PREFIX} "GET /a HTTP/1.1" 20 1',
        f'{PREFIX} "GET /a HTTP/1.1" 200 1x',
        f"{PREFIX} GET /a HTTP/1.1 200 1",
        f'{PREFIX} "GET /a',
        '::1 - - [17/Mai/2015:10:05:03 +0000] "GET /a HTTP/1.1" 200 1',
        '::1 - - [2015-05-17T10:05:03Z] "GET /a HTTP/1.1" 200 1',
    ],
)
def test_other_lines_are_malformed(line: str) -> None:
    assert parse(line.encode()) is Reason.MALFORMED


def test_an_escaped_quote_in_the_user_name_forges_nothing() -> None:
    line = f'::1 - x [{DATE}] \\"GET /forged HTTP/1.1\\" 200 1 [{DATE}] "GET /a HTTP/1.1" 401 1 "-" "{AGENT}"'
    assert parse(line.encode()) == entry(status=401)


@pytest.mark.parametrize(
    ("date", "day"),
    [
        ("17/May/2015:10:05:03 +0000", dt.date(2015, 5, 17)),
        ("31/Dec/2015:23:30:00 -0100", dt.date(2016, 1, 1)),
        ("01/Mar/2016:00:30:00 +0530", dt.date(2016, 2, 29)),
    ],
)
def test_the_day_is_that_of_utc(date: str, day: dt.date) -> None:
    instant = parse_instant(rfc3339(date))
    assert instant is not None
    assert instant.date() == day


def test_a_day_that_does_not_exist_is_left_to_the_catalogue() -> None:
    assert parse_instant(rfc3339("31/Feb/2015:10:05:03 +0000")) is None


@given(st.binary())
def test_no_bytes_raise(line: bytes) -> None:
    parse(line)


@given(st.text(alphabet=' "\\[]-/:0123456789ABGETHPaMy+.?', max_size=80))
def test_nothing_that_looks_like_a_line_raises(text: str) -> None:
    parse(text.encode())
    parse(f'{PREFIX} "{text}" 200 1 "{text}" "{text}"'.encode())
