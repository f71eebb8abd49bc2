"""This repository's own papers and documents pass every check."""

import os
import re
import shutil
from pathlib import Path

import pytest

from egptlib._paths import project_root
from egptlib.documents import Papers, Roadmap, check_papers, check_roadmap, read_bibliography, render_index
from egptlib.documents._bibliography import check_bibliography
from egptlib.recorded import RTX_4090


@pytest.fixture(scope="module")
def root() -> Path:
    found = project_root()
    assert found is not None
    return found


def test_the_bibliography_is_whole(root: Path) -> None:
    entries = read_bibliography(root / "papers" / "references.bib")
    assert check_bibliography(entries) == []
    assert len(entries) >= 115
    dated = [(entry.key, entry.fields["year"], re.findall(r"\b20\d\d\b", entry.venue)) for entry in entries]
    assert [key for key, year, venue in dated if venue and year not in venue] == []


def test_the_papers_pass_every_check(root: Path) -> None:
    papers = Papers.open(root / "papers")
    assert check_papers(papers, root) == []
    assert len(papers.notes) == 18 and papers.num_unverified == 20


def test_the_roadmap_passes_every_check_and_its_index_is_fresh(root: Path) -> None:
    roadmap = Roadmap.open(root / "roadmap")
    assert check_roadmap(roadmap, Papers.open(root / "papers"), root) == []
    assert len(roadmap.documents) == 13 and len(roadmap.hypotheses) == 18


def test_every_finding_can_be_run(root: Path) -> None:
    scripts = sorted((root / "findings").iterdir())
    assert scripts and [script.name for script in scripts if not os.access(script, os.X_OK)] == []


def test_an_edited_document_makes_the_index_stale(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root / "roadmap", tmp_path / "roadmap")
    document = tmp_path / "roadmap" / "theory.md"
    document.write_text(document.read_text(encoding="utf-8").replace("**H11** (open,", "**H11** (refuted,"))
    problems = check_roadmap(Roadmap.open(tmp_path / "roadmap"), Papers.open(root / "papers"), tmp_path)
    assert "INDEX.md is stale; `egptlib roadmap index` writes it" in problems


def test_findings_appearing_leaves_the_index_fresh(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root / "roadmap", tmp_path / "roadmap")
    (tmp_path / "roadmap" / "FINDINGS.md").write_text("# What the recorded runs say\n", encoding="utf-8")
    papers = Papers.open(root / "papers")
    assert render_index(Roadmap.open(tmp_path / "roadmap"), papers) == render_index(
        Roadmap.open(root / "roadmap"), papers
    )


def test_readmes_first_screen_tells_the_real_pairs_result_from_the_minis(root: Path) -> None:
    """Each figure of the table is recomputed, or stands again where the command that measured it is named."""
    screen, below = (root / "README.md").read_text(encoding="utf-8").split("\n## ", 1)
    assert len(screen.splitlines()) <= 28
    table = [[cell.strip() for cell in line.split("|")[1:-1]] for line in screen.splitlines() if line.startswith("|")]
    _, real, mini = table[0]
    assert "real pair (recorded, one RTX 4090)" in real and "mini pair" in mini and "ships with this" in mini
    told = {row[0]: row[1:] for row in table[2:]}
    assert (
        "*Along the target's path*" in screen and '"1 of 34\naccepted"' in screen
    )  # why two free answers agree so little
    findings = (root / "roadmap/FINDINGS.md").read_text(encoding="utf-8")
    levels = re.search(
        r"Ratio of sums L1 ([\d.]+), L2 ([\d.]+), L3 ([\d.]+), L4 ([\d.]+) \[computed overlap\]", findings
    )
    assert levels
    low, high = (choose(map(float, levels.groups())) for choose in (min, max))
    assert (
        f"**{low:.2f} to {high:.2f}x** [computed overlap]" in told["speed"][0]
        and f"{RTX_4090.speedup:.2f}" == f"{high:.2f}"
    )
    same = re.search(r"(\d+ of \d+) answers the same", told["speed"][0])
    assert same and f"{same[1]} texts identical" in findings
    ahead = re.match(r"[\d.]+ of \d+", told["accepted"][0])
    assert ahead and f"{ahead[0]} free drafts accepted" in findings
    costs = RTX_4090.costs
    assert f"{costs.verify_cost:.1f} target steps" in told["why"][0]
    assert told["why"][0].endswith(f"a drafter step {costs.drafter_step / costs.target_step:.2f}")
    both = next(row for row in RTX_4090.needed() if row["point"] == "both" and row["goal"] == 2)
    assert f"2x from {both['acceptance']:.2f} on [estimated]" in told["what would change it"][0]
    assert f"give {RTX_4090.points()['both'].speedup:.1f}x" in told["what would change it"][0]
    for figure in (r"\*\*([\d.]+x)\*\* (\[.*?\])", r"^([\d.]+ %)()"):
        found = re.search(figure, told["speed" if "x" in figure else "accepted"][1])
        assert found and re.search(rf"\| {re.escape(' '.join(found.groups()).strip())}", below), figure


def test_what_contributing_says_is_where_it_says(root: Path) -> None:
    text = (root / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert all((root / path).exists() for path in re.findall(r"`((?:egptlib|tests|benchmarks|docs)/[^ `]*)", text))
    told = re.findall(r"`(\w+)` in `([\w/]+\.py)`", text)
    assert len(told) >= 3
    for name, path in told:
        assert re.search(rf"^(def|class) {name}\b", (root / path).read_text(encoding="utf-8"), re.MULTILINE), name
