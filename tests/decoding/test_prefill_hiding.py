"""The drafter beside the target: same tokens as the target alone, events of both on one clock, errors told."""

import contextlib
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from egptlib.adapters import create_adapter
from egptlib.decoding import (
    CascadeDrafter,
    Drafter,
    DrafterProcess,
    DrafterThread,
    HeadDrafter,
    Recorder,
    Sampler,
    as_drafter,
    hidden_prefill_generate,
    pipelined_generate,
)
from egptlib.decoding._drafters import ConcurrentDrafter, Draft
from egptlib.measuring import compare_prefill_hiding, contention
from egptlib.models import Model, shared_vocabulary

from .conftest import make_model


class FailingDrafter:
    """Cannot read its prompt."""

    name, device = "failing", torch.device("cpu")

    def start(self, scene: Any, question: str, recorder: Any) -> None:
        raise ValueError("no events here")

    def propose(self, answer: Any, count: int, sampler: Sampler, stop: Any = None) -> Draft:
        return Draft()


@pytest.fixture(scope="module", autouse=True)
def importable() -> Iterator[None]:
    """A worker process finds the classes of these tests by name."""
    folder = str(Path(__file__).parent.parent)
    sys.path.insert(0, folder)
    yield
    sys.path.remove(folder)


@pytest.fixture(scope="module")
def target() -> Model:
    return make_model(0, layers=3, name="target")


@pytest.fixture(scope="module")
def drafter(target: Model) -> Drafter:
    return as_drafter(make_model(1, layers=3, like=target, noise=0.05), target)


@pytest.fixture(scope="module", params=["process", "thread"])
def beside(request: pytest.FixtureRequest, target: Model, drafter: Drafter) -> Iterator[ConcurrentDrafter]:
    kind = {"process": DrafterProcess, "thread": DrafterThread}[request.param]
    with kind(drafter, target.eos_token_ids) as running:
        yield running


def plain(target: Model, prompt: list[int], count: int) -> list[int]:
    return target.decode_greedy(target.prefill(target.encode(prompt, "")), count)[0].tolist()


@pytest.mark.parametrize("overlap", [True, False])
def test_output_is_the_targets_own(target: Model, beside: ConcurrentDrafter, overlap: bool) -> None:
    generator = torch.Generator().manual_seed(3)
    for trial in range(30):
        prompt = torch.randint(3, 24, (int(torch.randint(1, 12, (1,), generator=generator)),), generator=generator)
        free, gamma, count = trial % 7, trial % 5, 1 + trial % 23
        generation = hidden_prefill_generate(
            target,
            beside,
            prompt.tolist(),
            "",
            overlap=overlap,
            max_free_tokens=free,
            gamma=gamma,
            max_new_tokens=count,
        )
        assert generation.token_ids.tolist() == plain(target, prompt.tolist(), count)


def test_another_drafts_after_the_free_tokens(target: Model, beside: ConcurrentDrafter) -> None:
    """Also one that watches the target's states: it sees one row for each token of the answer, in order."""
    head = create_adapter("B1", hidden_size=target.hidden_size, max_positions=64)
    watching = HeadDrafter(target, head, target, shared_vocabulary(target, target))  # type: ignore[arg-type]
    for trial in range(12):
        prompt, free = [3 + trial, 4, 5], trial % 5
        generation = hidden_prefill_generate(
            target, beside, prompt, "", max_free_tokens=free, gamma=3, max_new_tokens=16, then=watching
        )
        answer = plain(target, prompt, 16)
        assert generation.token_ids.tolist() == answer
        _, rows = target.decode_greedy(target.prefill(target.encode(prompt, "")), len(answer))
        watched = torch.stack(watching._watched["target_hidden"])
        torch.testing.assert_close(watched, rows[: len(watched)], atol=1e-4, rtol=1e-4)
        assert len(watched) == len(rows)


def test_drafting_on_while_the_target_verifies(target: Model, beside: ConcurrentDrafter) -> None:
    """40 random cases against plain decoding: drafts that go on, that are sent back, and that end."""
    generator, drafted, kept = torch.Generator().manual_seed(4), 0, 0
    for trial in range(40):
        prompt = torch.randint(3, 24, (int(torch.randint(1, 12, (1,), generator=generator)),), generator=generator)
        gamma, count = trial % 6, 1 + trial % 31
        generation = pipelined_generate(
            target, beside, prompt.tolist(), "", gamma=gamma, max_gamma=gamma + trial % 3,
            min_confidence=[0.0, 0.3, 1.0][trial % 3], max_new_tokens=count,
        )  # fmt: skip
        assert generation.token_ids.tolist() == plain(target, prompt.tolist(), count)
        assert all(r.drafted <= gamma + trial % 3 for r in generation.rounds)
        drafted += sum(r.drafted for r in generation.rounds)
        kept += sum(r.accepted for r in generation.rounds)
        lanes = {e.lane for e in generation.events}
        assert lanes == {"drafter", "target"}
    assert drafted > kept > 100
    assert beside.propose(plain(target, prompt.tolist(), 3), 2, Sampler()).tokens  # usable as before
    with pytest.raises(ValueError, match="0 <= gamma <= max_gamma"):
        pipelined_generate(target, beside, [4], "", gamma=5, max_gamma=4)


