"""The demo table: twelve invented movies in MariaDB, so that a first event has a row.

Called by `tallyd dev` and by the drills. The table has the shape and the collation of Laravel's migrations. It is made
once, and rows are only added. Its counts are changed only by tallyd and by the drills.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple
from uuid import NAMESPACE_URL, uuid5

from daemon.devstack.servers import mysql_cursor

TIMEOUT_S = 60.0


class Movie(NamedTuple):
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


async def create(mysql_url: str) -> None:
    """Makes the table and adds the missing movies. Raises asyncmy's errors."""
    async with mysql_cursor(mysql_url, TIMEOUT_S) as cursor:
        await cursor.execute("SET sql_notes = 0")  # or the driver logs that the table exists
        await cursor.execute(CREATE_TABLE)
        await cursor.execute("SELECT uuid FROM jav")
        present = {row[0] for row in await cursor.fetchall()}
        added = [movie for movie in MOVIES if movie.uuid not in present]
        if added:
            await cursor.executemany("INSERT INTO jav (uuid, code, title) VALUES (%s, %s, %s)", added)


async def count_directly(mysql_url: str, counts: Mapping[str, Counts]) -> None:
    """Counts as an application without tallyd does on every page load. Raises asyncmy's errors."""
    async with mysql_cursor(mysql_url, TIMEOUT_S) as cursor:
        for uuid, (views, downloads) in counts.items():
            await cursor.execute(
                "UPDATE jav SET views = views + %s, downloads = downloads + %s WHERE uuid = %s",
                (views, downloads, uuid),
            )


async def counts(mysql_url: str) -> dict[str, Counts]:
    """The columns of each row, by uuid. Raises asyncmy's errors."""
    async with mysql_cursor(mysql_url, TIMEOUT_S) as cursor:
        await cursor.execute("SELECT uuid, views, downloads FROM jav")
        return {uuid: Counts(views, downloads) for uuid, views, downloads in await cursor.fetchall()}
