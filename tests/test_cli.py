"""The verbs are there, start fast, and answer bad input in one line."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
import torch
from typer.testing import CliRunner

import egptlib
from egptlib.cli import app, main
from egptlib.hidden_states import HiddenStateWriter
from egptlib.metrics import acceptance_metrics

VERBS = [
    "check",
    "show-events",
    "make-data",
    "cut-dsec",
    "make-scenes",
    "plan-memory",
    "train-mini",
    "train-mini-heads",
    "make-pair",
    "train-midi",
    "extract",
    "evaluate",
    "benchmark",
    "adapters",
    "train",
    "run",
    "report",
    "papers",
    "roadmap",
]


Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """command(*arguments) -> exit code, stdout, stderr, of the entry point in this process."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["egptlib", *arguments])
        with pytest.raises(SystemExit) as exit:
            main()
        out, err = capsys.readouterr()
        return int(exit.value.code or 0), out, err

    return run


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb: str) -> None:
    result = CliRunner().invoke(app, [verb, "--help"])
    assert result.exit_code == 0 and verb in result.output


def test_no_arguments_lists_the_verbs() -> None:
    output = CliRunner().invoke(app, []).output
    assert all(verb in output for verb in VERBS)
    assert CliRunner().invoke(app, ["--version"]).output == f"egptlib {egptlib.__version__}\n"


def test_help_has_groups_and_whole_summaries() -> None:
    output = CliRunner().invoke(app, ["--help"]).output
    assert all(f"{group}:\n" in output for group in ("Explore", "Measure", "Predict", "Publish", "Maintain"))
    assert output.count("...") == 1 and "Others:" not in output  # [ARGS]...
    listed = re.findall(r"^  ([a-z-]+)  ", output, re.MULTILINE)
    assert set(listed) >= set(VERBS)


