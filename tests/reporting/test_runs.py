"""What a notebook saves comes back, and what cannot be saved is named."""

import json
import re
import struct
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure

from egptlib._machine import Load
from egptlib._paths import write_json
from egptlib.reporting import Run, collect, is_headless, open_run, overview, show_table
from egptlib.reporting._runs import describe_environment, list_runs, readable_runs


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return open_run(str(tmp_path / "runs" / "a"), "01_toy")


def test_results_are_merged_and_become_plain_json(run: Run) -> None:
    run.save_results(rate=np.float32(0.25), count=np.int64(3), name="x", skipped=None)
    run.save_results(count=4, table={1: torch.tensor([1, 2])}, flags=(True, np.bool_(False)))
    assert json.loads((run.folder / "metrics.json").read_text()) == {
        "rate": 0.25, "count": 4, "name": "x", "skipped": None, "table": {"1": [1, 2]}, "flags": [True, False],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"rates": [1.0, float("nan")]}, r"'x\.rates\[1\]' is nan"),
        (np.inf, "'x' is inf"),
        (object(), "'x': cannot write a object as JSON"),
    ],
)
def test_a_result_that_is_no_json_is_named(run: Run, value: object, message: str) -> None:
    run.save_results(before=1)
    with pytest.raises(ValueError, match=message):
        run.save_results(x=value)
    assert json.loads((run.folder / "metrics.json").read_text()) == {"before": 1}


def test_a_figure_is_saved_for_screen_and_paper_with_its_data(run: Run) -> None:
    figure = Figure(figsize=(4, 2))
    figure.subplots().plot([0, 1], [0, 1])
    data = pd.DataFrame({"x": [0, 1], "y": [0.1, 1 / 3]})
    run.save_figure("line", figure, data=data)
    png = (run.folder / "figures" / "line.png").read_bytes()
    width, height = struct.unpack(">II", png[16:24])  # IHDR
    assert png[:8] == b"\x89PNG\r\n\x1a\n" and 600 < width < 1000 and 250 < height < 500
    assert (run.folder / "figures" / "line.pdf").read_bytes().startswith(b"%PDF")
    pd.testing.assert_frame_equal(pd.read_csv(run.folder / "figures" / "line.csv"), data)


def test_a_table_keeps_its_precision(run: Run) -> None:
    frame = pd.DataFrame({"x": [1 / 3, 2e-17], "name": ["a", "b"]})
    run.save_table("t", frame, show=False)
    pd.testing.assert_frame_equal(pd.read_csv(run.folder / "t.csv"), frame)


def test_a_shown_table_has_readable_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    monkeypatch.setattr("IPython.display.display", lambda html: shown.append(html.data))
    frame = pd.DataFrame({"what": ["count", None], "x": [2023.0, 0.00221849], "y": [None, None]})
    show_table(frame)
    show_table(frame, digits=3)
    cells = [re.findall("<td[^>]*>(.*?)</td>", text) for text in shown]
    assert cells[0] == ["count", "2023.000000", "–", "–", "0.002218", "–"]
    assert 'style="text-align: left">count</td><td>2023' in shown[0].replace("\n", "").replace("  ", "")
    show_table(pd.DataFrame({"n": pd.array([1, None], dtype="Int64"), "s": pd.array(["a", None], dtype="string")}))
    assert re.findall("<td[^>]*>(.*?)</td>", shown[2]) == ["1", "a", "–", "–"]
    assert cells[1] == ["count", "2023", "–", "–", "0.00222", "–"]


@pytest.mark.parametrize("name", ["../up", "", "a/b", ".hidden", "a b"])
def test_names_stay_inside_the_run(run: Run, name: str) -> None:
    with pytest.raises(ValueError, match="expected letters"):
        run.save_table(name, pd.DataFrame(), show=False)


def test_shared_folders_are_the_same_for_all_runs_of_a_root(tmp_path: Path) -> None:
    first, second = (open_run(str(tmp_path / "runs" / name), "n") for name in ("a", "b"))
    assert first.shared_folder("hidden_states/x") == second.shared_folder("hidden_states/x")
    assert first.shared_folder("hidden_states/x").is_dir()
    assert first.folder not in first.shared_folder("hidden_states/x").parents
    with pytest.raises(ValueError, match="expected letters"):
        first.shared_folder("../elsewhere")


