"""The built site in a headless Chromium, as its readers meet it: every page, every look.

Takes the site from GENREC_SITE, or from _build/html, where `make book` puts it. With
GENREC_REQUIRE_BROWSER set, what is missing fails instead of being skipped.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import axe_playwright_python.base as axe_api
import playwright.sync_api as playwright_api
import pytest
from serving import DESKTOP, FLAGS, PHONE, chromium, pages, served, site_folder

REQUIRED = bool(os.environ.get("GENREC_REQUIRE_BROWSER"))
BUILT = (site_folder() / "index.html").exists()
if not BUILT and (REQUIRED or os.environ.get("GENREC_SITE")):
    raise RuntimeError(f"no built site in {site_folder()}: build it, or unset GENREC_SITE")
if chromium() is None and REQUIRED:
    raise RuntimeError("no Chromium found, and GENREC_REQUIRE_BROWSER is set: install chromium")

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(chromium() is None, reason="no Chromium found on this machine"),
    pytest.mark.skipif(not BUILT, reason=f"no built site in {site_folder()}"),
]

MISSING_IMAGES = "images => images.filter(i => !i.naturalWidth).map(i => i.src)"
PRESS = "buttons => buttons.forEach(b => b.click())"
UNFOLD = "all => all.forEach(d => { d.open = true; })"
ANIMATED = "graphs => graphs.filter(g => g._transitionData?._frames?.length).length"
# What lies beyond the edge, scrolling regions aside: a browser may scroll the page to show it.
STICKING_OUT = """(all, width) => all
  .filter(e => e.getBoundingClientRect().right > width + 1 && e.getBoundingClientRect().width)
  .filter(e => !e.closest("pre, mjx-container, .pst-scrollable-table-container, .text_html"))
  .map(e => e.outerHTML.slice(0, 90))"""
TOO_WIDE = "graphs => graphs.map(g => g._fullLayout.width).filter(w => w > innerWidth)"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        yield started
        started.close()


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with served(site_folder()) as url:
        yield url


class Visit:
    """A page in a browser of its own, with all that it asked for and complained of."""

    def __init__(self, browser: Any, address: str, **settings: Any) -> None:
        self.address = address
        self.requests: list[str] = []
        self.complaints: list[str] = []
        # Colours that still fade would be measured half-way.
        settings = {"viewport": DESKTOP, "reduced_motion": "reduce", **settings}
        self.context = browser.new_context(**settings)
        self.page = self.context.new_page()
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", self._note)

    def _note(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(f"{message.type}: {message.text} {message.location['url']}")

    def open(self, name: str) -> Any:
        self.page.goto(f"{self.address}/{name}.html", wait_until="load")
        # Formulas and figures draw themselves after the page is there.
        self.page.wait_for_function(
            "() => [...document.querySelectorAll('.plotly-graph-div')].every(g => g._fullLayout)"
        )
        self.page.evaluate("() => window.MathJax?.startup?.promise?.then(() => null)")
        self.page.wait_for_timeout(250)
        return self.page

    def foreign(self) -> list[str]:
        local = (self.address, "data:", "blob:")
        return [url for url in self.requests if not url.startswith(local)]


@pytest.fixture
def visit(browser: Any, address: str) -> Iterator[Any]:
    visits: list[Visit] = []

    def start(**settings: Any) -> Visit:
        visits.append(Visit(browser, address, **settings))
        return visits[-1]

    yield start
    for one in visits:
        one.context.close()


def _serious(page: Any, options: dict[str, Any]) -> list[str]:
    """What axe-core finds serious or critical on the page as it is now."""
    if not page.evaluate("() => 'axe' in window"):
        page.evaluate(axe_api.AXE_SCRIPT)
    # Without preload: axe would fetch imported style sheets from the wrong folder.
    options = {"preload": False, **options}
    found = page.evaluate("(options) => axe.run(document, options)", options)
    return [
        f"{violation['id']}: {node['target']} {node['failureSummary']}"
        for violation in found["violations"]
        if violation["impact"] in ("serious", "critical")
        for node in violation["nodes"]
    ]


@pytest.mark.parametrize("name", pages())
def test_a_page_is_whole_self_contained_and_accessible_in_every_look(visit, name):
    one = visit()
    page = one.open(name)
    assert len(page.locator("article.bd-article").inner_text().split()) > 20
    assert page.locator("article img").evaluate_all(MISSING_IMAGES) == []
    # Folded code and folded answers belong to the page.
    page.locator("details").evaluate_all(UNFOLD)
    assert page.locator("body *:visible").evaluate_all(STICKING_OUT, DESKTOP["width"]) == []
    page.locator(".admonition.toggle-hidden .toggle-button").evaluate_all(PRESS)
    assert page.locator(".admonition.toggle-hidden").count() == 0
    page.wait_for_timeout(200)
    assert _serious(page, {"resultTypes": ["violations"]}) == []
    page.evaluate("document.documentElement.dataset.theme = 'dark'")
    page.wait_for_timeout(200)
    assert _serious(page, {"runOnly": ["color-contrast"]}) == []
    page.set_viewport_size(PHONE)
    page.wait_for_timeout(400)
    assert page.evaluate("document.scrollingElement.scrollWidth") <= PHONE["width"]
    assert page.locator(".plotly-graph-div").evaluate_all(TOO_WIDE) == []
    assert _serious(page, {"runOnly": ["scrollable-region-focusable", "target-size"]}) == []
    assert one.foreign() == []
    assert one.complaints == []


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_site_follows_the_theme_of_the_reader_s_machine(visit, theme):
    page = visit(color_scheme=theme).open(pages()[0])
    assert page.evaluate("document.documentElement.dataset.theme") == theme


def _pages_with(text: str) -> list[str]:
    folder = site_folder()
    built = [name for name in pages() if (folder / f"{name}.html").exists()]
    return [n for n in built if text in (folder / f"{n}.html").read_text(encoding="utf-8")]


def test_plotly_is_loaded_where_a_figure_is_and_nowhere_else():
    with_script = _pages_with("js/plotly.min.js")
    assert with_script == _pages_with("plotly-graph-div")
    assert with_script, "no page of the book has a figure"


def test_every_slider_moves_the_drawn_data_and_can_be_worked_by_keyboard(visit):
    moved = 0
    for name in _pages_with('"sliders":['):
        page = visit().open(name)
        sliders = page.locator(".figure-control input").count()
        assert sliders == page.locator(".plotly-graph-div").evaluate_all(ANIMATED)
        for i in range(sliders):
            slider = page.locator(".figure-control input").nth(i)
            drawn = (
                "input => JSON.stringify(input.closest('.genrec-figure')"
                ".querySelector('.plotly-graph-div').data.map(t => [t.x, t.y, t.z]))"
            )
            said = slider.get_attribute("aria-valuetext")
            before = slider.evaluate(drawn)
            slider.focus()
            page.keyboard.press("ArrowRight")
            page.wait_for_timeout(100)
            assert slider.get_attribute("aria-valuetext") != said
            assert slider.evaluate(drawn) != before
            slider.scroll_into_view_if_needed()
            box = slider.bounding_box()
            page.mouse.click(box["x"] + box["width"] - 4, box["y"] + box["height"] / 2)
            assert slider.input_value() == slider.get_attribute("max")
            moved += 1
    assert moved, "no page of the book has a slider"


def test_figures_take_the_ink_of_the_theme_and_fit_a_narrower_page(visit):
    with_figures = _pages_with("plotly-graph-div")
    page = visit(color_scheme="light").open(with_figures[0])
    ink = "() => document.querySelector('.plotly-graph-div')._fullLayout.font.color"
    light = page.evaluate(ink)
    page.evaluate("document.documentElement.dataset.theme = 'dark'")
    page.wait_for_timeout(200)
    dark = page.evaluate(ink)
    assert light != dark
    assert _contrast(page, dark) >= 4.5
    page.evaluate("document.documentElement.dataset.theme = 'light'")
    page.wait_for_timeout(200)
    assert page.evaluate(ink) == light
    assert _contrast(page, light) >= 4.5
    page.evaluate("document.querySelector('article').style.width = '320px'")
    page.wait_for_timeout(300)
    width = "() => document.querySelector('.plotly-graph-div')._fullLayout.width"
    assert page.evaluate(width) <= 320


def _contrast(page: Any, colour: str) -> float:
    """Contrast of a colour with the page's background."""
    return page.evaluate(
        """colour => {
          const probe = document.createElement("canvas").getContext("2d");
          const light = (c) => {
            probe.fillStyle = c; probe.fillRect(0, 0, 1, 1);
            const [r, g, b] = [...probe.getImageData(0, 0, 1, 1).data].slice(0, 3).map((v) => {
              v /= 255; return v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4; });
            return .2126 * r + .7152 * g + .0722 * b;
          };
          const pair = [light(colour), light(getComputedStyle(document.body).backgroundColor)];
          pair.sort((a, b) => b - a);
          return (pair[0] + .05) / (pair[1] + .05);
        }""",
        colour,
    )


def test_search_finds_negatives(visit):
    one = visit()
    page = one.open("search")
    field = page.locator("form.bd-search input[name=q]:visible").first
    field.fill("negatives")
    field.press("Enter")
    page.wait_for_selector("#search-results ul.search li a", timeout=10_000)
    links = page.locator("#search-results ul.search li a").evaluate_all("a => a.map(l => l.href)")
    assert any("book/glossary.html" in link for link in links)
    assert any("chapters/" in link for link in links)
    assert one.foreign() == []
