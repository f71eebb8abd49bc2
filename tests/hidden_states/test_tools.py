"""Convert, plan, shards, and the check verb."""

import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from egptlib.cli import app
from egptlib.hidden_states import HiddenStates, HiddenStateWriter, convert, extract, extract_shards, plan_extraction
from egptlib.hidden_states._shards import _claimed, claim_gpus, own_devices
from egptlib.models import Pair
from egptlib.traces import Trace
from tests.hidden_states.conftest import make_scene


def test_earlier_chunks_are_converted_resumably(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = shared / "golden" / "legacy_chunks", tmp_path / "new"
    with monkeypatch.context() as patch:
        patch.setattr("egptlib.hidden_states._convert._samples", lambda hs, start: _broken(hs))
        with pytest.raises(RuntimeError, match="power"):
            convert(old, new)
    assert len(HiddenStates.open(new)) == 33
    line = convert(old, new)
    assert line.startswith("converted 27 samples, 33 were there already") and "sums right" in line
    for before, after in zip(HiddenStates.open(old), HiddenStates.open(new), strict=True):
        assert torch.equal(before.target_hidden.bfloat16(), after.target_hidden)
        assert before.metadata == after.metadata


def test_a_sample_that_did_not_arrive_whole_is_named(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, count = HiddenStateWriter.add, iter(range(60))

    def add(self: HiddenStateWriter, drafter: torch.Tensor, target: torch.Tensor, **rest: Any) -> None:
        original(self, drafter, target + (next(count) == 41), **rest)

    monkeypatch.setattr(HiddenStateWriter, "add", add)
    with pytest.raises(ValueError, match="sample 41: target_hidden is not that of"):
        convert(shared / "golden" / "legacy_chunks", tmp_path)


def test_the_verbs_hand_on_what_they_are_told(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pair: Pair
) -> None:
    told: list[Any] = []
    monkeypatch.setattr("egptlib.hidden_states.extract_shards", lambda *args, **named: told.append((args, named)))
    monkeypatch.setattr("egptlib.scenes.open_scenes", lambda *args, **named: [make_scene(i) for i in range(2)])
    words = "--cluster tcp://127.0.0.1:1 --retry-failed --layers 3,6,9 --chunk-size 7 --commit-every 5"
    words += " --max-failures-in-row 4 --dtype bfloat16 --num-questions 2"
    (tmp_path / "pair.toml").write_text('name = "mini"\nquantization = "nf4"\ntarget_device = "cuda:1"\n')
    words += f" --pair {tmp_path / 'pair.toml'}"
    run = CliRunner().invoke
    assert run(app, ["extract", "--out", str(tmp_path / "new"), *words.split()]).exit_code == 0
    ((models, _, out, workers, cluster), named) = told[0]
    assert (models["name"], models["quantization"], out) == ("mini", "nf4", tmp_path / "new")
    assert (models["device"], models["target_device"]) == ("cpu", "cuda:1")
    assert (workers, cluster, named["layers"]) == (1, "tcp://127.0.0.1:1", {"target": (3, 6, 9)})
    names = ("retry_failed", "chunk_size", "commit_every", "max_failures_in_row", "dtype", "num_questions")
    assert [named[name] for name in names] == [True, 7, 5, 4, "bfloat16", 2]

    monkeypatch.setattr("egptlib.models.load_pair", lambda _: pair)
    monkeypatch.setattr("egptlib.hidden_states._samples.Seen", lambda scene: 1 // 0)  # every clip is damaged
    result = run(app, ["extract", "--out", str(tmp_path / "failing"), "--max-failures-in-row", "2"])
    assert result.exit_code == 2 and "egptlib: streets: 2 failures in a row, the last one: scene " in result.stderr
    monkeypatch.undo()
    monkeypatch.setattr("egptlib.scenes.open_scenes", lambda *args, **named: [make_scene(i) for i in range(2)])
    monkeypatch.setattr("egptlib.models.load_pair", lambda _: pair)
    result = run(app, ["plan-extraction", "--num-questions", "2", "--max-new-tokens", "3"])
    assert result.exit_code == 0 and re.search(r"^4 samples, [\d.]+ MB, [\d.]+ s in one process", result.stdout, re.M)
    old = str(shared / "golden" / "legacy_chunks")
    result = run(app, ["convert", old, str(tmp_path / "converted")])
    assert result.exit_code == 0 and "converted 60 samples, 0 were there already" in result.output


def test_the_script_that_slurm_would_get_asks_for_a_gpu_and_one_thread() -> None:
    """Of the call in docs/cluster.md; Slurm itself need not be here for it."""
    jobqueue = pytest.importorskip("dask_jobqueue")
    text = (Path(__file__).parents[2] / "docs" / "cluster.md").read_text()
    (call,) = re.findall(r"^cluster = SLURMCluster\((.*?)^\)", text, re.M | re.S)
    options = eval(f"dict({call})", {"security": None, "folder": "certificates"})
    of_a_job = ("cores", "processes", "memory", "walltime", "job_extra_directives")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DASK_DISTRIBUTED__SCHEDULER__DASHBOARD", "")
        job = jobqueue.slurm.SLURMJob
        script = job(scheduler="tcp://127.0.0.1:1", name="worker", **{k: options[k] for k in of_a_job}).job_script()
    assert "#SBATCH --gres=gpu:1" in script and "--nthreads 1" in script


def _broken(hs: HiddenStates) -> Iterator[Any]:
    yield from ((i, hs[i]) for i in range(33))
    raise RuntimeError("power")


def test_the_plan_tells_the_size(pair: Pair, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "egptlib")
    scenes = [make_scene(i) for i in range(4)]
    plan = plan_extraction(pair, scenes, num_questions=2, trial_scenes=2, max_new_tokens=4)
    assert (plan.num_samples, plan.num_trial) == (8, 4) and plan.seconds > 0
    assert caplog.messages == []  # its trial's folder is gone
    extract(pair, scenes, tmp_path, num_questions=2, max_new_tokens=4)
    assert len(caplog.messages) == 1
    size = sum(path.stat().st_size for path in tmp_path.rglob("*.safetensors"))
    assert plan.num_bytes == pytest.approx(size, rel=0.02)


def test_check_of_a_store(pair: Pair, tmp_path: Path) -> None:
    extract(pair, [make_scene(0)], tmp_path, num_questions=2, max_new_tokens=2)
    runner = CliRunner()
    assert runner.invoke(app, ["check", str(tmp_path), "--deep"]).exit_code == 0
    (chunk,) = (tmp_path / "chunks").iterdir()
    content = bytearray(chunk.read_bytes())
    content[2000] ^= 1
    chunk.write_bytes(content)
    assert runner.invoke(app, ["check", str(tmp_path)]).exit_code == 0
    result = runner.invoke(app, ["check", str(tmp_path), "--deep"])
    assert result.exit_code == 1 and "another SHA-256" in result.output
    content[2000] ^= 1
    chunk.write_bytes(content)
    (tmp_path / "index.json").write_text("{")
    result = runner.invoke(app, ["check", str(tmp_path), "--repair"])
    assert result.exit_code == 0 and "rebuilt from 1 chunks with 2 samples" in result.output


def test_gpus_are_claimed_before_cuda_is_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    taken = []
    for count, expected in ((1, "4"), (2, "7,8")):  # as if from two processes
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7,8,9")
        claim_gpus(count)
        assert os.environ["CUDA_VISIBLE_DEVICES"] == expected
        taken += _claimed
        _claimed.clear()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7,8,9")
    with pytest.raises(RuntimeError, match="no 2 free GPUs among 4, 7, 8, 9"):
        claim_gpus(2)
    claim_gpus(1)  # 9 is free still
    taken += _claimed
    _claimed.clear()
    for file in taken:
        os.close(file)


def test_no_two_workers_share_a_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine whose CUDA says that it has one card: workers beyond it are refused, before and in the worker."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ValueError, match="workers: expected at most 1, with one GPU for each here, found 2"):
        extract_shards({"name": "mini", "device": "cuda"}, [], tmp_path / "out", workers=2)
    assert not (tmp_path / "out").exists()
    two = {"name": "mini", "device": "cuda:0", "target_device": "cuda:1"}
    with pytest.raises(ValueError, match="workers: expected at most 0, with 2 GPUs for each here, found 1"):
        extract_shards(two, [], tmp_path / "out", workers=1)
    claim_gpus(1)
    held = _claimed.pop()
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")  # another worker of a cluster on the same machine
    with pytest.raises(RuntimeError, match="no free GPU among 0"):
        claim_gpus(1)
    os.close(held)


@pytest.mark.parametrize(
    ("named", "own", "count"),
    [
        (("cpu", None), ("cpu", None), 0),
        (("cuda", None), ("cuda:0", None), 1),
        (("cuda:1", None), ("cuda:0", None), 1),
        (("cuda:1", "cuda"), ("cuda:1", "cuda:0"), 2),
        (("cpu", "cuda:3"), ("cpu", "cuda:0"), 1),
    ],
)
def test_a_worker_counts_its_own_gpus_from_0(named: Any, own: Any, count: int) -> None:
    fields, num_gpus = own_devices({"name": "mini", "device": named[0], "target_device": named[1]})
    assert (fields["device"], fields["target_device"], num_gpus) == (*own, count)


def test_shards_in_this_process_are_joined(pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plan and the join, without processes: workers=1 runs the jobs here."""
    monkeypatch.setattr("egptlib.hidden_states._shards._load", lambda pair_: pair)
    scenes = [make_scene(i) for i in range(5)]
    options: dict[str, Any] = {"num_questions": 2, "max_new_tokens": 3, "batch_size": 2}
    extract(pair, scenes, tmp_path / "one", **options)
    extract_shards({}, scenes, tmp_path / "many", workers=1, num_shards=3, **options)
    assert_equal(tmp_path / "one", tmp_path / "many")
    assert not list((tmp_path / "many").glob("chunks"))
    traces = [Trace.load(tmp_path / name / "trace.parquet") for name in ("one", "many")]
    assert traces[0].rows == traces[1].rows
    index = tmp_path / "many" / "index.json"
    content = index.read_bytes()
    index.write_bytes(content[:200])
    result = CliRunner().invoke(app, ["check", str(tmp_path / "many"), "--repair"])
    assert result.exit_code == 0 and "joined again from the shards' own, 10 samples" in result.output
    assert index.read_bytes() == content and (tmp_path / "many" / "index.replaced-1.json").is_file()
    again = extract_shards({}, scenes, tmp_path / "many", workers=1, **options)
    assert (again.num_extracted, again.num_present) == (0, 10)
    with pytest.raises(ValueError, match=r"shards\.json: begun with 5 scenes"):
        extract_shards({}, scenes[:4], tmp_path / "many", workers=1, **options)
    with pytest.raises(ValueError, match="joined from shards"):
        extract(pair, scenes, tmp_path / "many", **options)
    with pytest.raises(ValueError, match="written by a single process"):
        extract_shards({}, scenes, tmp_path / "one", workers=1, **options)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["processes", "dask"])
def test_a_killed_worker_costs_nothing(tmp_path: Path, backend: str) -> None:
    """Two workers, one killed by SIGKILL midway: the joined folder equals that of one process."""
    import psutil

    from egptlib.models import load_pair

    scenes = [make_scene(i, 3) for i in range(36)]
    options: dict[str, Any] = {"num_questions": 3, "max_new_tokens": 30, "batch_size": 6, "commit_every": 6}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the workers: sums over another number of threads differ in the last bit
    extract(load_pair("mini"), scenes, tmp_path / "one", **options)
    torch.set_num_threads(threads)
    out = tmp_path / "many"
    killed: list[int] = []

    def kill() -> None:
        begun = time.monotonic()
        while not killed and time.monotonic() < begun + 120:
            time.sleep(0.05)
            if len(list(out.glob("shards/*/chunks/*"))) < 3:
                continue
            for child in psutil.Process().children(recursive=True):
                held = [file.path for file in child.open_files()]
                if any(path.endswith("writer.lock") for path in held):
                    os.kill(child.pid, signal.SIGKILL)
                    killed.append(child.pid)
                    break

    thread = threading.Thread(target=kill)
    thread.start()
    if backend == "processes":
        extract_shards({"name": "mini"}, scenes, out, workers=2, num_shards=4, **options)
    else:
        from distributed import LocalCluster

        with LocalCluster(n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address=None) as cluster:
            extract_shards({"name": "mini"}, scenes, out, cluster=cluster.scheduler_address, num_shards=4, **options)
    thread.join()
    assert killed
    assert_equal(tmp_path / "one", out)


def assert_equal(one: Path, many: Path) -> None:
    for a, b in zip(HiddenStates.open(one), HiddenStates.open(many), strict=True):
        assert a.metadata == b.metadata
        for name in ("drafter_hidden", "target_hidden", "token_ids", "drafter_top1", "overlap"):
            assert torch.equal(getattr(a, name), getattr(b, name)), name
    assert HiddenStates.open(many).target_head.lm_head.shape == HiddenStates.open(one).target_head.lm_head.shape
