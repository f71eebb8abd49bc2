"""Verbs of the documents room: papers check, papers fetch, roadmap check, roadmap index."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from egptlib.cli._app import App, app, report_problems

papers = App(no_args_is_help=True, help="Bibliography and reading notes: check, fetch.")
roadmap = App(no_args_is_help=True, help="Research documents: check, index.")
app.add_typer(papers, name="papers")
app.add_typer(roadmap, name="roadmap")

Checkout = Annotated[
    Path | None, typer.Option("--root", help="Checkout that holds papers/ and roadmap/; default: this.")
]


@papers.command("check")
def papers_check(root: Checkout = None) -> None:
    """Check bibliography, citations, links, form of the notes, and that the survey places every entry once."""
    from datetime import UTC, datetime

    from egptlib.documents import Papers, check_papers, old_preprints

    base = _checkout(root)
    opened = Papers.open(base / "papers")
    if old := old_preprints(opened.entries, datetime.now(tz=UTC).date()):
        keys = ", ".join(entry.key for entry in old)
        what = f"{len(old)} preprints are older than a year; look for a venue or newer version"
        print(f"warning: {what}: {keys}", file=sys.stderr)
    report_problems(check_papers(opened, base), f"papers: {len(opened.entries)} entries, {len(opened.notes)} notes")


@papers.command("fetch")
def papers_fetch(
    keys: Annotated[list[str] | None, typer.Argument(help="Keys of the bibliography; all when left out.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the PDFs; default: papers/ in the data.")] = None,
    root: Checkout = None,
) -> None:
    """Download PDFs from arXiv by id; one whose first page lacks the title is not kept. They stay out of git."""
    from egptlib._paths import data_root
    from egptlib.documents import fetch_papers, read_bibliography

    path = _checkout(root) / "papers" / "references.bib"
    entries = read_bibliography(path)
    if unknown := sorted(set(keys or ()) - {entry.key for entry in entries}):
        raise ValueError(f"{path}: no entry {unknown[0]!r}")
    chosen = [entry for entry in entries if not keys or entry.key in keys]
    folder = out or data_root() / "papers"
    counts: dict[str, int] = {}
    for fetched in fetch_papers(chosen, folder):
        counts[fetched.state] = counts.get(fetched.state, 0) + 1
        print(f"{fetched.key}: {fetched.state}: {fetched.detail}", flush=True)
    print(f"{', '.join(f'{count} {state}' for state, count in counts.items())} -> {folder}")
    if counts.get("failed"):
        raise typer.Exit(1)


@roadmap.command("check")
def roadmap_check(root: Checkout = None) -> None:
    """Check form, citations, links, hypotheses and worked examples of the documents, and that the index is fresh."""
    from egptlib.documents import Papers, Roadmap, check_roadmap

    base = _checkout(root)
    opened = Roadmap.open(base / "roadmap")
    problems = check_roadmap(opened, Papers.open(base / "papers"), base)
    report_problems(problems, f"roadmap: {len(opened.documents)} documents, {len(opened.hypotheses)} hypotheses")


@roadmap.command("index")
def roadmap_index(root: Checkout = None) -> None:
    """Write roadmap/INDEX.md: documents, hypotheses, reading notes and statistics."""
    from egptlib._paths import atomic_write
    from egptlib.documents import INDEX, Papers, Roadmap, render_index

    base = _checkout(root)
    text = render_index(Roadmap.open(base / "roadmap"), Papers.open(base / "papers"))
    with atomic_write(base / "roadmap" / INDEX) as temporary:
        temporary.write_text(text, encoding="utf-8")
    print(f"index -> {base / 'roadmap' / INDEX}")


def _checkout(root: Path | None) -> Path:
    from egptlib._paths import project_root

    found = root or project_root()
    if found is None or not (found / "papers").is_dir():
        raise ValueError(f"{found or 'this installation'}: no papers/ here; name a checkout with --root")
    return found.resolve()
