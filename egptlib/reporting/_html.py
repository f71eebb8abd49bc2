"""Reports: one self-contained HTML file per run and an index page; no script, no request, formulas as MathML."""

import base64
import io
import os
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
import nbformat
from markupsafe import Markup

from egptlib.reporting._cells import Heading, notebook_html, until_failure
from egptlib.reporting._export import Export
from egptlib.reporting._runner import describe_error
from egptlib.reporting._runs import newest_runs, read_settings, read_status, readable_runs
from egptlib.reporting._static import POLICY
from egptlib.reporting._summary import in_order, kept_as, page_name, shown, summarize
from egptlib.reporting._sweep import differing
from egptlib.reporting._tables import align, in_words

_TEMPLATES = Path(__file__).parent / "templates"
_CARD_METRICS = 6
_THUMBNAIL_WIDTH = 640  # pixels; a card is about half as wide


def write_report(
    root: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> Path:
    """Write one page for each run below `root`, a glossary and an index page; return the index.

    Of runs of one notebook with equal parameters only the newest gets a page. Pages of an earlier report are removed,
    so that the folder can be sent to somebody as it is; other files there stay (see `Export`). A run that cannot be
    shown is left out, and named on the index page. A page runs nothing and loads nothing, whoever made the run.

    Args:
        root: folder with run folders.
        out: folder for the pages, default ``root/report``.
        tell: called with a line about each run that is left out, and each page that somebody has edited.

    Raises:
        FileNotFoundError: `root` is no folder, or holds no run.
        FileExistsError: `out` holds files under these names that are not an earlier report's.
    """
    root = Path(root)
    out = Path(out) if out is not None else root / "report"
    readable, left_out = readable_runs(root)
    if not readable and not left_out:
        raise FileNotFoundError(f"{root}: holds no finished run; `egptlib run --out {root}` makes them")
    runs, cards = list[Path](), list[dict[str, Any]]()
    newest = in_order(newest_runs(readable))
    with Export(out, ["index.html", "glossary.html", *(page_name(folder) for folder in newest)]) as export:
        for folder in newest:
            try:
                page, card = _page(folder)
            except Exception as error:  # whatever somebody's files hold: it ends this page, not the others
                kind = "" if isinstance(error, ValueError | OSError) else f"{type(error).__name__}: "
                left_out[folder.name] = f"{kind}{error}"
                continue
            export.write(card["page"], page)
            runs.append(folder)
            cards.append(card)
        export.write("glossary.html", _glossary())
        export.write("index.html", _index(runs, cards, left_out))
    for name, why in left_out.items():
        tell(f"{root / name}: left out: {why}")
    export.tell_kept(tell)
    return out / "index.html"


def _index(runs: Sequence[Path], cards: Sequence[dict[str, Any]], left_out: Mapping[str, str]) -> str:
    titles = {card["notebook"]: card["title"] for card in cards}
    parameters = [read_settings(folder / "params.json") for folder in runs]
    alike = {name: differing([p for p, card in zip(parameters, cards) if card["notebook"] == name]) for name in titles}
    for given, card in zip(parameters, cards):
        names = [name for name in alike[card["notebook"]] if name not in ("dataset", "split", "pair", "smoke")]
        card["varies"] = ", ".join(f"{in_words(name)} {shown(given.get(name))}" for name in names)
    index = _environment().get_template("index.html.j2").render(
        policy=POLICY,
        css=_css(),
        runs=cards,
        left_out=left_out,
        failed=sum(card["state"] != "done" for card in cards),
        made=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        facts=_versions(runs[-1]) if runs else {},
        summaries=[
            {"summary": summary, "svg": _svg(summary.figure), "title": titles[summary.notebook]}
            for summary in summarize(runs)
            if len(summary.rows) > 1  # one run's figures stand on its card
        ],
    )  # fmt: skip
    return align(index)


def _page(folder: Path) -> tuple[str, dict[str, Any]]:
    """Return the page of a run and its card on the index page."""
    status, parameters = read_status(folder) or {}, read_settings(folder / "params.json")
    metrics = read_settings(folder / "metrics.json")
    headline = read_settings(folder / "headline.json")
    headline = headline or {name: v for name, v in metrics.items() if isinstance(v, str | int | float)}
    body, headings = "", list[Heading]()
    if (folder / "out.ipynb").is_file():
        content = _read_notebook(folder / "out.ipynb")
        body, headings = notebook_html(content if status.get("state") == "done" else until_failure(content), folder)
    notebook = str(status.get("notebook", folder.name))
    dataset = Path(str(parameters.get("dataset", ""))).name
    title = next((h.text for h in headings if h.level == 1), notebook)
    error = describe_error(status) if status.get("state") != "done" else None
    told = ("started", "seconds", "by hand", "source", "cells")
    facts = {"run": folder.name} | {name: status[name] for name in told if name in status}
    page = _environment().get_template("page.html.j2").render(
        policy=POLICY,
        css=_css(),
        highlight_css=_highlight_css(),
        title=title,
        notebook=notebook,
        dataset=dataset,
        state=status.get("state"),
        error=error,
        headings=[h for h in headings if h.level in (2, 3)],
        body=Markup(body),
        disturbed=_disturbed(folder),
        facts=facts | _facts(folder),
        parameters=parameters,
    )  # fmt: skip
    settings = [str(parameters[key]) for key in ("split", "pair") if key in parameters]
    return page, {
        "page": page_name(folder),
        "title": title,
        "notebook": notebook,
        "dataset": dataset,
        "state": status.get("state"),
        "error": error,
        "seconds": f"{float(status.get('seconds', 0.0)):.0f} s",
        "settings": ", ".join(settings + ["smoke"] * bool(parameters.get("smoke"))),
        "kept": kept_as(folder),
        "metrics": [(in_words(name), shown(value)) for name, value in headline.items()][:_CARD_METRICS],
        "thumbnail": _thumbnail(folder),
    }


def _glossary() -> str:
    text = (_TEMPLATES / "glossary.md").read_text(encoding="utf-8")
    body, headings = notebook_html(nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(text)]))
    contents = [h for h in headings if h.level == 2]
    page = _environment().get_template("glossary.html.j2")
    return page.render(policy=POLICY, css=_css(), body=Markup(body), headings=contents)


