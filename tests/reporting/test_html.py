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
from egptlib.reporting._cells import notebook_html, to_mathml
from egptlib.reporting._html import write_report
from egptlib.reporting._runs import collect
from egptlib.reporting._stars import overview
from egptlib.reporting._tables import align, in_words, show_table

from .conftest import _cell


def _png() -> str:
    buffer = io.BytesIO()
    Image.new("RGB", (40, 20), "red").save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def _output(**data: Any) -> nbformat.NotebookNode:
    kinds = {name.replace("svg_xml", "svg+xml").replace("__", "/"): content for name, content in data.items()}
    return nbformat.v4.new_output("display_data", data=kinds)


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
        _cell("code", 'out = "secret folder"', ("injected-parameters",)),
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
        self.handlers: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name.startswith("on"):
                self.handlers.append(name)
            elif name == "id":
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
    for path in index.parent.glob("*.html"):
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


def test_a_page_whose_times_are_disturbed_says_so(root: Path) -> None:
    _write_run(root / "02_busy", "2026-01-01T00:00:00", gamma=2)
    counted = {"cpu_seconds": 11.5, "wall_seconds": 20.25, "load_average": 5.0, "others": 0.41}
    write_json(root / "02_busy/machine.json", counted | {"times_disturbed": True})
    write_json(root / "01_toy-streets-aaaa/machine.json", counted | {"times_disturbed": False})
    folder = write_report(root).parent
    busy, calm = ((folder / f"{name}.html").read_text() for name in ("02_busy", "01_toy-streets-aaaa"))
    assert "Times on this page are disturbed." in busy and "took 41% of" in busy
    assert "disturbed" not in calm and "<th>CPU seconds</th><td>11.5 in 20.25 s</td>" in calm
    index = (folder / "index.html").read_text()
    assert "<th>revision</th>" in index and "CPU seconds" not in index  # which are of one run


def test_only_the_newest_of_equal_runs_has_a_page(root: Path) -> None:
    write_report(root)
    _write_run(root / "01_toy-streets-0000", "2026-01-03T00:00:00")  # the same parameters, another library
    _write_run(root / "01_toy-streets-cccc", "2026-01-01T00:00:00", gamma=5)
    write_report(root)
    pages = {path.name for path in (root / "report").glob("*.html")}
    assert pages == {"index.html", "glossary.html", "01_toy-streets-0000.html", "01_toy-streets-cccc.html"}


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
        {"the_token": ["car", "-", "."], "mean_step_ms": [0.5, np.nan, 1e-7], "note": ["x" * 30, None, ""]}
    )
    output = _output(text__html=frame.to_html(index=False, border=0, na_rep="–"))
    body, _ = notebook_html(nbformat.v4.new_notebook(cells=[_cell("code", "table", outputs=[output])]))
    cells = re.findall(r"<(t[dh])( class=\"[a-z ]+\")?(?: style=\"[^\"]*\")?>([^<]*)", body)
    columns = [cells[i::3] for i in range(3)]
    assert [{kind for _, kind, _ in column} for column in columns] == [
        {' class="text short"'}, {""}, {' class="text"'}
    ]  # fmt: skip
    assert [text for _, _, text in columns[0]] == ["the token", "car", "-", "."]
    assert columns[1][0][2] == "mean step (ms)"


def test_names_of_earlier_pages_become_words_and_words_stay() -> None:
    table = '<table class="dataframe"><tr><th class="text">cos_<wbr>sim_<wbr>mean</th><th>wall ms</th></tr></table>'
    assert align(align(table)) == table.replace("cos_<wbr>sim_<wbr>mean", "cosine mean").replace("wall ms", "wall (ms)")
    named = {"tokens_per_pass": "tokens per pass", "consecutive_mean_90": "consecutive mean at 0.90", "ms": "ms"}
    assert {name: in_words(name) for name in named} == named and in_words("layer_12") == "layer 12"


def test_a_shown_table_has_no_missing_value_of_pandas_and_whole_numbers_are_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shown: list[Any] = []
    monkeypatch.setattr("IPython.display.display", shown.append)
    frame = pd.DataFrame({"num_rows": [220.0, np.nan, -0.0], "gamma": pd.array([5, None, 8]), 3: [0.5, 1.0, 2.0]})
    show_table(frame)
    cells = re.findall(r"<t[dh]\b[^>]*>([^<]*)<", shown[0].data)
    assert cells == ["rows", "gamma", "3", "220", "5", "0.5", "–", "–", "1.0", "0", "8", "2.0"]
    assert frame["num_rows"][0] == 220.0 and list(frame.columns) == ["num_rows", "gamma", 3]


