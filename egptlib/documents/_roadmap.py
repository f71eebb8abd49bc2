"""The roadmap folder: documents of one form, numbered hypotheses, and an index generated from the documents alone."""

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from egptlib.documents._examples import check_example, find_examples
from egptlib.documents._markdown import Markdown, check_citations, check_links, plain
from egptlib.documents._papers import Papers

SECTIONS = ("What is known", "What we measured", "Hypotheses", "Next experiment")
INDEX = "INDEX.md"
# Generated from recorded data, or a history: linked from the README, no part of the index.
APART = ("CHANGELOG.md", "FINDINGS.md", INDEX)
STATES = ("open", "supported", "refuted")
_HEADER = re.compile(r"^\*(?P<date>\d{4}-\d{2}-\d{2})\.\*\s+(?P<summary>.+?)(?:\n\s*\n|\Z)", re.M | re.S)
_HYPOTHESIS = re.compile(
    r"^- \*\*H(?P<number>\d+)\*\* \((?P<state>[^,)]*), (?P<where>[^\n]*?)\)\. (?P<body>.*?)(?=^- |^#|\Z)", re.M | re.S
)
_CLAIM = re.compile(r"^- \*\*H\d+\*\*", re.M)


@dataclass(frozen=True)
class Hypothesis:
    """A claim nobody has shown yet, the notebook or benchmark that would, and what would refute it."""

    number: int
    state: str
    where: str
    claim: str
    body: str
    document: str


@dataclass(frozen=True)
class Roadmap:
    """What lies in the roadmap folder."""

    folder: Path
    documents: list[Markdown]
    apart: list[Markdown]

    @classmethod
    def open(cls, folder: str | Path) -> "Roadmap":
        """Read the folder: README first, then the other documents by name."""
        found = [Markdown(path) for path in sorted(Path(folder).glob("*.md"))]
        documents = [document for document in found if document.path.name not in APART]
        documents.sort(key=lambda document: (document.path.name != "README.md", document.path.name))
        return cls(Path(folder), documents, [document for document in found if document.path.name in APART])

    @property
    def hypotheses(self) -> list[Hypothesis]:
        """Every hypothesis, by number."""
        found = [hypothesis for document in self.documents for hypothesis in _hypotheses(document)]
        return sorted(found, key=lambda hypothesis: hypothesis.number)


def check_roadmap(roadmap: Roadmap, papers: Papers, root: Path) -> list[str]:
    """Return one line per fault: form, links, citations, hypotheses, worked examples, a stale index."""
    problems = []
    for document in [*roadmap.documents, *roadmap.apart]:
        problems += check_links(document, root) + check_citations(document, papers.keys, root)
    for document in roadmap.documents:
        problems += [f"{document.path.name}: {problem}" for problem in _form_problems(document)]
        for example in find_examples(document):
            if problem := check_example(example):
                problems.append(f"{document.path.name}:{example.line}: {problem}")
    numbers = [hypothesis.number for hypothesis in roadmap.hypotheses]
    if numbers != list(range(1, len(numbers) + 1)):
        problems.append(f"hypotheses: expected the numbers 1 to {len(numbers)}, each once, got {numbers}")
    path = roadmap.folder / INDEX
    if not path.is_file() or path.read_text(encoding="utf-8") != render_index(roadmap, papers):
        problems.append(f"{INDEX} is stale; `egptlib roadmap index` writes it")
    return problems


