"""The dashboard as one sees it, reads it aloud or drives it by keyboard. Its pictures are kept in .web/pictures."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.kit.catalogue import ROWS
from tests.kit.commands import ROOT
from tests.kit.system import Ingest
from tests.web.browser import until
from tests.web.dashboard import PATIENCE_S, SCREENS, THEMES, Look, faults_of

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
FOCUSED = """() => {
    const at = document.activeElement;
    if (at === document.body) return "";
    const name = at.getAttribute("aria-label") || at.textContent.trim() || at.tagName;
    return getComputedStyle(at).outlineStyle === "none" ? `${name} (no ring)` : name;
}"""
"""The name of what has the focus; "" of the page itself, behind the last."""


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
    shown.page.context.new_cdp_session(shown.page).send(
        "Page.setFontSizes", {"fontSizes": {"standard": 32, "fixed": 26}}
    )
    shown.go(PAGES[name])
    assert shown.page.evaluate("parseFloat(getComputedStyle(document.body).fontSize)") >= 28
    shown.page.wait_for_function(FITTED)
    assert shown.page.evaluate(TOO_WIDE) == FITS
    shown.page.screenshot(path=PICTURES / f"{name}-large-text.png")  # a full page would have text of the usual size


@pytest.mark.parametrize("name", PAGES)
def test_a_page_can_be_read_in_forced_colours(name: str, seen: Ingest, look: Callable[..., Look]) -> None:
    shown = look(seen.url, PAGES[name], forced_colors="active")
    shown.page.screenshot(path=PICTURES / f"{name}-forced-colours.png", full_page=True)
    assert faults_of(shown.page) == []


def test_everything_can_be_done_with_the_keyboard(seen: Ingest, look: Callable[..., Look]) -> None:
    shown = look(seen.url)
    page, press = shown.page, shown.page.keyboard.press
    page.wait_for_selector("section.top tbody a")
    reached: list[str] = []
    while press("Tab") or (name := page.evaluate(FOCUSED)):
        reached.append(name)
    wanted = [
        "Skip to the numbers",
        "Overview",
        "Health",
        "Find",
        "Type",
        "Today",
        "7 days",
        "Views in",
        "Table",
        "CSV",
    ]
    places = [next((n for n, name in enumerate(reached) if text in name), -1) for text in wanted]
    assert -1 not in places, reached
    assert places == sorted(places), reached
    assert [name for name in reached if name.endswith("(no ring)")] == []

    page.get_by_role("button", name="7 days").focus()
    press("Enter")
    until(page, lambda: "window=7d" in page.url, "the window", PATIENCE_S)
    until(page, lambda: page.evaluate(FOCUSED) == "7 days", "the button keeps the focus", PATIENCE_S)
    shown.settle()
    chart = page.locator(".chart").first
    chart.focus()
    press("Home")
    oldest = page.locator(".readout").first.inner_text()
    press("ArrowRight")
    assert "UTC" in oldest
    assert page.locator(".readout").first.inner_text() != oldest
    page.locator("details.data summary").first.focus()
    press("Enter")
    page.wait_for_selector("details.data table")
