"""What the dashboard says is what the reads, `tallyd top` and MongoDB say."""

from __future__ import annotations

import csv
import datetime as dt
import io
import json
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, quote, urlencode

from playwright.sync_api import Locator, Page

from tests.kit.catalogue import HOSTILE, ROWS
from tests.kit.oracle import BUCKETS
from tests.kit.system import Ingest, event
from tests.web.browser import until
from tests.web.conftest import Stores
from tests.web.dashboard import PATIENCE_S, PERSON, Look

READS = "/api/v1/analytics/"
POLL_MS = 500
WINDOWS = {"Today": 1, "7 days": 7, "14 days": 14, "30 days": 30, "90 days": 90}
MOVIE = ROWS[2]
OF_MOVIE = {"entity_id": MOVIE.id}
FIGURES = """() => {
    const parts = (cell) => [...cell.children].map((part) => part.textContent);
    const rows = [...document.querySelectorAll("table.figures tbody tr")];
    return Object.fromEntries(rows.map((row) => [row.cells[0].textContent, [...row.cells].slice(1).map(parts)]));
}"""
LISTS = """() => {
    const text = (row, what) => row.querySelector(what).textContent;
    const rows = (list) => [...list.querySelectorAll("tbody tr")].filter((row) => row.querySelector("a"));
    return [...document.querySelectorAll("section.top")].map((list) =>
        [text(list, "h2"), rows(list).map((row) => [row.querySelector("a").href, text(row, "a"), text(row, ".n")])]);
}"""
CELLS = """(table) => [...table.rows].map((row) => [...row.cells].map((cell) => cell.textContent))"""


def agree(shown: Look, page: Callable[[], object], expected: Callable[[], object]) -> None:
    """The page says so before long: it asks again by itself, also when an hour or a day ended."""
    for _ in range(int(PATIENCE_S * 1000 / POLL_MS)):
        if page() == expected():
            return
        shown.page.wait_for_timeout(POLL_MS)
    assert page() == expected()


def number(text: str) -> int:
    """-1 while there is none yet."""
    return int(text.replace(",", "").strip() or -1)


def figures(page: Page) -> dict[str, dict[str, list[str]]]:
    """Counter → window → amount, change, and what stands beside."""
    windows = page.locator("table.figures thead button").all_inner_texts()
    found: dict[str, list[list[str]]] = page.evaluate(FIGURES)
    return {name: dict(zip(windows, cells, strict=True)) for name, cells in found.items()}


def lists(page: Page) -> dict[str, list[tuple[str, str, int]]]:
    """Title → entity id, name, amount of each row."""
    found: list[tuple[str, list[list[str]]]] = page.evaluate(LISTS)
    return {
        title: [(parse_qs(href.partition("?")[2])["id"][0], name, number(amount)) for href, name, amount in rows]
        for title, rows in found
    }


def table_of(section: Locator) -> list[list[str]]:
    """Of the chart in this section, opened."""
    details = section.locator("details")
    if details.get_attribute("open") is None:
        details.locator("summary").click()
    details.locator("table").wait_for()
    rows: list[list[str]] = details.locator("table").evaluate(CELLS)
    return rows


def views_of(page: Page) -> int:
    """On the page of an entity."""
    return number(page.locator("dl.exact > div", has_text="Views").locator("dd").first.inner_text())


def saved_by(page: Page, button: Locator) -> list[list[str]]:
    with page.expect_download() as download:
        button.click()
    text = download.value.path().read_text(encoding="utf-8-sig")
    return list(csv.reader(io.StringIO(text)))


def stored(system: Stores, kind: str, field: str, since: str, counter: str) -> int:
    """Of all entities, in MongoDB."""
    found = system.mongo[f"analytics_entity_{kind}"].aggregate(
        [{"$match": {field: {"$gte": since}}}, {"$group": {"_id": None, "sum": {"$sum": f"${counter}"}}}]
    )
    return sum(line["sum"] for line in found)


def now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


def day(ago: int) -> str:
    return f"{now() - dt.timedelta(ago):%Y-%m-%d}"


# The overview -----------------------------------------------------------------------------------------------------


def test_each_figure_is_the_sum_of_its_documents(catalogued: Stores, seen: Ingest, look: Callable[..., Look]) -> None:
    shown = look(seen.url)

    def amounts() -> dict[str, dict[str, int]]:
        return {
            name: {window: number(cell[0]) for window, cell in cells.items()}
            for name, cells in figures(shown.page).items()
        }

    def documents() -> dict[str, dict[str, int]]:
        hour = f"{now() - dt.timedelta(hours=23):%Y-%m-%dT%H}"
        return {
            name: {
                **{window: stored(catalogued, "daily", "date", day(n - 1), counter) for window, n in WINDOWS.items()},
                "24 hours": stored(catalogued, "hourly", "hour", hour, counter),
            }
            for name, counter in (("Views", "view"), ("Downloads", "download"))
        }

    agree(shown, amounts, documents)


def test_robots_and_raw_counts_stand_beside_the_filtered_ones(
    catalogued: Stores, seen: Ingest, look: Callable[..., Look]
) -> None:
    shown = look(seen.url)

    def documents() -> str:
        robots, raw = (stored(catalogued, "daily", "date", day(6), f"view_{name}") for name in ("robot", "raw"))
        return f"{robots:,} robots\n{raw:,} raw"

    agree(shown, lambda: figures(shown.page)["Views"]["7 days"][2], documents)


