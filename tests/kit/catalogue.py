"""A catalogue with a past: movies with names, half a year of days, a week of hours, and ids that strangers chose.

For tests and pictures of the dashboard. The amounts follow from rank and day alone, so two runs on one day are alike.
Events go through the decoder and the flusher, as those of a page do.
"""

from __future__ import annotations

import datetime as dt
import math
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from daemon.devstack.demo import MOVIES
from tests.kit.events import event
from tests.kit.system import System

DAYS = 180
"""Ninety, and the ninety before."""
HOURLY_DAYS = 8
"""`retention.hourly_days` as it is by default: these days come by the hour."""
ROBOT_DAYS = 30
URL = "https://shop.example/movies/{id}"
TABLE = "movies"
CREATE_TABLE = (
    f"CREATE TABLE {TABLE} (id INT PRIMARY KEY AUTO_INCREMENT, uuid VARCHAR(255) NOT NULL UNIQUE,"
    " code VARCHAR(64), INDEX (code), title VARCHAR(255),"
    " views BIGINT UNSIGNED NOT NULL DEFAULT 0, downloads BIGINT UNSIGNED NOT NULL DEFAULT 0)"
    " CHARSET utf8mb4 COLLATE utf8mb4_bin"
)
CONFIG = f"""
[browser]
robots = "apart"

[actions.view]
value_max = 1_000_000
visitor_window_s = 30

[actions.download]
value_max = 1_000_000

[domains.jav]
entity_types = ["movie", "actor", "tag"]
actions = ["view", "download"]
hourly = true
urls = {{ movie = "{URL}" }}

[replica.jav.movie]
table = "{TABLE}"
key = "uuid"
columns = {{ view = "views", download = "downloads" }}
label = "code"
enrich = ["code", "title"]

[dashboard]
enabled = true
"""


class Row(NamedTuple):
    """Of the table. `id` is the entity's."""

    id: str
    code: str
    title: str


HOSTILE = (
    Row("<img src=x onerror=pwned()>", "<b>BOLD</b>", "<script>pwned()</script>"),
    Row("\"><svg/onload=pwned()><a href='javascript:pwned()'>", "&lt;script&gt;", "</title><script>pwned()</script>"),
    Row("x" * 255, "Y" * 64, "A title without a single space " + "o" * 200),
    Row(
        "\u202eevil\u202c \u0645\u0631\u062d\u0628\u0627 \u05e9\u05dc\u05d5\u05dd",
        "\u202eEDOC",
        "\u0641\u064a\u0644\u0645",
    ),
    Row("=1+1", '=HYPERLINK("http://evil.example")', "@SUM(1+1)"),
    Row("../../etc/passwd?a=b&c=d#e%2F", "a/b,c;d", "{{7*7}} ${7*7} %s"),
    Row("\U0001f9a9\u200b\u200b", "\U0001f9a9", "e\u0301\u0301\u0301\u0301 \u200b"),
    Row("a,b", "-2+3", '"quoted", with, commas'),
)
"""What an attacker names things."""
ROWS = (*(Row(*movie) for movie in MOVIES), *HOSTILE)


def views(rank: int, day: dt.date, today: dt.date) -> int:
    """Of the so manyth on this day: popular ones lead, weekends are busy, and there is some growth and some chance."""
    age = (today - day).days
    week = 1 + 0.22 * math.cos(2 * math.pi * (day.weekday() - 5) / 7)
    chance = 0.8 + zlib.crc32(f"{rank}:{day}".encode()) % 401 / 1000
    return int(1 + 900 / (rank + 1) ** 0.8 * week * chance * (1 - 0.5 * age / DAYS))


def downloads(rank: int, day: dt.date, today: dt.date) -> int:
    return views(rank, day, today) * (10 + zlib.crc32(f"{day}".encode()) % 3) // (60 + 5 * rank)


def hours(amount: int, day: dt.date, until: dt.datetime) -> Iterator[tuple[dt.datetime, int]]:
    """The day's amount over its hours, busy in the evening; none that has not begun."""
    shares = [1.1 + math.cos(2 * math.pi * (hour - 20) / 24) for hour in range(24)]
    for hour, share in enumerate(shares):
        at = dt.datetime.combine(day, dt.time(hour), dt.UTC)
        if at <= until and (part := int(amount * share / sum(shares))):
            yield at, part


def _events(now: dt.datetime, rows: Sequence[Row]) -> Iterator[tuple[bool, dict[str, Any]]]:
    """Each with whether a robot sent it."""
    today = now.date()

    def sent(row: Row, action: str, at: dt.datetime, value: int, kind: str = "movie") -> dict[str, Any]:
        return event(
            entity_type=kind, entity_id=row.id, action=action, value=value, occurred_at=f"{at:%Y-%m-%dT%H:%M:%SZ}"
        )

    for rank, row in enumerate(rows):
        for age in range(3 if row in HOSTILE else DAYS):
            day = today - dt.timedelta(age)
            amounts = {"view": views(rank, day, today), "download": downloads(rank, day, today)}
            for action, amount in amounts.items():
                noon = dt.datetime.combine(day, dt.time(12), dt.UTC)
                parts = hours(amount, day, now) if age < HOURLY_DAYS else [(noon, amount)]
                for at, part in parts:
                    if part:
                        yield False, sent(row, action, at, part)
                        if age < ROBOT_DAYS and action == "view" and part > 4:
                            yield True, sent(row, action, at, part // 4)
    for name in ("porridge", "lighthouse", "glacier"):
        for at, part in hours(60 + len(name), today, now):
            yield False, sent(Row(name, "", ""), "view", at, part, "tag")


def prepare(system: System, rows: Sequence[Row] = ROWS) -> None:
    """Writes the configuration and makes the table, with these rows."""
    file = system.scratch / "catalogue.toml"
    file.write_text(CONFIG)
    system.env["TALLYD_CONFIG"] = str(file)
    system.sql(CREATE_TABLE)
    if rows:
        lines = ", ".join(["(%s, %s, %s)"] * len(rows))
        cells = (cell for row in rows for cell in row)
        system.sql(f"INSERT INTO {TABLE} (uuid, code, title) VALUES {lines}", *cells)


def fill(system: System, rows: Sequence[Row] = ROWS) -> None:
    """Counts the past of these, and flushes."""
    sent = list(_events(dt.datetime.now(dt.UTC), rows))
    for robots in (False, True):
        system.count(*(each for by_robot, each in sent if by_robot == robots), robots=robots)
    system.flush()
