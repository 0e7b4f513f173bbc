"""The dashboard as one sees it, reads it aloud or drives it by keyboard. Its pictures are kept in .web/pictures."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.kit.catalogue import ROWS
from tests.kit.commands import ROOT
from tests.kit.system import Ingest
from tests.web.dashboard import SCREENS, THEMES, Look, faults_of

PICTURES = ROOT / ".web" / "pictures"
PAGES = {
    "overview": "",
    "entity": f"entity?type=movie&id={ROWS[0].id}",
    "health": "health",
}
FITTED = """() => [...document.querySelectorAll(".chart")].every((chart) => {
    const canvas = chart.querySelector("canvas");
    return !chart.clientWidth || (canvas && Math.abs(canvas.clientWidth - chart.clientWidth) < 2);
})"""
"""Every chart has the width of its place."""
TOO_WIDE = """() => {
    const scrolls = (node) =>
        node && (/auto|scroll|hidden|clip/.test(getComputedStyle(node).overflowX) || scrolls(node.parentElement));
    const wide = [...document.querySelectorAll("body *")].filter((each) => {
        const box = each.getBoundingClientRect();
        return box.width && box.right > innerWidth + 1 && !scrolls(each.parentElement);
    });
    return [document.documentElement.scrollWidth <= innerWidth, wide.map((each) => each.outerHTML.slice(0, 120))];
}"""
"""Whether the page is no wider than the window, and what reaches out of it where nothing scrolls."""
FITS = [True, []]


@pytest.mark.parametrize("name", PAGES)
def test_a_page_fits_every_screen_in_light_and_in_dark(name: str, seen: Ingest, look: Callable[..., Look]) -> None:
    PICTURES.mkdir(parents=True, exist_ok=True)
    shown = look(seen.url, PAGES[name])
    for size, screen in SCREENS.items():
        shown.page.set_viewport_size({"width": screen.width, "height": screen.height})
        for theme in THEMES:
            shown.page.emulate_media(color_scheme=theme)
            shown.page.wait_for_function(FITTED)
            shown.page.screenshot(path=PICTURES / f"{name}-{size}-{theme}.png", full_page=True)
            assert shown.page.evaluate(TOO_WIDE) == FITS, (size, theme)
            if size in ("phone", "desk"):
                assert faults_of(shown.page) == [], (size, theme)


@pytest.mark.parametrize("name", PAGES)
def test_a_page_fits_text_of_twice_the_size(name: str, seen: Ingest, look: Callable[..., Look]) -> None:
    shown = look(seen.url, PAGES[name], screen="tablet")
    shown.page.evaluate("document.documentElement.style.fontSize = '200%'")
    shown.page.screenshot(path=PICTURES / f"{name}-large-text.png", full_page=True)
    assert shown.page.evaluate(TOO_WIDE) == FITS


@pytest.mark.parametrize("name", PAGES)
def test_a_page_can_be_read_in_forced_colours(name: str, seen: Ingest, look: Callable[..., Look]) -> None:
    shown = look(seen.url, PAGES[name], forced_colors="active")
    shown.page.screenshot(path=PICTURES / f"{name}-forced-colours.png", full_page=True)
    assert faults_of(shown.page) == []
