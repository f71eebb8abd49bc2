"""Pages of a real run, opened from disk in a real browser: on a wide, a dark and a narrow screen, and on paper."""

import io
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from egptlib.reporting._html import write_report

from .conftest import Watch, keep_screenshot

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from egptlib.reporting._runner import Outcome

pytestmark = pytest.mark.slow

VIEWS: dict[str, dict[str, Any]] = {
    "light": {"viewport": {"width": 1280, "height": 900}, "color_scheme": "light"},
    "dark": {"viewport": {"width": 1280, "height": 900}, "color_scheme": "dark"},
    "narrow": {"viewport": {"width": 390, "height": 844}, "color_scheme": "light", "device_scale_factor": 2},
    "print": {"viewport": {"width": 760, "height": 1000}, "color_scheme": "dark"},  # a dark screen prints on white
}


@pytest.fixture(scope="module")
def report(smoke_outcomes: "list[Outcome]") -> Path:
    """The report of all notebooks on a few scenes: index, and pages with formulas, tables and figures."""
    return write_report(smoke_outcomes[0].folder.parent)


@pytest.mark.parametrize("view", VIEWS)
def test_every_page_is_whole_and_asks_for_nothing(chromium: "Browser", report: Path, view: str) -> None:
    context = chromium.new_context(**VIEWS[view], offline=True)
    for path in sorted(report.parent.glob("*.html")):
        page = context.new_page()
        watch = Watch(page, "file://")
        if view == "print":
            page.emulate_media(media="print")
        page.goto(path.as_uri(), wait_until="load")
        assert not watch.errors and not watch.requests
        assert page.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
        assert page.evaluate("document.images.length") >= (path.name != "glossary.html")
        text = page.inner_text("body")
        assert not re.search(r"interactive\(children|%\||VBox\(|<NA>|\bnan\b|\bcolors?\b", text)
        heads = page.locator(".dataframe th").all_inner_texts()
        assert [head for head in heads if "_" in head] == []
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), "wider than the screen"
        wide = page.locator(".output_area").evaluate_all("all => all.filter(a => a.scrollWidth > a.clientWidth).length")
        assert view in ("narrow", "print") or not wide
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert background == ("rgb(20, 23, 28)" if view == "dark" else "rgb(255, 255, 255)")
        if path.name not in ("index.html", "glossary.html"):
            page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
            assert page.locator(".facts th", has_text="revision").count() == 1
            assert page.locator("nav a").count() >= 3
        keep_screenshot(page, f"{path.stem[:2]}-{view}", full_page=True)
        page.close()
    context.close()


@pytest.mark.parametrize("view", ["light", "narrow"])
def test_a_figure_enlarges_and_a_table_scrolls_in_its_place(chromium: "Browser", report: Path, view: str) -> None:
    page = chromium.new_context(**VIEWS[view]).new_page()
    page.goto(next(path for path in report.parent.glob("04*.html")).as_uri())
    image = page.locator(".figure img").first
    before = image.bounding_box()
    image.click()
    after = image.bounding_box()
    assert before and after and after["width"] > 1.2 * before["width"]
    image.click()
    again = image.bounding_box()
    assert again and again["width"] == before["width"]
    wide = page.evaluate(
        "[...document.querySelectorAll('.output_area')].filter(a => a.scrollWidth > a.clientWidth).length"
    )
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth") and (wide or view == "light")
    page.context.close()


def test_formulas_are_drawn_and_code_has_a_switch(chromium: "Browser", report: Path) -> None:
    page = chromium.new_page()
    page.goto(next(path for path in report.parent.glob("04*.html")).as_uri())
    assert not page.locator(".code").first.is_visible()
    page.locator("header label").click()
    assert page.locator(".code").first.is_visible()
    page.set_content("<p>before</p>" + _formula())
    box = page.locator("math").bounding_box()
    assert box is not None and box["width"] > 20 and box["height"] > 20  # two lines high: a fraction is one
    assert "\\frac" not in page.inner_text("body")
    page.close()


def test_a_script_does_not_run_even_where_one_got_in(chromium: "Browser", report: Path, tmp_path: Path) -> None:
    """The policy in the head holds without the cleaning: the page is as it was, the script does nothing."""
    text = next(path for path in report.parent.glob("04*.html")).read_text(encoding="utf-8")
    for name, page_text, ran in (("page", text, None), ("bare", "<p>no policy</p>", 1)):
        path = tmp_path / f"{name}.html"
        path.write_text(page_text + "<script>window.ran = 1</script>", encoding="utf-8")
        page = chromium.new_page()
        page.goto(path.as_uri())
        assert page.evaluate("window.ran") == ran
        page.close()


def test_it_prints(chromium: "Browser", report: Path) -> None:
    from pypdf import PdfReader

    page = chromium.new_page()
    page.goto(report.as_uri())
    printed = PdfReader(io.BytesIO(page.pdf(format="A4")))
    assert "Across runs" in "".join(one.extract_text() for one in printed.pages)
    page.close()


def test_pictures_have_two_pixels_a_point(chromium: "Browser", report: Path) -> None:
    page = chromium.new_page(viewport={"width": 1280, "height": 900})
    page.goto(next(path for path in report.parent.glob("04*.html")).as_uri())
    ratios = page.evaluate("[...document.images].map(i => i.naturalWidth / i.clientWidth)")
    assert ratios and min(ratios) > 1.8
    assert Image.open(io.BytesIO(page.screenshot())).width == 1280
    page.close()


def _formula() -> str:
    from egptlib.reporting._cells import to_mathml

    return to_mathml(r"\frac{\tau}{\gamma c + v(\gamma)}", "block")