def test_a_cascade_is_a_stage_beside_the_target(target: Model, drafter: Drafter) -> None:
    """PipeSpec's order: the cascade's two models write on while the target verifies."""
    middle = make_model(5, layers=3, like=target, noise=0.05, name="middle")
    cascade = CascadeDrafter(middle, drafter, shared_vocabulary(middle, target), gamma=2)
    kept = 0
    with DrafterThread(cascade, target.eos_token_ids) as running:
        for trial in range(15):
            prompt, count = [3 + trial, 7, 9], 1 + 2 * trial
            generation = pipelined_generate(target, running, prompt, "", gamma=3, max_new_tokens=count)
            assert generation.token_ids.tolist() == plain(target, prompt, count)
            kept += sum(r.accepted for r in generation.rounds)
    assert kept > 20


def test_on_a_gpu_all_work_of_the_drafter_is_on_its_own_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stream that only notes what is asked of it, since the tests have no GPU."""
    done, inside = list[str](), threading.local()

    class Stream:
        def __init__(self, priority: int):
            done.append(f"priority {priority}")

        def wait_stream(self, other: Any) -> None:
            done.append(f"waits for {other}")

        def synchronize(self) -> None:
            done.append("synchronized" + " inside" * getattr(inside, "here", False))

    @contextmanager
    def within(stream: Stream) -> Iterator[None]:
        inside.here = True
        yield
        inside.here = False

    class Noting(FailingDrafter):
        name, device = "noting", torch.device("cuda:1")

        def start(self, scene: Any, question: str, recorder: Any) -> None:
            done.append("start" + " inside" * getattr(inside, "here", False))

        def propose(self, answer: Any, count: int, sampler: Sampler, stop: Any = None) -> Draft:
            done.append("propose" + " inside" * getattr(inside, "here", False))
            return Draft([4] * count, [1.0] * count)

    monkeypatch.setattr(torch.cuda, "Stream", lambda device, priority: Stream(priority))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: "the weights")
    monkeypatch.setattr(torch.cuda, "stream", within)
    monkeypatch.setattr("egptlib._clock.synchronize", lambda device: None)
    with DrafterThread(Noting()) as thread:
        thread.begin([5], "", 2)
        thread.wait()
        assert thread.take().tokens == [4, 4]
        assert thread.propose([4], 1, Sampler()).tokens == [4]
    assert done[:2] == ["priority -1", "waits for the weights"]  # lower numbers come first
    work = done[2:]
    assert work == ["start inside", *["propose inside"] * 3, "synchronized inside"]


@pytest.mark.slow
def test_a_drafter_that_fails_beside_the_target_is_told(target: Model) -> None:
    for kind in (DrafterProcess, DrafterThread):
        with kind(FailingDrafter()) as running, pytest.raises((RuntimeError, ValueError), match="no events here"):
            pipelined_generate(target, running, [4, 5], "", max_new_tokens=5)


def test_in_sequence_all_free_tokens_are_verified_at_once(target: Model, beside: ConcurrentDrafter) -> None:
    prompt = [5, 9, 11, 4]
    generation = hidden_prefill_generate(
        target, beside, prompt, "", overlap=False, max_free_tokens=6, max_new_tokens=30
    )
    drafted = next(e for e in generation.events if e.stage == "draft")
    verified = next(e for e in generation.events if e.stage == "verify")
    assert verified.info["free"] == verified.info["drafted"] == drafted.info["drafted"] == generation.rounds[0].drafted
    first = min(e.start for e in generation.events if e.lane == "target")
    ahead = [e for e in generation.events if e.lane == "drafter" and e.start < first]
    assert {e.stage for e in ahead} == {"preprocess", "vision", "prefill", "draft"}
    assert all(e.end <= first for e in ahead)  # one clock in both processes


def test_three_figures_stand_side_by_side(target: Model, beside: ConcurrentDrafter) -> None:
    runs = compare_prefill_hiding(target, beside, [(_scene([7, 8, 9]), "")], repeats=3, warm_ups=1, max_new_tokens=12)
    assert len(runs) == 1 and runs[0].identical
    run = runs[0]
    assert run.on_paper < run.in_sequence and run.free_accepted <= run.free_tokens
    between = contention(runs)
    assert between.target == pytest.approx(run.target_beside / run.target_alone)
    with pytest.raises(ValueError, match="at least one run"):
        contention([])


def test_a_failure_of_the_drafter_is_told(target: Model) -> None:
    with DrafterProcess(FailingDrafter()) as process:
        process.begin([4, 5], "", 3)
        with pytest.raises(RuntimeError, match="no events here"):
            process.wait()
    with DrafterThread(FailingDrafter()) as thread:
        thread.begin([4, 5], "", 3)
        with pytest.raises(ValueError, match="no events here"):
            thread.wait()


@pytest.mark.slow
def test_a_drafter_that_was_used_can_still_move_to_a_process(target: Model, drafter: Drafter) -> None:
    drafter.start([4, 5, 6], "", Recorder())  # packs its weights, which cannot be pickled
    module = drafter.model.module  # type: ignore[attr-defined]
    module(torch.tensor([[4, 5]]), output_hidden_states=True)  # leaves hooks behind that cannot be pickled either
    left = sum(len(part._forward_hooks) for part in module.modules())
    assert left
    with DrafterProcess(drafter, target.eos_token_ids) as process:
        generation = hidden_prefill_generate(target, process, [4, 5, 6], "", max_new_tokens=8)
    assert generation.token_ids.tolist() == plain(target, [4, 5, 6], 8)
    assert sum(len(part._forward_hooks) for part in module.modules()) == left  # transformers counts on them


AHEAD = """
import os, signal
from egptlib.decoding import DrafterProcess, _drafter_process, as_drafter, hidden_prefill_generate
from tests.decoding.conftest import make_model, plain