def test_tables_that_are_not_plain_stay_as_they_are() -> None:
    rows = '<tr><th colspan="2">both</th></tr><tr><td>1</td><td>2</td></tr>'
    wide = f'<table class="dataframe"><tbody>{rows}</tbody></table>'
    body, _ = notebook_html(nbformat.v4.new_notebook(cells=[_cell("code", "t", outputs=[_output(text__html=wide)])]))
    assert wide in body


FOREIGN = """before
<script>var harmless = 1</script>
<img src="https://example.org/remote.png" alt="a remote picture" onload="var harmless = 1">
<a href="javascript:void(0)">a link</a> <a href="https://example.org/">the web</a>
<iframe src="https://example.org/"></iframe><style>p { color: red }</style><b>after</b>"""


def _foreign(text: str = FOREIGN) -> nbformat.NotebookNode:
    cells = [
        _cell("markdown", f"# Somebody's\n\n{text}"),
        _cell("code", "x", outputs=[_output(text__html=f"<div>{text}"), _output(image__svg_xml="<svg/>")]),
        _cell("code", "y", outputs=[_output(text__markdown=text), _output(image__png=f'x"><script>{text}')]),
        _cell("markdown", "## The $x^2$ end"),
    ]
    return nbformat.v4.new_notebook(cells=cells)


def _is_static(text: str) -> bool:
    """An independent look: no tag, attribute or address of the page runs or loads anything."""
    page = _Page(text)
    return (
        not {"script", "iframe", "object", "embed", "form", "link", "svg", "base"} & set(page.tags)
        and not page.handlers
        and all(address.startswith("data:image/") for address in page.loads)
        and all(link.startswith(("#", "http", "mailto:", "index.html")) for link in page.links)
    )


def test_somebody_elses_notebook_runs_and_loads_nothing_and_a_line_says_what_went() -> None:
    body, headings = notebook_html(_foreign())
    assert _is_static(body) and not _is_static(FOREIGN)
    assert body.count("<b>after</b>") >= 3 and body.count("before") >= 3 and "harmless" not in body
    notes = re.findall(r'<p class="left-out">(.*?)</p>', body)
    assert len(notes) == 3
    for what in ("a script", "https://example.org/remote.png", "a page within the page", "a style sheet"):
        assert all(what in note for note in notes)
    assert [heading.level for heading in headings] == [1, 2] and "<msup>" in body


def test_an_output_with_a_script_from_elsewhere_keeps_the_rest() -> None:
    output = _output(text__html='<div id="p"></div><script src="https://cdn.example.org/plot.js"></script><p>rest</p>')
    body, _ = notebook_html(nbformat.v4.new_notebook(cells=[_cell("code", "plot", outputs=[output])]))
    assert "cdn.example.org" not in body and "<p>rest</p>" in body and "Left out here" in body and "a script" in body
    whole, _ = notebook_html(
        nbformat.v4.new_notebook(cells=[_cell("code", "plot", outputs=[_output(text__html="hi")])])
    )
    assert "Left out" not in whole


def test_a_picture_from_outside_the_run_is_not_embedded(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "outside.png")
    (tmp_path / "run" / "link.png").symlink_to(tmp_path / "outside.png")
    Image.new("RGB", (4, 4)).save(tmp_path / "run" / "in side.png")
    text = "![a](../outside.png) ![b](link.png) ![c](in%20side.png) <img src='../outside.png'>"
    body, _ = notebook_html(nbformat.v4.new_notebook(cells=[_cell("markdown", text)]), tmp_path / "run")
    assert len(re.findall('src="', body)) == 1 and 'alt="c"' in body


def test_an_attachment_whose_name_has_a_space_is_shown() -> None:
    cell = _cell("markdown", "![seen](attachment:my%20picture.png) ![gone](attachment:no%20such.png)")
    cell.attachments = {"my picture.png": {"image/png": _png()}}
    body, _ = notebook_html(nbformat.v4.new_notebook(cells=[cell]))
    assert re.findall('src="([^"]*)"', body) == [f"data:image/png;base64,{_png()}"]
    assert body.index('alt="seen"') < body.index("gone")