def render_index(roadmap: Roadmap, papers: Papers) -> str:
    """Return the text of the index: documents, hypotheses, reading notes, statistics.

    It depends on the documents, the notes and the bibliography alone, so that nothing else makes it stale.
    """
    lines = [
        "# Index of the roadmap",
        "",
        "Written by `egptlib roadmap index` from the documents; a test fails when it is stale. Beside them lie the",
        "[changelog](CHANGELOG.md) and, written from the recorded runs, `FINDINGS.md`.",
        "",
        "## Documents",
        "",
        "| document | date | what it holds | hypotheses | papers cited |",
        "| --- | --- | --- | --- | --- |",
    ]
    for document in roadmap.documents:
        date, summary = _header(document)
        numbers = ", ".join(f"H{hypothesis.number}" for hypothesis in _hypotheses(document)) or "none"
        cited = len({cited.text for cited in document.citations()})
        name = document.path.name
        lines.append(f"| [{_cell(document.title)}]({name}) | {date} | {_cell(summary)} | {numbers} | {cited} |")
    lines += [
        "",
        "## Hypotheses",
        "",
        "| | state | claim | tested by | stands in |",
        "| --- | --- | --- | --- | --- |",
    ]
    for hypothesis in roadmap.hypotheses:
        lines.append(
            f"| H{hypothesis.number} | {hypothesis.state} | {_cell(hypothesis.claim)} | {hypothesis.where} "
            f"| [{hypothesis.document}]({hypothesis.document}) |"
        )
    lines += ["", "## Reading notes", "", "| note | paper | arXiv |", "| --- | --- | --- |"]
    entries = {entry.key: entry for entry in papers.entries}
    for note in papers.notes:
        named = [entries[found.text] for found in note.citations() if found.text in entries]
        if not named:
            continue  # `papers check` names it
        entry = named[0]
        lines.append(
            f"| [{_cell(note.title)}](../papers/notes/{note.path.name}) | {_cell(entry.title)} | {entry.arxiv or ''} |"
        )
    lines += ["", "## Statistics", "", "| | count |", "| --- | --- |"]
    lines += [f"| {name} | {count} |" for name, count in statistics(roadmap, papers).items()]
    return "\n".join(lines) + "\n"


def statistics(roadmap: Roadmap, papers: Papers) -> dict[str, int]:
    """What the index counts."""
    hypotheses = roadmap.hypotheses
    states = Counter(hypothesis.state for hypothesis in hypotheses)
    cited = {cited.text for document in roadmap.documents for cited in document.citations()}
    examples = sum(len(find_examples(document)) for document in [*roadmap.documents, *papers.documents])
    counts = {"documents": len(roadmap.documents), "hypotheses": len(hypotheses)}
    counts |= {f"hypotheses {state}": states[state] for state in STATES}
    counts |= {
        "worked examples": examples,
        "papers in the bibliography": len(papers.entries),
        "papers cited in the roadmap": len(cited),
        "records not verified": papers.num_unverified,
        "reading notes": len(papers.notes),
    }
    return counts


def _form_problems(document: Markdown) -> list[str]:
    problems = []
    if not document.title:
        problems.append("no title")
    if not all(_header(document)):
        problems.append("expected below the title: *2026-11-25.* and a sentence on what the document holds")
    sections = document.sections()
    problems += [f"no section {name!r}" for name in SECTIONS if not sections.get(name, "").strip()]
    found = _hypotheses(document)
    if len(found) != len(_CLAIM.findall(document.prose)):
        problems.append("a hypothesis is not of the form: - **H1** (open, WHERE IT IS TESTED). Claim. *Test:* ...")
    for hypothesis in found:
        if hypothesis.state not in STATES:
            problems.append(f"H{hypothesis.number}: state {hypothesis.state!r}, expected one of {', '.join(STATES)}")
        for part in ("*Test:*", "*Refuted if:*"):
            if part not in hypothesis.body:
                problems.append(f"H{hypothesis.number}: no {part}")
    return problems


def _header(document: Markdown) -> tuple[str, str]:
    """Date and summary of a document, empty when it has none."""
    match = _HEADER.search(document.text)
    return (match["date"], " ".join(match["summary"].split())) if match else ("", "")


def _hypotheses(document: Markdown) -> list[Hypothesis]:
    return [
        Hypothesis(
            int(match["number"]),
            match["state"],
            match["where"],
            " ".join(match["body"].partition("*Test:*")[0].split()),
            match["body"],
            document.path.name,
        )
        for match in _HYPOTHESIS.finditer(document.text)
    ]


def _cell(text: str) -> str:
    """Text for a cell of a table: one line, links only as their text, bars escaped."""
    return plain(" ".join(text.split())).replace("|", "\\|")