def test_a_list_is_what_tallyd_top_says_with_the_names_of_mysql(
    catalogued: Stores, seen: Ingest, look: Callable[..., Look]
) -> None:
    shown = look(seen.url, "?window=7d")
    names = {row.id: row.title for row in ROWS}
    said = {"view": "Most viewed movie, in 7 days", "download": "Most downloaded movie, in 7 days"}

    def ranked() -> dict[str, list[tuple[str, str, int]]]:
        found = {}
        for counter, title in said.items():
            options = ("--type", "movie", "--counter", counter, "--window", "7d", "--json")
            rows: list[dict[str, Any]] = json.loads(catalogued.tallyd_here("top", *options)[1])
            found[title] = [(row["entity_id"], names[row["entity_id"]], row[counter]) for row in rows]
        return found

    agree(shown, lambda: {title: rows for title, rows in lists(shown.page).items() if title in said.values()}, ranked)


def test_a_curve_has_a_table_and_a_file_of_the_same_numbers(seen: Ingest, look: Callable[..., Look]) -> None:
    shown = look(seen.url, "?window=14d")
    curve = shown.page.locator("section.curve", has_text="Views")

    def read() -> list[tuple[str, int, int]]:
        body = seen.client.get(READS + "summary/jav", params={"days": 14, "compare": 1, "top": 0}).json()
        return list(zip(body["labels"], body["counters"]["view"], body["previous"]["counters"]["view"], strict=True))

    def table() -> list[tuple[str, int, int]]:
        return [(row[0], number(row[1]), number(row[2])) for row in table_of(curve)[1:]]

    agree(shown, table, read)
    file = saved_by(shown.page, curve.get_by_role("button", name="CSV"))
    assert file == [[cell.replace(",", "") for cell in row] for row in table_of(curve)]


def test_a_strangers_id_is_no_formula_in_a_file(seen: Ingest, look: Callable[..., Look]) -> None:
    shown = look(seen.url, "?window=today")
    list_ = shown.page.locator("section.top", has_text="Most viewed movie")
    ids = [id_ for id_, _, _ in lists(shown.page)["Most viewed movie, today"]]
    file = saved_by(shown.page, list_.get_by_role("button", name="CSV"))
    assert [row[0] for row in file[1:]] == [f"'{id_}" if id_[0] in "=+-@" else id_ for id_ in ids]
    assert not [cell for row in file for cell in row if cell[:1] in tuple("=+-@")]


# An entity --------------------------------------------------------------------------------------------------------


def test_the_history_of_an_entity_is_its_documents(catalogued: Stores, seen: Ingest, look: Callable[..., Look]) -> None:
    shown = look(seen.url)
    curve = shown.page.locator("section.curve", has_text="Views")

    def table() -> dict[str, int]:
        return {row[0].replace(" ", "T"): number(row[1]) for row in table_of(curve)[1:]}

    for kind, field in (("hourly", "hour"), *((name, field) for name, field, _ in BUCKETS[1:])):
        shown.go(f"entity?type=movie&id={MOVIE.id}&bucket={kind}")
        documents = {each[field]: each["view"] for each in catalogued.mongo[f"analytics_entity_{kind}"].find(OF_MOVIE)}
        found = table()
        assert found == {bucket: documents.get(bucket, 0) for bucket in found}
        assert max(documents) in found


def test_an_entity_found_by_its_code_shows_its_counts_at_once(
    catalogued: Stores, seen: Ingest, look: Callable[..., Look]
) -> None:
    shown = look(seen.url)
    shown.page.keyboard.press("/")
    shown.page.keyboard.type(MOVIE.code)
    shown.page.keyboard.press("Enter")
    until(shown.page, lambda: MOVIE.title in shown.page.inner_text("h1"), "its title", PATIENCE_S)
    totals = catalogued.rollup("totals")[f"jav:movie:{MOVIE.id}"]
    shown_counts = shown.page.locator("dl.exact > div").all_inner_texts()
    assert [text.split("\n")[:2] for text in shown_counts] == [
        ["Views", f"{totals['view']:,}"],
        ["Downloads", f"{totals['download']:,}"],
    ]
    assert shown.page.get_by_role("link", name="Open in the application").get_attribute("href") == (
        f"https://shop.example/movies/{MOVIE.id}"
    )


def test_a_strangers_id_is_text_and_is_found(seen: Ingest, look: Callable[..., Look]) -> None:
    """`look` sees to it that nothing of it is done."""
    shown = look(seen.url)
    for row in HOSTILE:
        shown.go("found?" + urlencode({"what": row.id}))
        until(shown.page, lambda: "#/entity" in shown.page.url, f"the page of {row.id}", PATIENCE_S)
        shown.page.wait_for_selector("h1 .soft")  # its code is there, so its row was read
        tags = shown.page.locator("h1 *").evaluate_all("(all) => all.map((each) => each.tagName)")
        assert tags == ["BDI", "SPAN", "BDI"]
        out = shown.page.get_by_role("link", name="Open in the application").get_attribute("href")
        assert out == "https://shop.example/movies/" + quote(row.id, safe="!'()*-._~")
        until(shown.page, lambda: views_of(shown.page) > 0, "its counts", PATIENCE_S)


def test_an_event_arrives_in_an_open_page(seen: Ingest, look: Callable[..., Look]) -> None:
    shown = look(seen.url, f"entity?type=movie&id={ROWS[5].id}")
    until(shown.page, lambda: views_of(shown.page) >= 0, "its counts", PATIENCE_S)
    before = views_of(shown.page)
    seen.post(event(entity_id=ROWS[5].id, occurred_at=None), headers=PERSON).raise_for_status()
    until(shown.page, lambda: views_of(shown.page) == before + 1, "one view more", PATIENCE_S)
