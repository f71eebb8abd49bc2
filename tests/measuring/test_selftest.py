"""The self-test says what is right, finds what is not, and leaves one page."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from egptlib.cli import app
from egptlib.decoding import Divergence
from egptlib.measuring import Divergences, Parted, SelfTest


@pytest.mark.slow
def test_the_mini_pair_passes(one_street: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EGPTLIB_DATA", str(one_street))
    command = ["selftest", "--device", "cpu", "--scenes", "1", "--questions", "1", "--tokens", "12", "--repeats", "1"]
    result = CliRunner().invoke(app, [*command, "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    told = json.loads((tmp_path / "selftest.json").read_text())
    assert told["wrong"] == [] and told["environment"]["device"].startswith("cpu")
    methods = told["divergences"]["parted"]
    assert len(methods) == 9 and not any(methods.values())
    assert all(run["identical"] for run in told["hiding"]) and told["peak"]["this process, on the CPU"] > 100
    assert "generation" not in told["hiding"][0] and told["costs"]["costs"]["verify"]["8"] > 0
    page = (tmp_path / "selftest.md").read_text()
    for words in (
        "# Self-test of mini",
        "wrong: nothing",
        "| pipelined | 1 of 1 | 0.0 |",
        "Verification in target steps",
    ):
        assert words in page


@pytest.mark.parametrize(("spacings", "wrong"), [(3.0, []), (5.0, ["pipelined"])])
def test_a_tie_in_low_precision_is_no_fault_and_all_else_is(spacings: float, wrong: list[str]) -> None:
    at = Divergence(position=2, token=5, reference=6, gap=0.25 * spacings, spacing=0.25)
    found = Divergences(1, 9, {"plain loop": [], "pipelined": [Parted("s", "q", 9, at, "a", "b")]}, [0.1])
    costs: Any = SimpleNamespace()
    assert SelfTest({}, found, costs, [], {}).wrong() == wrong
