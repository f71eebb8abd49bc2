"""Reports: one self-contained HTML file per run and an index page; no script, no request, formulas as MathML."""

import base64
import html
import io
import itertools
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
import nbformat
from markupsafe import Markup
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbconvert.preprocessors import Preprocessor, TagRemovePreprocessor
from traitlets.config import Config

from egptlib._paths import atomic_write
from egptlib.reporting._runner import describe_error
from egptlib.reporting._runs import list_runs, newest_runs, read_json, read_status
from egptlib.reporting._summary import shown, summarize

_TEMPLATES = Path(__file__).parent / "templates"
_CARD_METRICS = 6
_THUMBNAIL_WIDTH = 640  # pixels; a card is about half as wide


@dataclass(frozen=True)
class Heading:
    """One line of the table of contents."""

    level: int
    text: str
    slug: str


def write_report(root: str | os.PathLike[str], out: str | os.PathLike[str] | None = None) -> Path:
    """Write one page for each run below `root` and an index page; return the index.

    Of runs of one notebook with equal parameters only the newest gets a page. Existing pages of other runs
    are removed, so that the folder can be sent to somebody as it is.

    Args:
        root: folder with run folders.
        out: folder for the pages, default ``root/report``.

    Raises:
        FileNotFoundError: `root` is no folder, or holds no run.
    """
    root = Path(root)
    out = Path(out) if out is not None else root / "report"
    runs = newest_runs(list_runs(root))
    if not runs:
        raise FileNotFoundError(f"{root}: holds no finished run; `egptlib run --out {root}` makes them")
    cards = []
    for folder in runs:
        page, card = _page(folder)
        _write(out / card["page"], page)
        cards.append(card)
    titles = {card["notebook"]: card["title"] for card in cards}
    index = _environment().get_template("index.html.j2").render(
        css=_css(),
        runs=cards,
        failed=sum(card["state"] != "done" for card in cards),
        made=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        facts=_facts(runs[-1]),
        summaries=[
            {"summary": summary, "svg": _svg(summary.figure), "title": titles[summary.notebook]}
            for summary in summarize(runs)
            if len(summary.rows) > 1  # one run's figures stand on its card
        ],
    )  # fmt: skip
    _write(out / "index.html", index)
    for stale in set(out.glob("*.html")) - {out / card["page"] for card in cards} - {out / "index.html"}:
        stale.unlink()
    return out / "index.html"


def notebook_html(notebook: nbformat.NotebookNode, folder: Path = Path()) -> tuple[str, list[Heading]]:
    """Convert an executed notebook to the HTML of its cells and its headings.

    Cells tagged ``remove-cell`` or ``interactive`` are left out, those tagged ``hide-input`` keep their
    outputs only. Pictures that the text names, relative to `folder`, are embedded.
    """
    exporter = _Exporter(
        template_name="notebook",
        extra_template_basedirs=[str(_TEMPLATES)],
        exclude_input_prompt=True,
        exclude_output_prompt=True,
        embed_images=True,
        config=Config(
            TagRemovePreprocessor={
                "enabled": True,
                "remove_cell_tags": {"remove-cell", "interactive", "papermill-error-cell-tag"},
                "remove_input_tags": {"hide-input"},
            }
        ),
    )
    for preprocessor in (TagRemovePreprocessor, _StaticOutputs):
        exporter.register_preprocessor(preprocessor, enabled=True)
    body, _ = exporter.from_notebook_node(notebook, resources={"metadata": {"path": str(folder)}})
    return re.sub(r'<table[^>]*class="dataframe".*?</table>', _aligned, body, flags=re.DOTALL), exporter.headings


_CELL = re.compile(r"<(t[dh])>(.*?)</t[dh]>", re.DOTALL)
_NUMBER = re.compile(r"[-+–]?[\d.,]*(e[-+]\d+)?%?")
_NO_WRAP = 24  # characters that a column of text takes without a break


def _aligned(table: re.Match[str]) -> str:
    """Set columns of text to the left, head included, and let long names in heads break at underscores.

    A column is one of text when one of its cells holds no number.
    """
    rows = [_CELL.findall(row) for row in table[0].split("</tr>")]
    columns = zip(*(row for row in rows if row and all(kind == "td" for kind, _ in row)))
    texts = [[html.unescape(text) for _, text in column] for column in columns]
    kinds = [
        "" if all(_NUMBER.fullmatch(text) for text in column)
        else ' class="text short"' if max(map(len, column)) <= _NO_WRAP
        else ' class="text"'
        for column in texts
    ]  # fmt: skip
    if len({len(row) for row in rows if row}) > 1 or not kinds:  # cells that span others, or no rows
        return table[0]
    position = itertools.count()

    def mark(cell: re.Match[str]) -> str:
        kind, text = cell.groups()
        shown = text.replace("_", "_<wbr>") if kind == "th" else text
        return f"<{kind}{kinds[next(position) % len(kinds)]}>{shown}</{kind}>"

    return _CELL.sub(mark, table[0])