def test_every_page_forbids_what_it_does_not_need(root: Path) -> None:
    for path in write_report(root).parent.glob("*.html"):
        head = path.read_text(encoding="utf-8").partition("</head>")[0]
        (policy,) = re.findall(r'<meta http-equiv="Content-Security-Policy" content="([^"]*)">', head)
        rules = dict(rule.split(maxsplit=1) for rule in policy.split("; "))
        assert rules["default-src"] == "&#39;none&#39;" and rules["img-src"] == "data:" and "script-src" not in rules
        assert head.index("Content-Security-Policy") < head.index("<style>")


def test_a_run_that_cannot_be_shown_is_named_and_the_others_have_pages(root: Path) -> None:
    for name in ("notebook", "settings", "status", "deep", "kind"):
        _write_run(root / f"02_{name}", "2026-01-01T00:00:00", gamma=name)
    whole = (root / "02_notebook/out.ipynb").read_bytes()
    (root / "02_notebook/out.ipynb").write_bytes(whole[: len(whole) // 2])
    (root / "02_settings/params.json").write_text('{"a": ')
    (root / "02_status/status.json").write_text("")
    (root / "02_deep/metrics.json").write_text("[" * 100_000)
    (root / "02_kind/status.json").write_text('{"notebook": [1], "state": "done"}')
    told: list[str] = []
    index = write_report(root, tell=told.append)
    assert {path.stem for path in index.parent.glob("*.html")} == {"index", "glossary", "01_toy-streets-aaaa"}
    text = index.read_text(encoding="utf-8")
    for name, file in (("notebook", "out.ipynb"), ("settings", "params.json"), ("status", "status.json"),
                       ("deep", "metrics.json"), ("kind", "notebook: expected text")):  # fmt: skip
        assert f"02_{name}" in text and any(f"02_{name}: left out" in line and file in line for line in told)
    assert len(told) == 5 and "damaged         02_deep" in overview(root)
    with pytest.warns(UserWarning, match="is left out"):
        assert list(collect(root)["run"]) == ["01_toy-streets-aaaa", "02_notebook"]


def test_a_runs_name_cannot_be_an_address(root: Path) -> None:
    for name in ("javascript:void(0)", "index", "glossary", 'a" onload="x'):
        _write_run(root / name, "2026-01-01T00:00:00", gamma=name)
    index = write_report(root)
    page = _Page(index.read_text(encoding="utf-8"))
    assert len(list(index.parent.glob("*.html"))) == 7
    assert all(link.startswith("#") or re.fullmatch(r"[A-Za-z0-9_.-]+\.html", link) for link in page.links)


def test_a_failed_page_stops_after_the_cell_that_failed(tmp_path: Path) -> None:
    error = nbformat.v4.new_output("error", ename="ValueError", evalue="too few", traceback=["too few"])
    cells = [
        _cell("markdown", "# The title"),
        _cell("code", "first", outputs=[_output(text__plain="one")]),
        _cell("code", "second", outputs=[error]),
        _cell("markdown", "## What never ran"),
        _cell("code", "third"),
    ]
    for state, there in (("failed", False), ("done", True)):
        folder = tmp_path / state
        write_json(folder / "params.json", {"dataset": "streets", "state": state})
        write_json(folder / "status.json", {"state": state, "notebook": "01_toy", "seconds": 1.0, "started": "2026"})
        nbformat.write(nbformat.v4.new_notebook(cells=cells), folder / "out.ipynb")
        page = write_report(tmp_path).with_name(f"{state}.html").read_text(encoding="utf-8")
        assert "too few" in page and ("What never ran" in page) == there


def test_pictures_enlarge_and_links_to_files_are_text() -> None:
    source = "[a page](../docs/report/01.html), [the web](https://example.org/), [below](#here)"
    source += "\n\n**Alone:** [a file](x.html)\n\n## [Sub](y.md)"
    cells = [_cell("markdown", source), _cell("code", "x", outputs=[_output(image__png=_png())])]
    body, headings = notebook_html(nbformat.v4.new_notebook(cells=cells))
    assert re.findall(r'href="([^"]*)"', body) == ["https://example.org/", "#here"] and "<p>a page, <a" in body
    assert "Alone" not in body and "\x02" not in body and headings[0].text == "Sub"
    assert re.search(r'<label class="figure"><input type="checkbox" aria-label="show larger"><img [^>]*></label>', body)