def test_a_run_by_hand_goes_to_interactive(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("egptlib.reporting._runs.default_root", lambda: tmp_path)
    assert open_run("", "01_toy").folder == tmp_path / "interactive" / "01_toy"


def test_the_environment_is_that_of_this_process(run: Run, repository: Path) -> None:
    environment = describe_environment()
    assert json.loads((run.folder / "environment.json").read_text()) == environment
    assert environment["torch"] == torch.__version__
    assert environment["numpy"] == np.__version__


def test_a_file_of_ones_own_is_no_change_of_the_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("egptlib.reporting._runs.project_root", lambda: tmp_path)
    assert describe_environment()["revision"] is None
    (tmp_path / "egptlib").mkdir()
    (tmp_path / "egptlib/a.py").write_text("")
    who = ("-c", "user.name=n", "-c", "user.email=e@example.org")
    for words in (("init",), ("add", "."), (*who, "commit", "--message", "m")):
        subprocess.run(["git", "-C", tmp_path, *words], check=True, capture_output=True)
    clean = describe_environment()["revision"]
    (tmp_path / "grid.yaml").write_text("")
    assert re.fullmatch(r"[0-9a-f]{12}", clean) and describe_environment()["revision"] == clean
    (tmp_path / "egptlib/b.py").write_text("")
    assert describe_environment()["revision"] == f"{clean}+changes"
    (tmp_path / "egptlib/b.py").unlink()
    (tmp_path / "egptlib/a.py").write_text("1")
    assert describe_environment()["revision"] == f"{clean}+changes"


def test_collect_has_one_row_per_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, state, scenes in (("a", "done", 4), ("b", "failed", 8)):
        folder = tmp_path / name
        write_json(folder / "params.json", {"num_scenes": scenes, "dataset": "streets"})
        write_json(folder / "status.json", {"state": state, "notebook": "01_toy", "seconds": 1.5})
        write_json(folder / "metrics.json", {"rate": scenes / 10, "num_scenes": 3})
    (tmp_path / "interactive").mkdir()  # not a run: it has no status
    (tmp_path / ".a.1.partial").mkdir()
    write_json(tmp_path / ".a.1.partial" / "status.json", {"state": "done"})
    frame = collect(tmp_path)
    assert list(frame["run"]) == ["a", "b"] and list(frame["state"]) == ["done", "failed"]
    assert list(frame["num_scenes"]) == [4, 8] and list(frame["metric_num_scenes"]) == [3, 3]
    assert list(frame["rate"]) == [0.4, 0.8]
    monkeypatch.setenv("EGPTLIB_RUNS", str(tmp_path))
    assert collect().equals(frame)  # where the verbs put them, whatever folder one stands in


def test_no_runs_at_all_is_an_error_that_names_the_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere: no such run folder"):
        list_runs(tmp_path / "nowhere")


@pytest.mark.parametrize(("value", "headless"), [("1", True), ("", False), ("0", False)])
def test_headless(monkeypatch: pytest.MonkeyPatch, value: str, headless: bool) -> None:
    monkeypatch.setenv("EGPT_HEADLESS", value)
    assert is_headless() is headless


def test_a_headline_leaves_out_times_of_a_busy_machine_and_says_so(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    busy = Load(wall_seconds=10.0, cpu_seconds=11.0, others=0.41, idle=0.04, load_average=5.0, cores=2)
    figures: dict[str, float | str] = {"best": "gamma 8", "speedup": 4.11, "identical": "100%"}
    monkeypatch.setattr("egptlib.reporting._runs.Meter.read", lambda _: busy)
    run.save_headline(figures, times=["best", "speedup"])
    why = "disturbed: other programs took 41% of the cores"
    assert json.loads((run.folder / "headline.json").read_text()) == {"times": why, "identical": "100%"}
    assert json.loads((run.folder / "machine.json").read_text()) == {**vars(busy), "times_disturbed": True}
    run.save_headline(figures)  # none of them is a time
    assert json.loads((run.folder / "headline.json").read_text()) == figures
    monkeypatch.setattr("egptlib.reporting._runs.Meter.read", lambda _: replace(busy, others=0.02))
    run.save_headline(figures, times=["best", "speedup"])
    assert json.loads((run.folder / "headline.json").read_text()) == figures
    with pytest.raises(ValueError, match=r"times: expected names of figures, found \['speed'\]"):
        run.save_headline(figures, times=["speed"])


def test_a_run_with_a_lone_surrogate_is_named_and_the_others_stay(tmp_path: Path) -> None:
    for name, notebook in (("good", "01_toy"), ("half", "\ud800")):
        (tmp_path / name).mkdir()
        status = {"state": "done", "notebook": notebook, "seconds": 1.0, "started": "2026"}
        (tmp_path / name / "status.json").write_text(json.dumps(status))
    told = overview(tmp_path)
    assert "good" in told and "half/status.json: holds text that is no valid Unicode" in told
    assert [folder.name for folder in readable_runs(tmp_path)[0]] == ["good"]