def _read_notebook(path: Path) -> nbformat.NotebookNode:
    try:
        return nbformat.read(path, as_version=4)
    except Exception as error:  # nbformat raises many kinds, KeyError among them
        reason = " ".join(str(error).split())[:80]
        raise ValueError(f"{path.name}: not a notebook ({type(error).__name__}: {reason})") from error


def _facts(folder: Path) -> dict[str, Any]:
    """What a run's figures depend on besides its parameters."""
    load = read_settings(folder / "machine.json")
    told = dict[str, Any]()
    if {"cpu_seconds", "wall_seconds", "load_average"} <= set(load):
        told["CPU seconds"] = f"{shown(load['cpu_seconds'])} in {shown(load['wall_seconds'])} s"
        told["load average"] = shown(load["load_average"])
    return told | _versions(folder)


def _versions(folder: Path) -> dict[str, Any]:
    environment = read_settings(folder / "environment.json")
    return {name: value for name, value in environment.items() if value is not None}


def _disturbed(folder: Path) -> str:
    """What other programs took of the machine, where that disturbed the run's times; empty otherwise."""
    load = read_settings(folder / "machine.json")
    others = load.get("others")
    return f"{others:.0%}" if load.get("times_disturbed") and isinstance(others, int | float) else ""


def _svg(figure: Any) -> str | None:
    """Return a figure as the data address of an SVG."""
    if figure is None:
        return None
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()


def _thumbnail(folder: Path) -> str | None:
    """Return the run's first figure, made small, as a data address."""
    from PIL import Image

    figures = sorted((folder / "figures").glob("*.png"), key=lambda path: path.stat().st_mtime)
    if not figures:
        return None
    with Image.open(figures[0]) as picture:
        small = picture.convert("RGB")
    small.thumbnail((_THUMBNAIL_WIDTH, _THUMBNAIL_WIDTH))
    buffer = io.BytesIO()
    small.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


@cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(loader=jinja2.FileSystemLoader(_TEMPLATES), autoescape=True)


@cache
def _css() -> Markup:
    return Markup((_TEMPLATES / "style.css").read_text(encoding="utf-8"))


@cache
def _highlight_css() -> Markup:
    from pygments.formatters import HtmlFormatter

    light, dark = (HtmlFormatter(style=name).get_style_defs(".highlight") for name in ("default", "github-dark"))
    return Markup(f"{light}\n@media screen and (prefers-color-scheme: dark) {{\n{dark}\n}}")
