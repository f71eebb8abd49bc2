"""Every notebook follows the house rules, and runs from its first cell to its last in smoke mode."""

import ast
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import nbformat
import pytest
from typer.testing import CliRunner

from egptlib.cli import app
from egptlib.reporting._notebooks import notebook_parameters

if TYPE_CHECKING:
    from egptlib.reporting._runner import Outcome

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))
COMMON = {"dataset", "split", "pair", "num_scenes", "num_questions", "max_new_tokens", "out", "smoke"}

each = pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)


def test_there_are_eight_in_the_order_of_the_readme() -> None:
    assert [notebook.stem[:3] for notebook in NOTEBOOKS] == [f"0{n}_" for n in range(1, 9)]
    for readme in (NOTEBOOKS[0].parent / "README.md", NOTEBOOKS[0].parents[1] / "README.md"):
        rows = re.findall(r"^\| \W*(0\d_\w+)", readme.read_text(encoding="utf-8"), re.MULTILINE)
        assert rows == [notebook.stem for notebook in NOTEBOOKS]


@each
def test_parameters_are_the_common_ones(notebook: Path) -> None:
    parameters = notebook_parameters(notebook)
    assert set(parameters) >= COMMON
    expected = {"dataset": "streets", "split": "test", "pair": "mini", "out": "", "smoke": False}
    assert {name: parameters[name] for name in expected} == expected


@each
def test_it_says_what_it_asks_needs_takes_and_found(notebook: Path) -> None:
    cells = nbformat.read(notebook, as_version=4).cells
    assert cells[0].cell_type == "markdown" and cells[0].source.startswith("# ")
    assert all(word in cells[0].source for word in ("**Asks", "**Needs", "**Takes"))
    found = [cell.source.strip() for cell in cells].index("## Found")
    assert "Markdown(" in cells[found + 1].source  # computed, not typed
    assert cells[found + 2 :] == [] or cells[found + 2].source.startswith("## Appendix: ")


@each
def test_what_argues_with_the_earlier_work_stands_in_an_appendix(notebook: Path) -> None:
    text = [cell.source for cell in nbformat.read(notebook, as_version=4).cells if cell.cell_type == "markdown"]
    appendix = next((i for i, source in enumerate(text) if source.startswith("## Appendix")), len(text))
    past = ("earlier work", "earlier L4", "earlier method", "old estimate", "3.4 %")
    assert not [words for source in text[:appendix] for words in past if words in source]
    page = notebook.parents[1] / "docs/report" / f"{notebook.stem}.html"
    shown, _, behind = page.read_text(encoding="utf-8").partition('id="appendix')
    shown = re.sub(r'"data:image[^"]*"|<nav.*?</nav>', "", shown, flags=re.DOTALL)
    assert bool(behind) == (appendix < len(text)) and not [words for words in past if words in shown]


@each
def test_it_only_calls_the_library(notebook: Path) -> None:
    content = nbformat.read(notebook, as_version=4)
    assert content.metadata.kernelspec.name == "python3"
    for cell in content.cells:
        if cell.cell_type != "code":
            continue
        assert not cell.outputs and cell.execution_count is None
        assert "sys.path" not in cell.source and not re.search(r"from egptlib\S*\._", cell.source)
        for node in ast.walk(ast.parse(cell.source)):
            assert not isinstance(node, ast.ClassDef)
            if isinstance(node, ast.FunctionDef | ast.Lambda):
                assert (node.end_lineno or 0) - node.lineno < 4


@pytest.mark.slow
def test_all_run_in_smoke_mode(smoke_outcomes: "list[Outcome]") -> None:
    assert [outcome.error for outcome in smoke_outcomes] == [None] * (len(NOTEBOOKS) + 2)
    for outcome in smoke_outcomes:
        assert json.loads((outcome.folder / "metrics.json").read_text())
        assert list((outcome.folder / "figures").glob("*.png"))
        executed = nbformat.read(outcome.folder / "out.ipynb", as_version=4)
        streams = [o for c in executed.cells if c.cell_type == "code" for o in c.outputs if o.output_type == "stream"]
        assert not [o.text for o in streams if o.name == "stderr"]
    for outcome in smoke_outcomes:
        if outcome.job.notebook.stem[:2] in ("07", "08"):  # timed runs: `predict` needs nothing but the folder
            said = CliRunner().invoke(app, ["predict", str(outcome.folder), "--gamma", "2"])
            assert said.exit_code == 0 and "x [estimated]" in said.output, said.output


@pytest.mark.slow
def test_all_run_on_two_families_with_two_vocabularies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SmolVLM on event images drafts for Qwen2.5-VL on the clip: other tokens, other widths, the target's answers."""
    import torch

    from egptlib.models import load_pair
    from egptlib.reporting import Limits, find_notebooks, plan, run_notebooks
    from egptlib.scenes import open_scenes
    from tests.models import families

    monkeypatch.setenv("EGPTLIB_DATA", str(tmp_path / "data"))
    open_scenes("streets", num_sequences=2)
    torch.manual_seed(0)
    families.qwen2_5_vl(tmp_path / "Qwen2.5-VL")
    monkeypatch.setattr(families, "HIDDEN", 48)
    families.smolvlm(tmp_path / "SmolVLM")
    lines = 'drafter = "SmolVLM"\ntarget = "Qwen2.5-VL"\ndtype = "float32"\n'
    for name, matching in (("pair", "tokens"), ("by_text", "text")):
        (tmp_path / f"{name}.toml").write_text(lines + f'matching = "{matching}"\n')
    pair = load_pair(tmp_path / "pair.toml")
    assert not pair.vocabulary.is_shared and pair.drafter.hidden_size != pair.target.hidden_size
    of_pair = {"smoke": True, "pair": str(tmp_path / "pair.toml"), "layers": "1 2 3"}
    jobs = plan(find_notebooks(), of_pair)
    jobs += plan(find_notebooks(["07", "08"]), {"smoke": True, "pair": str(tmp_path / "by_text.toml")})
    outcomes = run_notebooks(jobs, tmp_path / "runs", limits=Limits(600))
    assert [outcome.error for outcome in outcomes] == [None] * 10
    told = {outcome.folder.name: json.loads((outcome.folder / "metrics.json").read_text()) for outcome in outcomes}
    assert [metrics["identical"] for metrics in told.values() if "identical" in metrics] == [1.0] * 5
    exact = [metrics["prediction_exact"] for metrics in told.values() if "prediction_exact" in metrics]
    assert exact == [True, False]  # by text it is not, and says so
    shares = [metrics["writable_tokens"] for metrics in told.values() if "writable_tokens" in metrics]
    assert len(shares) == 4 and all(0 < share < 1 for share in shares)