def to_mathml(latex: str, display: str = "inline") -> str:
    """Return a LaTeX formula as MathML, which browsers render by themselves; as code where it cannot be read."""
    from latex2mathml.converter import convert

    try:
        return str(convert(latex.strip(), display=display))
    except Exception:  # latex2mathml raises a class of its own for each kind of bad input
        return f"<code>{html.escape(latex)}</code>"


class _StaticOutputs(Preprocessor):
    """Drops what needs a script: widgets and JavaScript outputs."""

    _live = ("application/vnd.jupyter.widget-view+json", "application/javascript")

    def preprocess(self, nb: Any, resources: Any) -> tuple[Any, Any]:
        nb.metadata.pop("widgets", None)
        for cell in nb.cells:
            if cell.cell_type == "code":
                cell.outputs = [o for o in cell.outputs if not any(kind in o.get("data", {}) for kind in self._live)]
        return nb, resources


class _Renderer(IPythonRenderer):
    """Markdown to HTML with MathML formulas; notes each heading and gives it an id."""

    def __init__(self, headings: list[Heading], **options: Any) -> None:
        super().__init__(**options)
        self._headings = headings

    def heading(self, text: str, level: int, **attrs: Any) -> str:
        plain = html.unescape(re.sub(r"<[^>]+>", "", text)).strip()
        base = re.sub(r"[^a-z0-9]+", "-", plain.lower()).strip("-") or "section"
        taken = {heading.slug for heading in self._headings}
        slug = next(s for n in range(len(taken) + 1) if (s := f"{base}-{n}" if n else base) not in taken)
        self._headings.append(Heading(level, plain, slug))
        return f'<h{level} id="{slug}">{text}</h{level}>\n'

    def block_math(self, body: str) -> str:
        return to_mathml(body, "block")

    def inline_math(self, body: str) -> str:
        return to_mathml(body)

    def latex_environment(self, name: str, body: str) -> str:
        return to_mathml(f"\\begin{{{name}}}{body}\\end{{{name}}}", "block")


class _Exporter(HTMLExporter):
    """nbconvert's exporter with our renderer; `headings` are those of the last notebook."""

    def __init__(self, **options: Any) -> None:
        self.headings: list[Heading] = []
        super().__init__(**options)
        self.register_filter("mathml", lambda text: to_mathml(text.strip().strip("$"), "block"))
        self.register_filter("markdown2html", self._markdown)

    @jinja2.pass_context
    def _markdown(self, context: Any, source: str) -> str:
        cell, resources = context.get("cell", {}), context.get("resources", {})
        renderer = _Renderer(
            self.headings,
            escape=False,
            attachments=cell.get("attachments", {}),
            embed_images=True,
            path=resources.get("metadata", {}).get("path", ""),
        )
        return str(MarkdownWithMath(renderer=renderer).render(source))


def _page(folder: Path) -> tuple[str, dict[str, Any]]:
    """Return the page of a run and its card on the index page."""
    status, parameters = read_status(folder) or {}, read_json(folder / "params.json")
    headline = read_json(folder / "headline.json") or _scalars(read_json(folder / "metrics.json"))
    body, headings = "", list[Heading]()
    if (folder / "out.ipynb").is_file():
        body, headings = notebook_html(nbformat.read(folder / "out.ipynb", as_version=4), folder)
    notebook = str(status.get("notebook", folder.name))
    dataset = Path(str(parameters.get("dataset", ""))).name
    title = next((h.text for h in headings if h.level == 1), notebook)
    error = describe_error(status) if status.get("state") != "done" else None
    facts = {"run": folder.name, "started": status.get("started"), "seconds": status.get("seconds")}
    page = _environment().get_template("page.html.j2").render(
        css=_css(),
        highlight_css=_highlight_css(),
        title=title,
        notebook=notebook,
        dataset=dataset,
        state=status.get("state"),
        error=error,
        headings=[h for h in headings if h.level in (2, 3)],
        body=Markup(body),
        facts=facts | _facts(folder),
        parameters=parameters,
    )  # fmt: skip
    settings = [str(parameters[key]) for key in ("split", "pair") if key in parameters]
    return page, {
        "page": f"{folder.name}.html",
        "title": title,
        "notebook": notebook,
        "dataset": dataset,
        "state": status.get("state"),
        "error": error,
        "seconds": f"{float(status.get('seconds', 0.0)):.0f} s",
        "settings": ", ".join(settings + ["smoke"] * bool(parameters.get("smoke"))),
        "metrics": [(name.replace("_", " "), shown(value)) for name, value in headline.items()][:_CARD_METRICS],
        "thumbnail": _thumbnail(folder),
    }


def _facts(folder: Path) -> dict[str, Any]:
    """What a run's figures depend on besides its parameters."""
    return {name: value for name, value in read_json(folder / "environment.json").items() if value is not None}


def _scalars(metrics: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in metrics.items() if isinstance(value, str | int | float)}


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


def _write(path: Path, text: str) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


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
