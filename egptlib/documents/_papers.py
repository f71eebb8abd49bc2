"""The papers folder: bibliography, records we could not verify, reading notes of one form, and the survey."""

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from egptlib.documents._bibliography import Entry, check_bibliography, read_bibliography, well_formed_arxiv
from egptlib.documents._examples import check_example, find_examples
from egptlib.documents._markdown import Markdown, check_citations, check_links

NOTE_SECTIONS = (
    "Problem",
    "Method",
    "Equations",
    "Setup",
    "Headline numbers",
    "Limits",
    "For EventGPT and Video-LLaVA",
    "Where it touches this repository",
)
NOTE_WORDS = 900  # what fits a printed page in two columns
_PLACE = re.compile(r"\b(Table|Tables|Fig\.|Figs\.|Figure|Sec\.|Secs\.|Eq\.|Eqs\.|App\.|Alg\.|Algs\.|Thm\.|abstract)")
_ROW = re.compile(r"^- \[@(?P<key>[A-Za-z0-9_]+)\]", re.M)
_ID = re.compile(r"(?<![\d./])(?P<id>\d{4}\.\d{4,5})(?![\d.]*\d)")


@dataclass(frozen=True)
class Papers:
    """What lies in the papers folder."""

    folder: Path
    entries: list[Entry]
    notes: list[Markdown]
    unverified: Markdown
    survey: Markdown
    readme: Markdown

    @classmethod
    def open(cls, folder: str | Path) -> "Papers":
        """Read the folder. A missing file raises FileNotFoundError, a broken bibliography ValueError."""
        folder = Path(folder)
        return cls(
            folder,
            read_bibliography(folder / "references.bib"),
            [Markdown(path) for path in sorted((folder / "notes").glob("*.md"))],
            Markdown(folder / "unverified.md"),
            Markdown(folder / "survey.md"),
            Markdown(folder / "README.md"),
        )

    @property
    def keys(self) -> set[str]:
        """Keys of the bibliography."""
        return {entry.key for entry in self.entries}

    @property
    def num_unverified(self) -> int:
        """Records kept out of the bibliography: rows of the tables, without their heads."""
        rows = re.findall(r"^\|.*\|$", self.unverified.prose, re.M)
        heads = re.findall(r"^\|[ :|-]+\|$", self.unverified.prose, re.M)
        return len(rows) - 2 * len(heads)

    @property
    def documents(self) -> list[Markdown]:
        """Every Markdown file of the folder."""
        return [self.readme, self.survey, self.unverified, *self.notes]


def check_papers(papers: Papers, root: Path) -> list[str]:
    """Return one line per fault in the papers folder; `root` is the repository, which no relative link may leave."""
    problems = [f"references.bib: {problem}" for problem in check_bibliography(papers.entries)]
    for document in papers.documents:
        problems += check_links(document, root) + check_citations(document, papers.keys, root)
        problems += _unknown_ids(document, papers)
        for example in find_examples(document):
            if problem := check_example(example):
                problems.append(f"{document.path.name}:{example.line}: {problem}")
    for note in papers.notes:
        problems += [f"notes/{note.path.name}: {problem}" for problem in _note_problems(note)]
    counts = Counter(placed_in_survey(papers.survey))
    problems += [f"survey.md: {key} has no line" for key in sorted(papers.keys - counts.keys())]
    problems += [f"survey.md: {key} has {count} lines" for key, count in counts.items() if count > 1]
    problems += [f"unverified.md: {problem}" for problem in _unverified_problems(papers)]
    return problems


def placed_in_survey(survey: Markdown) -> list[str]:
    """Keys that have a line of their own in the survey, in order."""
    return [match["key"] for match in _ROW.finditer(survey.prose)]


def _note_problems(note: Markdown) -> list[str]:
    problems = []
    found = tuple(note.sections())
    if found != NOTE_SECTIONS:
        wrong = next((pair for pair in zip(found, NOTE_SECTIONS) if pair[0] != pair[1]), None)
        what = f"{wrong[0]!r} where {wrong[1]!r} belongs" if wrong else f"{len(found)} of {len(NOTE_SECTIONS)}"
        problems.append(f"sections: {what}")
    if not note.title or not note.citations():
        problems.append("expected a title and below it the paper's key, like [@eagle2024]")
    if (words := len(note.text.split())) > NOTE_WORDS:
        problems.append(f"{words} words; a note is one page, at most {NOTE_WORDS}")
    for name in ("Headline numbers", "Equations"):
        # Bullets of a section, or its paragraphs; worked examples are ours, not the paper's.
        section = re.sub(r"^```.*?^```$", "", note.sections().get(name, ""), flags=re.M | re.S)
        for part in re.split(r"\n(?=- )|\n\s*\n", section.strip()):
            line = " ".join(part.split())
            if re.search(r"\d", line) and not _PLACE.search(line):
                problems.append(f"{name}: no place in the paper for {line[:60]!r}")
    return problems


def _unverified_problems(papers: Papers) -> list[str]:
    known = {entry.arxiv for entry in papers.entries if entry.arxiv}
    first_cells = re.findall(r"^\|[^|]*\|([^|]*)\|", papers.unverified.prose, re.M)
    given = [match["id"] for cell in first_cells for match in _ID.finditer(cell)]
    return [f"{identifier} is in the bibliography" for identifier in given if identifier in known]


def _unknown_ids(document: Markdown, papers: Papers) -> list[str]:
    """An arXiv id in the text has to be known: in the bibliography, or among the unverified."""
    known = {entry.arxiv for entry in papers.entries} | {m["id"] for m in _ID.finditer(papers.unverified.prose)}
    return [
        f"{document.path.name}: arXiv id {match['id']} is neither in the bibliography nor in unverified.md"
        for match in _ID.finditer(document.prose)
        if well_formed_arxiv(match["id"]) and match["id"] not in known
    ]
