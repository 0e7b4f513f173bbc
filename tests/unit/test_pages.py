"""The pages say of the code what is true: names, paths, links, figures, and how long a page may be."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import pytest

from bench import results
from daemon.buffer.keys import Keys
from daemon.cli import COMMANDS
from daemon.config import Config
from daemon.config.schema import keys_of, section_of
from daemon.rollups.collections import FIELDS, ROLLUPS

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    path
    for pattern in ("*.md", ".github/*.md", "bench/*.md", "daemon/**/*.md", "loadtest/*.md", "lua/*.md", "ops/**/*.md")
    for path in ROOT.glob(pattern)
)
LINES_MAX = {"README.md": 200, "daemon/DESIGN.md": 150}
FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)
CODE = re.compile(r"`([^`\n]+)`")
SOURCE = re.compile(r"[\w./-]+\.(?:py|lua|md|service|socket)")
PLACE = re.compile(r"(?:bench|daemon|loadtest|lua|ops|tests|\.github)/[\w./-]*")
PLACES = (ROOT, ROOT / "daemon", ROOT / "lua", ROOT / "ops/systemd")
CHANGELOG = ROOT / "ops/CHANGELOG.md"
"""Speaks of what was, too."""

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def prose(page: Path) -> str:
    return FENCED.sub("", page.read_text())


def anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings."""
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in HEADING.findall(prose(page))}


def named(pattern: str, *, but: Path = CHANGELOG) -> Iterator[tuple[str, str]]:
    """(page, name) for each match of the pattern's group, code blocks included."""
    for page in PAGES:
        for name in re.findall(pattern, page.read_text()) if page != but else ():
            yield str(page.relative_to(ROOT)), name


@pytest.mark.parametrize(("page", "lines_max"), LINES_MAX.items())
def test_a_page_that_everyone_reads_is_short(page: str, lines_max: int) -> None:
    assert len((ROOT / page).read_text().splitlines()) <= lines_max


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(prose(page)):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@each_page
def test_files_that_are_named_exist(page: Path) -> None:
    """A name may begin at the page's folder, or at one of PLACES."""
    for name in CODE.findall(prose(page)) if page != CHANGELOG else ():
        if SOURCE.fullmatch(name) or PLACE.fullmatch(name):
            assert any((place / name).exists() for place in (page.parent, *PLACES)), name


def test_every_redis_key_is_in_the_design() -> None:
    every = Keys("anl")
    keys = {key.replace("{0}", "{s}") for key in dataclasses.asdict(every.shard(0)).values()}
    keys |= {every.layout, every.imports, every.used, every.salt_prefix}
    design = (ROOT / "daemon/DESIGN.md").read_text()
    assert {key for key in keys if f"`{key}`" not in design and f"`{key}:" not in design} == set()


def test_every_collection_and_field_is_in_the_design() -> None:
    design = (ROOT / "daemon/DESIGN.md").read_text()
    rows = {cells[1]: line for line in design.splitlines() if len(cells := line.split("|")) == 5}
    described = {name: row for cell, row in rows.items() for name in re.findall(r"`(analytics_\w+)`", cell)}
    assert described.keys() == FIELDS.keys()
    described |= dict.fromkeys(ROLLUPS, " ".join(described[name] for name in ROLLUPS))
    lacking = {
        (collection, field)
        for collection, fields in FIELDS.items()
        for field in fields.keys() - {"_id"}
        if not re.search(rf"`{field}[`.]", described[collection])
    }
    assert lacking == set()


def test_every_module_with_steps_is_in_the_design() -> None:
    modules = {
        str(path.relative_to(ROOT / "daemon"))
        for path in (ROOT / "daemon").rglob("*.py")
        if re.search(r"^STEPS\b", path.read_text(), re.MULTILINE)
    }
    sentence = (ROOT / "daemon/DESIGN.md").read_text().partition("`STEPS`")[2].partition("\n\n")[0]
    assert {name for name in CODE.findall(sentence) if name.endswith(".py")} == modules


def test_recipes_commands_and_keys_that_are_named_exist() -> None:
    recipes = set(re.findall(r"^([a-z][a-z-]*)(?: \*ARGS)?:", (ROOT / "Justfile").read_text(), re.MULTILINE))
    commands = set(COMMANDS)
    keys = {
        f"{table.name}.{key}"
        for table in keys_of(Config).values()
        if (section := section_of(table.kind))
        for key in keys_of(section)
    }
    sections = "|".join({key.partition(".")[0] for key in keys})
    wrong = [found for found in named(r"`(?:\./justw|just) ([a-z][a-z-]*)") if found[1] not in recipes]
    wrong += [found for found in named(r"[`/]tallyd ([a-z][a-z-]*)") if found[1] not in commands]
    wrong += [found for found in named(rf"`((?:{sections})\.(?!lua|py|json)[a-z_]+)`") if found[1] not in keys]
    assert not wrong


def test_every_limit_of_the_security_page_has_its_default() -> None:
    table = (ROOT / "ops/SECURITY.md").read_text().partition("<!-- limits -->")[2].partition("<!-- /limits -->")[0]
    lines = re.findall(r"^\| `(\w+)\.(\w+)` \| ([\d,]+) \|", table, re.MULTILINE)
    assert len(lines) == table.count("\n| `") > 20
    said = {(section, key): int(default.replace(",", "")) for section, key, default in lines}
    assert said == {(section, key): getattr(getattr(Config(), section), key) for section, key in said}


def test_the_readme_installs_as_the_page_does_that_is_tried_on_a_bare_machine() -> None:
    section = (ROOT / "README.md").read_text().partition("## Install and run")[2].partition("\n## ")[0]
    lines = re.findall(r"^    (.+)$", section, re.MULTILINE)
    page = (ROOT / "ops/install.md").read_text()
    counts = re.findall(r"^counts='(.+?) --table", page, re.MULTILINE)[0]
    assert len(lines) == 10
    assert [line for line in lines if line.replace(counts, "$counts") not in page.splitlines()] == []


def test_the_age_of_a_total_follows_from_the_defaults() -> None:
    flush, read = Config().flush, Config().read
    age_s = flush.interval_s + (flush.poll_ms + read.cache_ttl_ms) / 1000
    assert f"With the defaults that is {age_s:g} s" in (ROOT / "README.md").read_text()


def test_the_speeds_in_the_readme_are_those_that_were_measured() -> None:
    """To 5 %: a benchmark that is run again changes its page at once, and the README when it matters."""
    table = (ROOT / "README.md").read_text().partition("## Speed")[2].partition("\n## ")[0]
    lines = [line.split("|")[2:5] for line in table.splitlines() if line.startswith("| ")][1:]
    for group, cells in zip(("single", "batch", "flush", "replica", "memory"), lines, strict=True):
        found = results.read(group)
        assert found is not None
        row = next(row for row in found.rows if row.name == group)
        said = [float(re.findall(r"[\d,]*\.?\d+", cell.rpartition(":")[2])[0].replace(",", "")) for cell in cells]
        assert said == pytest.approx([row.value, median(row.peer), row.ratio], rel=0.05), group