DrafterProcess.start_ahead()
target = make_model(0, layers=3)
drafter = make_model(1, layers=3, like=target, noise=0.05)
for kind in ("ForkProcess", "SpawnProcess"):
    with DrafterProcess(as_drafter(drafter, target), target.eos_token_ids) as beside:
        assert type(beside._process).__name__ == kind
        found = hidden_prefill_generate(target, beside, [4, 5, 6], "", max_new_tokens=8)
    assert found.token_ids.tolist() == plain(target, [4, 5, 6], 8)
    assert any(event.lane == "drafter" for event in found.events)
DrafterProcess.start_ahead()
print(_drafter_process._ahead[0][0].pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
def test_a_process_started_ahead_is_the_next_ones(tmp_path: Path) -> None:
    """And where nobody takes it, it ends with who started it, however that ended."""
    script = tmp_path / "ahead.py"
    script.write_text(f"if __name__ == '__main__':\n{textwrap.indent(AHEAD, '    ')}")
    root = Path(__file__).parents[2]
    paths = os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, script], cwd=root, env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True
    )
    assert done.returncode == -9, done.stderr
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(int(done.stdout)).wait(timeout=10)
    assert not psutil.pid_exists(int(done.stdout))


def test_limits_are_checked(beside: ConcurrentDrafter) -> None:
    if isinstance(beside, DrafterProcess):
        with pytest.raises(ValueError, match="expected 0 to 512"):
            beside.begin([4], "", 513)


def test_a_stop_rule_ends_a_proposal(beside: ConcurrentDrafter) -> None:
    beside.begin([5, 6, 7], "", 0)
    beside.wait()
    draft = beside.propose([8], 6, Sampler(), lambda confidence: True)
    assert len(draft.tokens) == len(draft.confidence) == 1


class _Tokens(list[int]):
    """A prompt with what a scene has besides its pictures."""

    id = "p"
    metadata: dict[str, Any] = {}  # noqa: RUF012


def _scene(tokens: list[int]) -> Any:
    return _Tokens(tokens)


@pytest.mark.slow
def test_the_target_takes_the_cores_that_are_left(target: Model, drafter: Drafter) -> None:
    before = torch.get_num_threads()
    try:
        for threads, left in ((4, 2), (2, 1), (1, 1)):
            torch.set_num_threads(threads)
            with DrafterProcess(drafter, target.eos_token_ids, num_threads=2) as process:
                for _ in range(2):  # a second job takes no more
                    process.begin([3, 4], "", limit=2)
                    assert torch.get_num_threads() == left
                process.wait()
                assert torch.get_num_threads() == left
                process.take()
                assert torch.get_num_threads() == threads
                process.start([3, 4], "", Recorder())
                assert torch.get_num_threads() == threads
                process.begin([3, 4], "", limit=2)
            assert torch.get_num_threads() == threads  # closed with a job at work
    finally:
        torch.set_num_threads(before)


def test_threads_that_wait_spin_for_a_moment_only() -> None:
    told = "import os, egptlib; print(os.environ.get('GOMP_SPINCOUNT'))"
    for given, kept in (({}, "5000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, "None")):
        names = {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}
        plain = {name: value for name, value in os.environ.items() if name not in names}
        count = subprocess.check_output([sys.executable, "-c", told], env=plain | given, text=True)
        assert count.strip() == kept
