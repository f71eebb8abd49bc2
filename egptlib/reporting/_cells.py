"""The cells of an executed notebook as static HTML: formulas as MathML, pictures embedded, columns aligned."""

import base64
import html
import mimetypes
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import unquote

import jinja2
import nbformat
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbconvert.preprocessors import Preprocessor, TagRemovePreprocessor
from traitlets.config import Config

from egptlib.reporting._static import left_out_line, noted, static
from egptlib.reporting._tables import align

_TEMPLATES = Path(__file__).parent / "templates"
_NOWHERE = "\x02"  # around the text of a link that a page cannot have


@dataclass(frozen=True)
class Heading:
    """One line of the table of contents."""

    level: int
    text: str
    slug: str


def notebook_html(notebook: nbformat.NotebookNode, folder: Path = Path()) -> tuple[str, list[Heading]]:
    """Convert an executed notebook to the HTML of its cells and its headings.

    Cells tagged ``remove-cell``, ``interactive`` or, by papermill, ``injected-parameters`` (they stand in a table of
    their own, and name folders of the machine) are left out, those tagged ``hide-input`` keep their
    outputs only. Pictures that the text names, relative to `folder`, are embedded. Whoever made the notebook, the
    result runs nothing and loads nothing (see `static`); where that takes something away, a line says so.
    """
    exporter = _exporter()
    exporter.headings = []
    body, _ = exporter.from_notebook_node(notebook, resources={"metadata": {"path": str(folder)}})
    # A picture fills the window when it is clicked, and goes back when it is clicked again; no script.
    box = '<label class="figure"><input type="checkbox" aria-label="show larger">'
    body = re.sub(r"<img [^>]*>", lambda image: f"{box}{image[0]}</label>", static(align(body)))
    return body, exporter.headings


@cache
def _exporter() -> "_Exporter":
    """One for all pages: compiling its templates takes longer than a page."""
    exporter = _Exporter(
        template_name="notebook",
        extra_template_basedirs=[str(_TEMPLATES)],
        exclude_input_prompt=True,
        exclude_output_prompt=True,
        embed_images=True,
        config=Config(
            TagRemovePreprocessor={
                "enabled": True,
                "remove_cell_tags": {"remove-cell", "interactive", "injected-parameters", "papermill-error-cell-tag"},
                "remove_input_tags": {"hide-input"},
            }
        ),
    )
    for preprocessor in (TagRemovePreprocessor, _StaticOutputs):
        exporter.register_preprocessor(preprocessor, enabled=True)
    return exporter


def until_failure(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Return a failed run's notebook without what stands behind the cell that failed: it never ran."""
    for number, cell in enumerate(notebook.cells, 1):
        failed = any(output.output_type == "error" for output in cell.get("outputs", []))
        if cell.cell_type == "code" and (failed or cell.metadata.get("papermill", {}).get("status") == "running"):
            return nbformat.v4.new_notebook(cells=notebook.cells[:number], metadata=notebook.metadata)
    return notebook


def to_mathml(latex: str, display: str = "inline") -> str:
    """Return a LaTeX formula as MathML, which browsers render by themselves; as code where it cannot be read."""
    from latex2mathml.converter import convert

    try:
        return str(convert(latex.strip(), display=display))
    except Exception:  # latex2mathml raises a class of its own for each kind of bad input
        return f"<code>{html.escape(latex)}</code>"


class _StaticOutputs(Preprocessor):
    """Puts a line in the place of what is nothing but script: widgets and JavaScript outputs."""

    _live: ClassVar = {
        "application/vnd.jupyter.widget-view+json": "a widget",
        "application/javascript": "a script",
    }

    def preprocess(self, nb: Any, resources: Any) -> tuple[Any, Any]:
        nb.metadata.pop("widgets", None)
        for cell in nb.cells:
            for output in cell.outputs if cell.cell_type == "code" else ():
                if live := [what for kind, what in self._live.items() if kind in output.get("data", {})]:
                    output.data = {"text/html": left_out_line(live)}
        return nb, resources


class _Renderer(IPythonRenderer):
    """Markdown to HTML with MathML formulas and embedded pictures; notes each heading and gives it an id."""

    def __init__(self, headings: list[Heading], **options: Any) -> None:
        super().__init__(**options)
        self._headings = headings

    def heading(self, text: str, level: int, **attrs: Any) -> str:
        plain = html.unescape(re.sub(rf"<[^>]+>|{_NOWHERE}", "", text)).strip()
        base = re.sub(r"[^a-z0-9]+", "-", plain.lower()).strip("-") or "section"
        taken = {heading.slug for heading in self._headings}
        slug = next(s for n in range(len(taken) + 1) if (s := f"{base}-{n}" if n else base) not in taken)
        self._headings.append(Heading(level, plain, slug))
        return f'<h{level} id="{slug}">{text}</h{level}>\n'

    def _src_to_base64(self, src: str) -> str | None:
        """Return a picture attached to the cell, or a file within the run's folder, as a data address."""
        name = unquote(src)
        if name.startswith("attachment:"):
            kinds = self.attachments.get(name.removeprefix("attachment:"), {})
            return next((f"data:{kind};base64,{content}" for kind, content in kinds.items()), None)
        folder, path = Path(self.path).resolve(), Path(self.path, name).resolve()
        kind = mimetypes.guess_type(path)[0]
        if not path.is_relative_to(folder) or not path.is_file() or kind is None:
            return None
        return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"

    def _embed_image_or_attachment(self, src: str) -> str:
        return self._src_to_base64(src) or src

    def link(self, text: str, url: str, title: str | None = None) -> str:
        """A link to a file beside the notebook leads nowhere from a page: its text alone is kept."""
        return str(super().link(text, url, title)) if re.match(r"[a-z]+:|#", url) else f"{_NOWHERE}{text}{_NOWHERE}"

    def paragraph(self, text: str) -> str:
        """A paragraph that is nothing but such a link, or has a word in bold before it, is left out."""
        alone = re.fullmatch(rf"(<strong>[^<]*</strong>\s*)?{_NOWHERE}[^{_NOWHERE}]*{_NOWHERE}", text.strip())
        return "" if alone else str(super().paragraph(text))

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
        self.register_filter("noted", noted)
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
        return noted(str(MarkdownWithMath(renderer=renderer).render(source)).replace(_NOWHERE, ""))
