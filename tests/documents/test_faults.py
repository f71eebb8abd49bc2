"""Each fault that papers or roadmap can have is named: the real folders, copied, with one thing broken."""

import shutil
from pathlib import Path

import pytest

from egptlib._paths import project_root
from egptlib.documents import Papers, Roadmap, check_papers, check_roadmap


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A checkout of papers, roadmap and what they link to."""
    root = project_root()
    assert root is not None
    for name in ("papers", "roadmap", "notebooks"):
        shutil.copytree(root / name, tmp_path / name)
    card = Path("egptlib/models/mini/README.md")
    (tmp_path / card).parent.mkdir(parents=True)
    shutil.copy(root / card, tmp_path / card)
    return tmp_path


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def problems(root: Path) -> list[str]:
    papers = Papers.open(root / "papers")
    return check_papers(papers, root) + check_roadmap(Roadmap.open(root / "roadmap"), papers, root)


def test_the_copy_is_clean(copy: Path) -> None:
    assert problems(copy) == []


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("papers/notes/eagle.md", "## Setup", "## Set-up", "'Set-up' where 'Setup' belongs"),
        ("papers/notes/eagle.md", "(Table 5)", "", "no place in the paper for '- Chain instead of tree"),
        ("papers/notes/eagle.md", "[@eagle2024]", "[@eagle2042]", "eagle2042 is not in the bibliography"),
        ("papers/notes/hivis.md", "application.md", "applications.md", "applications.md does not exist"),
        ("papers/notes/medusa.md", "1.22) = 2.84", "1.22) = 2.83", "the document says 2.83, the function 2.844"),
        ("papers/survey.md", "- [@hydra2024]: ", "- ", "hydra2024 has no line"),
        ("papers/survey.md", "- [@hydra2024]", "- [@medusa2024]", "medusa2024 has 2 lines"),
        ("papers/survey.md", "# Survey\n", "# Survey\n\nSee 2401.99999.\n", "2401.99999 is neither in"),
        ("papers/unverified.md", "| 2402.01528 |", "| 2401.15077 |", "2401.15077 is in the bibliography"),
        ("papers/references.bib", "{2401.15077}", "{2401.1507}", "is no arXiv id"),
        ("roadmap/hybrid.md", "## Next experiment", "## Later", "no section 'Next experiment'"),
        ("roadmap/hybrid.md", "*2026-11-25.*", "2026", "expected below the title"),
        ("roadmap/hybrid.md", "*Refuted if:*", "If not:", "H6: no *Refuted if:*"),
        ("roadmap/hybrid.md", "**H6** (open", "**H7** (open", "expected the numbers 1 to 18, each once"),
        ("roadmap/hybrid.md", "**H6** (open", "**H6** (likely", "state 'likely', expected one of open"),
        ("roadmap/hybrid.md", "**H6** (open, ", "**H6** (open) (", "a hypothesis is not of the form"),
        ("roadmap/theory.md", "(0.8, 5) = 3.69", "(0.8, 5) = 3.96", "the document says 3.96"),
        ("roadmap/theory.md", "expected_tokens(0.8, 5)", "tokens(0.8, 5)", "is not a public function"),
        ("roadmap/README.md", "(theory.md)", "(theory.md#nowhere)", "no such heading"),
    ],
)
def test_each_fault_is_named(copy: Path, file: str, old: str, new: str, message: str) -> None:
    edit(copy / file, old, new)
    found = problems(copy)
    assert any(message in problem for problem in found), found