def test_import_and_help_load_nothing_heavy() -> None:
    code = (
        "import sys, time; start = time.perf_counter(); import egptlib; seconds = time.perf_counter() - start\n"
        "import egptlib.cli, egptlib.scenes, egptlib.reporting\n"
        "print(seconds, *sorted({'torch', 'transformers', 'pandas', 'papermill', 'av', 'h5py'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds, *heavy = result.stdout.split()
    assert float(seconds) < 0.5 and heavy == []


def test_importing_opens_no_network() -> None:
    code = (
        "import socket\n"
        "def refuse(*a, **k): raise AssertionError('a connection at import')\n"
        "socket.socket.connect = refuse; socket.getaddrinfo = refuse\n"
        "import egptlib.cli, egptlib.scenes, egptlib.models, egptlib.hidden_states\n"
        "import egptlib.metrics, egptlib.reporting\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("evaluate", "nowhere"), "nowhere"),
        (("run", "99"), "notebook '99'"),
        (("run", "-p", "novalue"), "-p 'novalue': expected NAME=VALUE"),
        (("run", "-p", "num_scene=3"), "unknown parameter 'num_scene'"),
        (
            ("run", "--dataset", "missing"),
            "missing: no such dataset folder, and not one of streets, mini, clips",
        ),
        (("run", "--pair", "big"), "pair 'big': expected 'mini', 'midi', a pair.toml, or the checkpoint folders"),
        (("run", "--pair", "none.toml"), "pair 'none.toml': no such file: "),
        (("benchmark", "costs", "--pair", "big"), "pair 'big': expected 'mini'"),
        (("report", "nowhere"), "nowhere: no such run folder"),
        (("make-data", "kitti"), "expected streets or clips, got 'kitti'"),
        (("make-data", "clips", "--sequences", "3"), "--sequences is for streets"),
        (("cut-dsec", "nowhere", "--out", "o", "--window", "soon"), "'soon'"),
        (("cut-dsec", "nowhere", "--out", "o"), "nowhere: no DSEC sequence"),
        (("make-scenes", "--events", "nowhere.raw", "--video", "a.mp4", "--out", "o"), "nowhere.raw: no such file"),
        (("extract", "--out", "o", "--pair", "nothing", "--dataset", "nowhere"), "pair 'nothing'"),
        (("extract", "--out", "o", "--dataset", "nowhere"), "nowhere"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    arguments: tuple[str, ...], message: str, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = command(*arguments)
    assert code == 2 and out == "" and message in err
    assert err.startswith("egptlib: ") and err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_process_ends_with_one_line_and_debug_shows_where(tmp_path: Path) -> None:
    def run(*options: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "egptlib", *options, "report", "nowhere"]
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)

    assert (run().returncode, run().stderr) == (2, "egptlib: nowhere: no such run folder; `egptlib run` makes one\n")
    assert "Traceback" in run("--debug").stderr


def test_check_names_problems_and_exits_with_1(command: Command, tmp_path: Path) -> None:
    (tmp_path / "EventGPT_Instruction_Subset.json").write_text(json.dumps([{"id": "x", "event_data": "seq/0.npy"}]))
    code, out, err = command("check", str(tmp_path))
    assert code == 1 and out.startswith("x: ") and "problem" in err


def test_evaluate_prints_what_acceptance_metrics_says(command: Command, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    lengths = (5, 1, 7)
    drafter, target = (torch.zeros(3, 7, 16) for _ in range(2))
    mask = torch.arange(7)[None, :] < torch.tensor(lengths)[:, None]
    with HiddenStateWriter(tmp_path / "hidden", config={"pair": "test"}, chunk_size=2) as writer:
        for i, length in enumerate(lengths):
            states = torch.randn(2, length, 16, generator=generator)
            drafter[i, :length], target[i, :length] = states[0], states[0] + 0.5 * states[1]
            ids = torch.arange(length)
            writer.add(
                drafter[i, :length],
                target[i, :length],
                token_ids=ids,
                drafter_top1=ids,
                overlap=torch.ones(length),
                metadata={"scene": f"s{i}", "question": "q"},
            )
    expected = acceptance_metrics(drafter, target, mask, thresholds=(0.85,))
    hidden, figures = str(tmp_path / "hidden"), tmp_path / "m.json"
    code, out, err = command("evaluate", hidden, "--threshold", "0.85", "--json", str(figures))
    assert code == 0, err
    written = json.loads(figures.read_text())
    assert written["metrics"].keys() == expected.keys()
    for name, value in expected.items():
        assert written["metrics"][name] == pytest.approx(value), name
    assert [row["num_samples"] for row in written["per_position"]] == [3, 2, 2, 2, 2, 1, 1]
    exact, proxy = out.split("cosine of hidden states")  # tokens come first
    assert "positional_match_rate   1.0000" in exact
    table = dict(line.split() for line in proxy.splitlines()[1:-1])
    assert table["accept_85"] == f"{expected['accept_85']:.4f}" and table["batch_size"] == "3"


def test_lab_says_its_address_and_as_root_what_to_do(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    started: list[list[str]] = []
    monkeypatch.setattr("egptlib.reporting._lab.project_root", lambda: tmp_path)
    monkeypatch.setenv("JUPYTER_TOKEN", "a-token")
    monkeypatch.setattr("os.execvpe", lambda file, arguments, environment: started.append(arguments))
    monkeypatch.setattr("os.geteuid", lambda: 0)
    code, _, err = command("lab")
    assert code == 2 and "--allow-root" in err and not started
    code, out, _ = command("lab", "--allow-root", "--no-browser")
    assert code == 0 and "--allow-root" in started[0] and not any("a-token" in word for word in started[0])
    (address,) = re.findall(r"http://127\.0\.0\.1:(\d+)/lab/tree/lab/README\.md\?token=a-token", out)
    assert f"--ServerApp.port={address}" in started[0] and f"ssh -L {address}:" in out
    assert f"--ServerApp.root_dir={tmp_path}" in started[0] and (tmp_path / "lab/04_feature_acceptance.ipynb").is_file()


def test_run_and_report_say_where_things_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole verb, with the kernel replaced by a child that fails one notebook of two."""
    from egptlib._paths import write_json

    parameters = nbformat.v4.new_code_cell("dataset = 'streets'\nsmoke = False", metadata={"tags": ["parameters"]})
    for name in ("01_good", "02_bad"):
        nbformat.write(nbformat.v4.new_notebook(cells=[parameters]), tmp_path / f"{name}.ipynb")

    def child(command: list[str], **_: object) -> subprocess.CompletedProcess[bytes]:
        status: dict[str, object] = {"notebook": Path(command[-3]).stem, "state": "done", "seconds": 1}
        if "bad" in command[-3]:
            status |= {"state": "failed", "error": {"cell": 2, "name": "KeyError", "value": "'x'"}}
        write_json(Path(command[-2]) / "status.json", status)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr("egptlib.reporting._runner.subprocess.run", child)
    notebooks = [str(tmp_path / "02_bad.ipynb"), str(tmp_path / "01_good.ipynb")]
    arguments = [
        "run",
        *notebooks,
        "--dataset",
        "streets",
        "--dataset",
        "clips",
        "--smoke",
        "--out",
        str(tmp_path / "runs"),
    ]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1
    assert result.output.count("01_good on") == 2 and result.output.count("02_bad, cell 2: KeyError: 'x'") == 2
    assert "2 of 4 notebooks failed" in result.output
    assert f"report -> {tmp_path / 'runs' / 'report' / 'index.html'}" in result.output
    folders = [p for p in (tmp_path / "runs").iterdir() if p.name != "report"]
    assert len(folders) == 4
    assert all(json.loads((folder / "params.json").read_text())["smoke"] is True for folder in folders)
    again = CliRunner().invoke(app, arguments)
    assert again.output.count("done earlier") == 2 and again.output.count("FAILED") == 2
