"""Pages are complete, ask for nothing from outside, and leave out what a static page cannot show."""

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from egptlib._paths import write_json
from egptlib.reporting._html import notebook_html, to_mathml, write_report

from .conftest import _cell


def _png() -> str:
    buffer = io.BytesIO()
    Image.new("RGB", (40, 20), "red").save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def _output(**data: Any) -> nbformat.NotebookNode:
    return nbformat.v4.new_output("display_data", data={name.replace("__", "/"): v for name, v in data.items()})


def _notebook() -> nbformat.NotebookNode:
    widget = nbformat.v4.new_output(
        "display_data",
        data={"application/vnd.jupyter.widget-view+json": {"model_id": "x"}, "text/plain": "interactive(children="},
    )
    script = nbformat.v4.new_output(
        "display_data", data={"application/javascript": "alert(1)", "text/plain": "scripted"}
    )
    cells = [
        _cell("markdown", "# The title\n\nInline $\\alpha^2$, and\n\n$$\\frac{a}{b}$$\n\n![picture](picture.png)"),
        _cell("markdown", "## Same\n\n## Same\n\n### Über $\\gamma$ & *more*"),
        _cell("code", "answer = 42", outputs=[_output(image__png=_png()), widget, script]),
        _cell(
            "code",
            "hidden_input = 1",
            ("hide-input",),
            outputs=[_output(text__html="<p>seven</p>")],
        ),
        _cell("code", "slider = 1", ("interactive",), outputs=[_output(text__plain="a slider")]),
        _cell("code", "secret = 1", ("remove-cell",)),
        _cell("code", "Math(...)", outputs=[_output(text__latex="$\\displaystyle \\gamma^2$")]),
    ]
    return nbformat.v4.new_notebook(cells=cells, metadata={"widgets": {"application/x": {"state": {}}}})


class _Page(HTMLParser):
    """Collects what a page would load, its ids, its links and its tags."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            elif tag == "a" and name == "href":
                self.links.append(value or "")
            elif name in ("src", "href", "srcset", "data", "action", "poster"):
                self.loads.append(value or "")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "runs"
    _write_run(root / "01_toy-streets-aaaa", "2026-01-01T00:00:00")
    return root


def _write_run(folder: Path, started: str, state: str = "done", **parameters: Any) -> None:
    write_json(folder / "params.json", {"dataset": "streets", "split": "test", **parameters})
    write_json(folder / "metrics.json", {"mean_acceptance_length": 1.23456, "curve": [1, 2]})
    write_json(folder / "environment.json", {"torch": "2.13.0", "revision": "abc<b>"})
    error = {"cell": 3, "name": "KeyError", "value": "'<x>'"}
    status = {"state": state, "notebook": "01_toy", "started": started, "seconds": 2.0}
    write_json(folder / "status.json", status | ({"error": error} if state == "failed" else {}))
    Image.new("RGB", (40, 20), "red").save(folder / "picture.png")
    nbformat.write(_notebook(), folder / "out.ipynb")


def test_cells_become_static_html(root: Path) -> None:
    folder = root / "01_toy-streets-aaaa"
    body, headings = notebook_html(nbformat.read(folder / "out.ipynb", as_version=4), folder)
    assert "answer" in body and "seven" in body
    for left_out in ("hidden_input", "a slider", "slider", "secret", "interactive(children", "alert(1)"):
        assert left_out not in body
    assert [(h.level, h.text, h.slug) for h in headings[:3]] == [
        (1, "The title", "the-title"), (2, "Same", "same"), (2, "Same", "same-1"),
    ]  # fmt: skip
    assert headings[3].text.startswith("Über") and headings[3].text.endswith("& more")
    assert len(re.findall(r"<math", body)) == 4 and "$" not in re.sub(r"base64,[^\"]*", "", body)
    page = _Page(body)
    assert len(page.loads) == 2 and all(address.startswith("data:image/png;base64,") for address in page.loads)


def test_a_page_loads_nothing_and_its_contents_lead_somewhere(root: Path) -> None:
    index = write_report(root)
    assert index == root / "report" / "index.html"
    for path in index.parent.iterdir():
        text = path.read_text(encoding="utf-8")
        page = _Page(text)
        assert "script" not in page.tags and "link" not in page.tags and "iframe" not in page.tags
        assert all(address.startswith("data:") for address in page.loads)
        assert not re.search(r"@import|url\(", text)
        assert len(set(page.ids)) == len(page.ids)
        for link in page.links:
            assert link.removeprefix("#") in page.ids if link.startswith("#") else (index.parent / link).is_file()


def test_what_runs_say_is_escaped(root: Path) -> None:
    _write_run(root / "01_toy-streets-bbbb", "2026-01-02", "failed", note="<script>alert(2)</script>")
    write_report(root)
    page = (root / "report" / "01_toy-streets-bbbb.html").read_text(encoding="utf-8")
    index = (root / "report" / "index.html").read_text(encoding="utf-8")
    assert "<script" not in page and "&lt;script&gt;alert(2)" in page and "abc&lt;b&gt;" in page
    for text in (page, index):
        assert "01_toy, cell 3: KeyError: &#39;&lt;x&gt;&#39;" in text
    assert "1 failed" in index and "1.235" in index and "The title" in index


def test_only_the_newest_of_equal_runs_has_a_page(root: Path) -> None:
    write_report(root)
    _write_run(root / "01_toy-streets-0000", "2026-01-03T00:00:00")  # the same parameters, another library
    _write_run(root / "01_toy-streets-cccc", "2026-01-01T00:00:00", gamma=5)
    write_report(root)
    pages = {path.name for path in (root / "report").iterdir()}
    assert pages == {"index.html", "01_toy-streets-0000.html", "01_toy-streets-cccc.html"}


def test_a_report_goes_where_it_is_asked_for(root: Path, tmp_path: Path) -> None:
    assert write_report(root, tmp_path / "out").is_file() and not (root / "report").exists()


def test_no_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no finished run"):
        write_report(tmp_path)


def test_a_formula_that_cannot_be_read_stays_as_text() -> None:
    assert to_mathml("x^2").startswith("<math") and "<msup>" in to_mathml("x^2")
    assert to_mathml("a^b^<c>") == "<code>a^b^&lt;c&gt;</code>"


def test_columns_of_text_stand_left_and_of_numbers_right() -> None:
    frame = pd.DataFrame(
        {"the_token": ["car", "-", "."], "rate_of_it": [0.5, np.nan, 1e-7], "note": ["x" * 30, None, ""]}
    )
    output = _output(text__html=frame.to_html(index=False, border=0, na_rep="–"))
    body, _ = notebook_html(nbformat.v4.new_notebook(cells=[_cell("code", "table", outputs=[output])]))
    cells = re.findall(r"<(t[dh])( class=\"[a-z ]+\")?>([^<]*)", body.replace("<wbr>", ""))
    columns = [cells[i::3] for i in range(3)]
    assert [{kind for _, kind, _ in column} for column in columns] == [
        {' class="text short"'}, {""}, {' class="text"'}
    ]  # fmt: skip
    assert [text for _, _, text in columns[0]] == ["the_token", "car", "-", "."]
    assert "the_<wbr>token" in body  # a long name may break there


def test_tables_that_are_not_plain_stay_as_they_are() -> None:
    wide = '<table class="dataframe"><tr><th colspan="2">both</th></tr><tr><td>1</td><td>2</td></tr></table>'
    body, _ = notebook_html(nbformat.v4.new_notebook(cells=[_cell("code", "t", outputs=[_output(text__html=wide)])]))
    assert wide in body
