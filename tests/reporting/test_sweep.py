"""Grid files are read strictly; a sweep that is killed goes on where it stopped, here and on a cluster."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from egptlib._cluster import connect
from egptlib.reporting import collect
from egptlib.reporting._notebooks import plan
from egptlib.reporting._runner import Limits, run_notebooks
from egptlib.reporting._runs import list_runs
from egptlib.reporting._sweep import differing, plan_sweep, read_grid

from .conftest import NotebookMaker

PARAMETERS = 'dataset = "streets"\nthreshold = 0.5\ngamma = 5\nout = ""\nsmoke = False'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", "expected a mapping with notebooks, parameters, grid, found list"),
        ("grids: {a: [1]}", "unknown field 'grids'; expected notebooks, parameters, grid"),
        ("grid: {a: 1}", r"grid\.a: expected a list of values, found 1"),
        ("grid: {a: []}", r"grid\.a: expected a list of values"),
        ("grid: [1]", r"grid: expected names and values, found \[1\]"),
        ("parameters: {a: 1}\ngrid: {a: [1]}", "'a' stands under parameters and under grid"),
        ("notebooks: 4", "notebooks: expected a list of numbers or names, found 4"),
        ("grid: {a: [1", "not readable as YAML"),
        ("grid: {a: [2024-13-45]}", "not readable as YAML"),
        ("grid: " + "[" * 5_000, "not readable as YAML: nested too deeply"),
        (
            "grid: {" + ", ".join(f"p{n}: [{', '.join('0123456789')}]" for n in range(8)) + "}",
            "grid: 100,000,000 points; expected at most 10,000",
        ),
        ("a: &a [x, x, x, x]\nb: &b [*a, *a, *a, *a]\ngrid: &c [*b, *b, *b, *b]", "unknown field 'a'"),
    ],
)
def test_a_bad_grid_names_file_and_field(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "grid.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"grid\.yaml: {message}"):
        read_grid(path)
    with pytest.raises(FileNotFoundError, match=r"none\.yaml: no such grid file"):
        read_grid(tmp_path / "none.yaml")


def test_a_grid_is_every_combination_once(make_notebook: NotebookMaker, tmp_path: Path) -> None:
    toy, other = make_notebook("04_toy", parameters=PARAMETERS), make_notebook("08_other", parameters="gamma = 1")
    path = tmp_path / "grid.yaml"
    path.write_text(
        "notebooks: [04, 08]\nparameters: {smoke: true}\ngrid:\n  gamma: [1, 2]\n  threshold: [0.5, 1e-1, 0.5]\n"
    )
    grid = read_grid(path)
    assert grid.notebooks == ("04", "08")  # YAML takes 04 for a number and 08 for text
    jobs = plan_sweep(grid, folder=toy.parent)
    points = [(j.notebook.stem, j.parameters.get("gamma"), j.parameters.get("threshold")) for j in jobs]
    assert sorted(points, key=str) == [
        ("04_toy", 1, 0.1), ("04_toy", 1, 0.5), ("04_toy", 2, 0.1), ("04_toy", 2, 0.5),
        ("08_other", 1, None), ("08_other", 2, None),
    ]  # fmt: skip
    assert all(job.parameters["smoke"] is True for job in jobs if job.notebook == toy)
    assert differing([job.parameters for job in jobs if job.notebook == toy]) == [
        "gamma",
        "threshold",
    ]  # as in the grid
    assert differing([job.parameters for job in jobs if job.notebook == other]) == ["gamma"]
    assert differing([{"a": 1}, {"a": 1, "b": None}]) == ["b"]


def test_a_misspelt_parameter_fails_before_anything_starts(make_notebook: NotebookMaker, tmp_path: Path) -> None:
    toy, root = make_notebook("04_toy", parameters=PARAMETERS), tmp_path / "runs"
    grid = tmp_path / "grid.yaml"
    grid.write_text(f"notebooks: [{toy}]\ngrid: {{treshold: [0.5, 0.6]}}\n")
    command = [sys.executable, "-m", "egptlib", "sweep", str(grid), "--out", str(root)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 2 and "unknown parameter 'treshold'" in ended.stderr and not root.exists()


@pytest.mark.parametrize("value", [".nan", ".inf", "-.inf", "2024-01-01", "[0.5, .nan]", "&a [*a]", "!!set {x}"])
def test_a_value_that_no_run_folder_holds_is_refused_by_name(
    make_notebook: NotebookMaker, tmp_path: Path, value: str
) -> None:
    toy, grid = make_notebook("04_toy", parameters=PARAMETERS + "\nlabel = None"), tmp_path / "grid.yaml"
    for name in ("label", "threshold"):
        grid.write_text(f"notebooks: [{toy}]\ngrid: {{{name}: [0.5, {value}]}}\n")
        with pytest.raises(ValueError, match=rf"grid\.yaml: grid\.{name}: expected what JSON"):
            plan_sweep(read_grid(grid))


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "1e999"])
def test_so_is_one_from_the_command_line(make_notebook: NotebookMaker, text: str) -> None:
    with pytest.raises(ValueError, match="parameter 'threshold': expected what JSON can hold"):
        plan([make_notebook("04_toy", parameters=PARAMETERS)], {"threshold": text})


def test_a_dry_run_lists_and_leaves_nothing(make_notebook: NotebookMaker, tmp_path: Path) -> None:
    toy, root = make_notebook("04_toy", parameters=PARAMETERS), tmp_path / "runs"
    grid = tmp_path / "grid.yaml"
    grid.write_text(f"notebooks: [{toy}]\ngrid: {{gamma: [1, 2], threshold: [0.5, 0.6]}}\n")
    command = [sys.executable, "-m", "egptlib", "sweep", str(grid), "--out", str(root), "--dry-run"]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = ended.stdout.splitlines()
    assert lines[-1] == "4 runs, 0 done already" and not root.exists()
    assert lines[1].startswith("to do   04_toy on streets (gamma=1, threshold=0.6) -> ")


@pytest.mark.slow
def test_24_points_on_2_workers_killed_midway_and_resumed(make_notebook: NotebookMaker, tmp_path: Path) -> None:
    """A real sweep: real kernels, SIGKILL to the command, and the same command again."""
    cells = (
        "from egptlib.reporting import open_run\nrun = open_run(out, '04_toy')",
        "assert (gamma, threshold) != (6, 0.9), 'this point fails'\nrun.save_results(product=gamma * threshold)",
    )
    toy, root = make_notebook("04_toy", *cells, parameters=PARAMETERS), tmp_path / "runs"
    grid = tmp_path / "grid.yaml"
    grid.write_text(f"notebooks: [{toy}]\ngrid: {{gamma: [1, 2, 3, 4, 5, 6], threshold: [0.6, 0.7, 0.8, 0.9]}}\n")
    command = [sys.executable, "-m", "egptlib", "sweep", str(grid), "--out", str(root), "--workers", "2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as sweep:
        most, deadline = 0, time.monotonic() + 300
        while not root.is_dir() or len(list_runs(root)) < 8:
            assert sweep.poll() is None and time.monotonic() < deadline
            most = max(most, len(list(root.glob(".*.partial"))))
            time.sleep(0.05)
        children = psutil.Process(sweep.pid).children(recursive=True)
        sweep.send_signal(signal.SIGKILL)
    assert most == 2  # as many as workers, never more
    gone, alive = psutil.wait_procs(children, timeout=15)
    assert gone and not alive  # neither notebooks nor kernels run on
    before = {path: path.stat().st_mtime_ns for path in (run / "status.json" for run in list_runs(root))}
    assert 8 <= len(before) < 24

    resumed = subprocess.run(command, capture_output=True, text=True, check=False)
    assert resumed.returncode == 1  # for the one point that fails
    assert resumed.stdout.count("done earlier") == len(before)
    assert all(path.stat().st_mtime_ns == changed for path, changed in before.items())
    assert re.findall(r"04_toy, cell 4: AssertionError: this point fails", resumed.stderr)
    assert "1 of 24 notebooks failed" in resumed.stderr
    frame = collect(root)
    assert len(frame) == 24 and frame["run"].is_unique
    assert set(zip(frame["gamma"], frame["threshold"])) == {(g, t) for g in range(1, 7) for t in (0.6, 0.7, 0.8, 0.9)}
    done = frame[frame["state"] == "done"]
    assert len(done) == 23 and (done["product"] == done["gamma"] * done["threshold"]).all()
    assert not list(root.glob(".*"))
    report = (root / "report" / "index.html").read_text(encoding="utf-8")
    assert "24 notebook runs" in report and "1 failed" in report


@pytest.mark.slow
def test_the_same_jobs_on_a_dask_cluster_on_loopback(make_notebook: NotebookMaker, tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed")
    cells = "from egptlib.reporting import open_run\nopen_run(out, '04_toy').save_results(twice=2 * gamma)"
    toy = make_notebook("04_toy", cells, parameters=PARAMETERS)
    jobs = [job for gamma in range(3) for job in plan([toy], {"gamma": gamma})]
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address=None, silence_logs=50
    ) as cluster:
        assert cluster.scheduler_address.startswith("tcp://127.0.0.1:")
        outcomes = run_notebooks(jobs, tmp_path / "runs", cluster=cluster.scheduler_address)
    assert [(o.state, o.job.parameters["gamma"]) for o in outcomes] == [("done", 0), ("done", 1), ("done", 2)]
    assert list(collect(tmp_path / "runs").set_index("gamma")["twice"].sort_index()) == [0, 2, 4]


@pytest.mark.slow
def test_the_documented_cluster_with_tls_answers_who_has_its_certificate(repository: Path, tmp_path: Path) -> None:
    pytest.importorskip("distributed")  # its defaults are not to come in with what is set below
    dask = pytest.importorskip("dask")
    pytest.importorskip("cryptography")
    script = tmp_path / "cluster.py"
    script.write_text(re.findall(r"```python\n(.*?)```", (repository / "docs/cluster.md").read_text(), re.DOTALL)[0])
    command = [sys.executable, str(script)]
    with subprocess.Popen(command, cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as cluster:
        assert cluster.stdout is not None
        lines = [cluster.stdout.readline().strip() for _ in range(4)]
        files = dict(line.removeprefix("export DASK_").split("=") for line in lines[:3])
        address = lines[3].split()[-1]
        assert address.startswith("tls://127.0.0.1:")
        assert all(Path(file).stat().st_mode & 0o077 == 0 for file in files.values())
        settings = {name.lower().replace("__", "."): file for name, file in files.items()}
        with dask.config.set(settings), connect(address) as client:
            assert client.submit(sum, [40, 2]).result(timeout=30) == 42
        with pytest.raises(OSError, match=r"see docs/cluster\.md"):
            connect(address)
        cluster.communicate("\n", timeout=60)
    assert cluster.returncode == 0


def test_a_cluster_that_is_not_there_is_named(
    make_notebook: NotebookMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    distributed = pytest.importorskip("distributed")
    jobs = plan([make_notebook("04_toy", parameters=PARAMETERS)])
    with pytest.raises(OSError, match=r"cluster 'nothing://here': no Dask scheduler answers"):
        run_notebooks(jobs, tmp_path / "runs", cluster="nothing://here")

    def late(*_: object, **__: object) -> None:
        assert 0, "what Dask says, without a word, when its event loop is not up in ten seconds"

    monkeypatch.setattr(distributed, "Client", late)
    with pytest.raises(OSError, match=r"cluster 'tcp://here:1': no Dask scheduler answers there \(AssertionError\)"):
        connect("tcp://here:1")


@pytest.mark.slow
def test_a_notebook_that_takes_too_long_is_stopped_with_its_kernel(
    make_notebook: NotebookMaker, tmp_path: Path
) -> None:
    toy = make_notebook("04_toy", "x = 1", "import time\ntime.sleep(600)", parameters=PARAMETERS)
    before = set(psutil.Process(os.getpid()).children(recursive=True))
    (outcome,) = run_notebooks(plan([toy]), tmp_path / "runs", limits=Limits(notebook=25))
    assert outcome.state == "failed" and outcome.error is not None
    assert outcome.error.startswith("04_toy, cell 4: stopped after 25 s")
    time.sleep(3)
    assert set(psutil.Process(os.getpid()).children(recursive=True)) <= before
