"""The demo table: twelve invented movies in MariaDB, so that a first event has a row.

Called by `tallyd dev` and by the drills. The table has the shape and the collation of Laravel's migrations. It is made
once, and rows are only added. Its counts are changed only by tallyd and by the drills.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, NamedTuple
from urllib.parse import urlsplit
from uuid import NAMESPACE_URL, uuid5

import asyncmy
import msgspec

CONNECT_TIMEOUT_S = 5.0


class Movie(msgspec.Struct, frozen=True):
    """One row of the demo table. Events name its `uuid` as `entity_id`."""

    uuid: str
    code: str
    title: str


class Counts(NamedTuple):
    views: int
    downloads: int


def _movie(number: int, title: str) -> Movie:
    code = f"DEMO-{number:03d}"
    return Movie(uuid=str(uuid5(NAMESPACE_URL, f"https://example.com/movies/{code}")), code=code, title=title)


MOVIES = (
    _movie(1, "The Lighthouse Keeper's Umbrella"),
    _movie(2, "Nine Kites over Harbour Street"),
    _movie(3, "A Short History of Porridge"),
    _movie(4, "The Cartographer's Cat"),
    _movie(5, "Slow Train to Lemon Valley"),
    _movie(6, "Postcards from a Quiet Planet"),
    _movie(7, "The Clockmaker Counts to Twelve"),
    _movie(8, "Rain on a Tin Piano"),
    _movie(9, "My Neighbour the Glacier"),
    _movie(10, "The Beekeeper's Alphabet"),
    _movie(11, "Two Bicycles and a Bridge"),
    _movie(12, "The Library at Low Tide"),
)

CREATE_TABLE = """
CREATE TABLE IF NOT EXISTS jav (
    id BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
    uuid CHAR(36) NOT NULL,
    code VARCHAR(32) NOT NULL,
    title VARCHAR(255) NOT NULL,
    views BIGINT UNSIGNED NOT NULL DEFAULT 0,
    downloads BIGINT UNSIGNED NOT NULL DEFAULT 0,
    updated_at TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP,
    UNIQUE KEY jav_uuid_unique (uuid),
    UNIQUE KEY jav_code_unique (code)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_unicode_ci
"""


async def create(mysql_url: str) -> int:
    """Makes the table and adds the missing movies. Returns how many it added. Raises asyncmy's errors."""
    async with _cursor(mysql_url) as cursor:
        await cursor.execute("SET sql_notes = 0")  # or the driver logs that the table exists
        await cursor.execute(CREATE_TABLE)
        await cursor.execute("SELECT uuid FROM jav")
        present = {row[0] for row in await cursor.fetchall()}
        added = [(movie.uuid, movie.code, movie.title) for movie in MOVIES if movie.uuid not in present]
        if added:
            await cursor.executemany("INSERT INTO jav (uuid, code, title) VALUES (%s, %s, %s)", added)
        return len(added)


async def count_directly(mysql_url: str, counts: Mapping[str, Counts]) -> None:
    """Counts as an application without tallyd does on every page load. Raises asyncmy's errors."""
    async with _cursor(mysql_url) as cursor:
        for uuid, (views, downloads) in counts.items():
            await cursor.execute(
                "UPDATE jav SET views = views + %s, downloads = downloads + %s WHERE uuid = %s",
                (views, downloads, uuid),
            )


async def counts(mysql_url: str) -> dict[str, Counts]:
    """The columns of each row, by uuid. Raises asyncmy's errors."""
    async with _cursor(mysql_url) as cursor:
        await cursor.execute("SELECT uuid, views, downloads FROM jav")
        return {uuid: Counts(views, downloads) for uuid, views, downloads in await cursor.fetchall()}


@asynccontextmanager
async def _cursor(mysql_url: str) -> AsyncIterator[Any]:
    address = urlsplit(mysql_url)
    connection = await asyncmy.connect(
        host=address.hostname,
        port=address.port,
        user=address.username,
        password=address.password or "",
        db=address.path.removeprefix("/"),
        connect_timeout=CONNECT_TIMEOUT_S,
        autocommit=True,
    )
    try:
        async with connection.cursor() as cursor:
            yield cursor
    finally:
        await connection.ensure_closed()
