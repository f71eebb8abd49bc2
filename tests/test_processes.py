"""Processes end with the one that started them; SIGTERM is Ctrl-C; what was begun is cleared away or goes on."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path

import psutil
import pytest
import torch

from egptlib._processes import sigterm_interrupts
from egptlib.hidden_states import Head, HiddenStateWriter


def waited(condition: Callable[[], object], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def test_a_process_ends_with_its_parent_however_that_ends() -> None:
    child = "import os, time; from egptlib._processes import end_with; end_with(os.getppid()); time.sleep(600)"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    with subprocess.Popen([sys.executable, "-c", code]) as parent:
        assert waited(lambda: psutil.Process(parent.pid).children(), 60)
        (started,) = psutil.Process(parent.pid).children()
        assert waited(lambda: started.num_threads() > 1, 60)  # it watches
        parent.kill()
    gone, alive = psutil.wait_procs([started], timeout=20)
    assert gone and not alive


def test_sigterm_is_an_interrupt() -> None:
    before = signal.getsignal(signal.SIGTERM)
    try:
        sigterm_interrupts()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
    finally:
        signal.signal(signal.SIGTERM, before)


def extracting(out: Path, *options: str) -> tuple[list[str], Callable[[], bool]]:
    verb = ["extract", "--out", str(out), "--num-scenes", "40", "--batch-size", "10", "--commit-every", "5", *options]
    return verb, lambda: len(list(out.rglob("chunk_*.safetensors"))) >= 2


def running(out: Path) -> tuple[list[str], Callable[[], bool]]:
    return ["run", "02", "--smoke", "--out", str(out)], lambda: any(out.glob(".*.partial/out.ipynb"))


def training(out: Path) -> tuple[list[str], Callable[[], bool]]:
    states, run = out.parent / "states", out / "L1"
    with HiddenStateWriter(states) as writer:
        writer.add_heads(target=Head(torch.randn(64, 256), torch.ones(256), 1e-6))
        for number in range(800):
            sequence = str(number % 4)
            metadata = {"scene": f"{sequence}/{number}", "question": "q", "sequence": sequence}
            drafter, target = torch.randn(2, 40, 256)
            writer.add(drafter, target, token_ids=torch.arange(40), metadata=metadata)
    verb = ["train", "L1", "--states", str(states), "--run", str(run), "--epochs", "100"]
    return verb, lambda: (run / "history.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("what", "number"), [
    *product(["extract", "extract with workers", "run"], [signal.SIGINT, signal.SIGTERM, signal.SIGKILL]),
    ("train", signal.SIGINT),
])  # fmt: skip
def test_a_verb_that_is_stopped_leaves_nothing_and_says_what_goes_on(tmp_path: Path, what: str, number: int) -> None:
    out = tmp_path / "out"
    started_by = {"extract": extracting, "run": running, "train": training}
    verb, ready = extracting(out, "--workers", "2") if "workers" in what else started_by[what](out)
    command = [sys.executable, "-m", "egptlib", *verb]
    # A shell starts what it puts in the background with SIGINT ignored, and children inherit that.
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    told_to = subprocess.PIPE
    with subprocess.Popen(command, stdout=told_to, stderr=told_to, text=True, preexec_fn=heard) as process:
        assert waited(lambda: ready() or process.poll() is not None, 240) and process.poll() is None
        started = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(number)
        _, told = process.communicate(timeout=120)
    gone, alive = psutil.wait_procs(started, timeout=15)
    assert len(gone) == len(started) and not alive
    if number == signal.SIGKILL:
        return  # the next one clears away
    assert process.returncode == 130
    assert "egptlib: interrupted; the same command goes on where this one stopped" in told
    assert not list(out.rglob(".*")) and not [run for run in out.glob("*") if (run / "status.json").exists()]
