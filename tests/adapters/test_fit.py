"""Every step of a training against AdamW, clipping, warm-up and cosine written out by hand."""

import io
import math
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from egptlib._sealed import read_sealed, write_sealed
from egptlib.adapters import FitSettings
from egptlib.adapters._build import write_tensors
from egptlib.adapters._fit import Fit, fit, new_optimiser, train_step

EPOCHS, STEPS = 3, 7


class Line(nn.Module):
    """A matrix, which decays, and a bias, which does not."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.matrix = nn.Parameter(torch.randn(3, 2, generator=generator))
        self.bias = nn.Parameter(torch.randn(3, generator=generator))

    def forward(self, batch: Tensor) -> dict[str, Tensor]:
        return {"loss": (batch[:, 5:] * (batch[:, :2] @ self.matrix.T + self.bias - batch[:, 2:5]) ** 2).sum()}


def batches(epoch: int) -> list[Tensor]:
    """The last column weighs: every third gradient is too small to be clipped."""
    generator = torch.Generator().manual_seed(epoch)
    rows = [torch.randn(4, 5, generator=generator) for _ in range(STEPS)]
    return [torch.cat([row, torch.full((4, 1), 1e-3 if i % 3 == 2 else 1.0)], dim=1) for i, row in enumerate(rows)]


def by_hand(rate: float, decay: float, warmup: float, clip: float) -> tuple[dict[str, np.ndarray], list[float]]:
    """Where the parameters end, and the mean loss of each epoch."""
    line = Line()
    at = {"matrix": line.matrix.detach().double().numpy().copy(), "bias": line.bias.detach().double().numpy().copy()}
    first = {name: np.zeros_like(value) for name, value in at.items()}
    second = {name: np.zeros_like(value) for name, value in at.items()}
    total, clipped, losses = EPOCHS * STEPS, 0, [0.0] * EPOCHS
    warm = max(1, round(warmup * total))
    for step in range(total):
        batch = batches(1 + step // STEPS)[step % STEPS].double().numpy()
        away = batch[:, :2] @ at["matrix"].T + at["bias"] - batch[:, 2:5]
        losses[step // STEPS] += float((batch[:, 5:] * away**2).sum()) / STEPS
        error = batch[:, 5:] * away
        gradient = {"matrix": 2 * error.T @ batch[:, :2], "bias": 2 * error.sum(axis=0)}
        norm = math.sqrt(sum((g**2).sum() for g in gradient.values()))
        clipped += norm > clip
        now = rate * (
            (step + 1) / warm if step < warm else (1 + math.cos(math.pi * (step - warm) / (total - warm))) / 2
        )
        for name, g in gradient.items():
            g = g * min(1.0, clip / norm)
            first[name] = 0.9 * first[name] + 0.1 * g
            second[name] = 0.95 * second[name] + 0.05 * g**2
            mean, square = first[name] / (1 - 0.9 ** (step + 1)), second[name] / (1 - 0.95 ** (step + 1))
            at[name] = at[name] * (1 - now * (decay if name == "matrix" else 0.0)) - now * mean / (square**0.5 + 1e-8)
    assert 0 < clipped < total
    return at, losses


@pytest.mark.parametrize(
    ("settings", "rate", "decay", "warmup", "clip"),
    [
        (FitSettings(epochs=EPOCHS, learning_rate=0.01), 0.01, 0.01, 0.05, 1.0),  # what stands there by default
        (
            FitSettings(epochs=EPOCHS, seed=7, learning_rate=0.03, weight_decay=0.5, warmup=0.4, clip=9.0),
            0.03,
            0.5,
            0.4,
            9.0,
        ),
    ],
)
def test_every_step_is_that_of_the_formulas(tmp_path: Path, settings: FitSettings, rate: float, decay: float,
                                            warmup: float, clip: float) -> None:  # fmt: skip
    line, validated, seeds = Line(), iter([0.1, 0.3, 0.2]), list[int]()
    best: list[dict[str, Any]] = []

    def save(folder: Path, row: dict[str, Any]) -> None:
        best.append(row)

    def seeded(epoch: int) -> Iterator[Tensor]:
        seeds.append(torch.initial_seed())
        yield from batches(epoch)

    told = fit(line, seeded, STEPS, lambda: {"mean_acceptance_length": next(validated)}, save, settings, tmp_path, {})
    ends, losses = by_hand(rate, decay, warmup, clip)
    for name, value in ends.items():
        np.testing.assert_allclose(getattr(line, name).detach().numpy(), value, rtol=1e-5, atol=1e-6, err_msg=name)
    assert [row["loss"] for row in told.history] == pytest.approx(losses, rel=1e-4)
    assert read_sealed(tmp_path / "history.json") == {"epochs": told.history}
    assert seeds == [settings.seed * 1_000_003 + epoch for epoch in range(1, 1 + EPOCHS)]
    assert told.best_epoch == 2 and told.best["mean_acceptance_length"] == 0.3
    assert [row["epoch"] for row in best] == [1, 2] and len(told.history) == EPOCHS
    assert told.seconds == pytest.approx(sum(row["seconds"] for row in told.history))


@pytest.mark.parametrize("wrong", [{"learning_rate": 0.0}, {"learning_rate": -1e-3}, {"warmup": 1.0}, {"warmup": -0.1}])
def test_a_rate_and_a_warm_up_that_cannot_be_are_refused_each_by_itself(wrong: dict[str, float]) -> None:
    with pytest.raises(
        ValueError, match=f"{next(iter(wrong))}: expected a number in .*, found {next(iter(wrong.values()))}"
    ):
        FitSettings(**wrong)  # type: ignore[arg-type]
    assert FitSettings(learning_rate=1e-9, warmup=0.0).warmup == 0


class Terminal(io.StringIO):
    """What was written to it, and what stands on it in the end."""

    def isatty(self) -> bool:
        return True

    def shown(self) -> str:
        rows, row, column = defaultdict[int, dict[int, str]](dict), 0, 0
        for text in re.findall(r"\x1b\[A|.|\n|\r", self.getvalue()):
            if text in ("\x1b[A", "\n"):
                row, column = row + (1 if text == "\n" else -1), 0 if text == "\n" else column
            elif text == "\r":
                column = 0
            else:
                rows[row][column], column = text, column + 1
        return "".join("".join(line.values()) for line in rows.values())


def trained(folder: Path, figures: list[dict[str, float]], **changed: Any) -> Fit:
    rows = iter(figures)
    settings = FitSettings(epochs=len(figures), **changed)
    return fit(Line(), batches, STEPS, lambda: next(rows), lambda folder, row: None, settings, folder, {})


def test_a_terminal_sees_the_epoch_and_its_steps_and_nothing_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = Terminal()
    monkeypatch.setattr("sys.stderr", screen)
    trained(tmp_path, [{"top1": 0.1}, {"top1": 0.2}], monitor="top1")
    assert "train:   0%" in screen.getvalue() and "epoch/s]" in screen.getvalue()
    assert re.search(r"\repoch 2:   0%\|.*\| 0/7 ", screen.getvalue()) and not screen.shown().strip()


def test_what_a_training_cannot_do_is_said(tmp_path: Path) -> None:
    for name in ("epochs", "batch_size", "patience"):
        one: dict[str, Any] = {name: 1}
        assert getattr(FitSettings(**one), name) == 1
        with pytest.raises(ValueError, match=f"training setting {name}: expected at least 1, found 0"):
            FitSettings(**(one | {name: 0}))
        with pytest.raises(ValueError, match=f"training setting {name}: expected a whole number, found 2.5"):
            FitSettings(**(one | {name: 2.5}))
    with pytest.raises(ValueError, match=r"learning_rate: expected a number in \(0, inf\), found nan"):
        FitSettings(learning_rate=float("nan"))
    with pytest.raises(ValueError, match=r"^monitor 'mean_acceptance_length': expected one of top1, mse$"):
        trained(tmp_path / "a", [{"top1": 1.0, "mse": 1.0}])
    with pytest.raises(ValueError, match=rf"^{tmp_path}/b: the loss is (inf|nan) in epoch 1; lower learning_rate$"):
        trained(tmp_path / "b", [{"top1": 1.0}], learning_rate=1e38)
    assert trained(tmp_path / "a", [{"top1": 1.0}], monitor="top1").history  # what never had an epoch binds nobody
    with pytest.raises(ValueError, match=rf"^{tmp_path}/n: nothing to train on$"):
        fit(Line(), batches, 0, lambda: {}, lambda folder, row: None, FitSettings(), tmp_path / "n", {})
    assert not (tmp_path / "n").exists()
    line, rows = Line(), batches(1)[0]
    line.matrix.register_hook(lambda gradient: gradient * math.inf)
    before, optimiser = line.bias.detach().clone(), new_optimiser(list(line.parameters()), FitSettings())
    with pytest.raises(FloatingPointError, match=r"the gradient's norm is (inf|nan)"):
        train_step(line, rows, optimiser, torch.device("cpu"), 1.0, 0.1)
    assert torch.equal(line.bias, before)
    (tmp_path / "c").mkdir()
    write_tensors(tmp_path / "c/state.safetensors", {"weight.other": torch.ones(2)})
    with pytest.raises(ValueError, match=r"state\.safetensors: not the state of this training \('weight.matrix'\)"):
        trained(tmp_path / "c", [{"top1": 1.0}])


@pytest.mark.parametrize("done", [1, 2])
def test_an_interrupt_between_the_state_and_the_history_costs_no_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, done: int
) -> None:
    figures, written = [{"mse": 0.3}, {"mse": 0.2}], list[Path]()

    def stopped(path: Path, told: Any) -> None:
        if path.name == "history.json":
            written.append(path)
            if len(written) == done:
                raise KeyboardInterrupt
        write_sealed(path, told)

    monkeypatch.setattr("egptlib.adapters._fit.write_sealed", stopped)
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path, figures, monitor="mse", lower_is_better=True)
    again = trained(tmp_path, figures, monitor="mse", lower_is_better=True)
    assert read_sealed(tmp_path / "history.json") == {"epochs": again.history} and len(again.history) == 2


def test_a_part_that_is_never_used_keeps_no_run_from_going_on(tmp_path: Path) -> None:
    """A level of one's own may hold a parameter that had no gradient: its run could be started, but not continued."""

    def run(name: str, figures: list[dict[str, float]]) -> Tensor:
        line, rows, settings = Line(), iter(figures), FitSettings(epochs=2, monitor="top1")
        line.register_parameter("unused", nn.Parameter(torch.full((2, 2), 7.0)))
        fit(line, batches, STEPS, lambda: next(rows), lambda *_: None, settings, tmp_path / name, {})
        return line.matrix

    whole = run("whole", [{"top1": 0.1}, {"top1": 0.2}])
    with pytest.raises(StopIteration):
        run("stopped", [{"top1": 0.1}])
    assert torch.equal(run("stopped", [{"top1": 0.2}]), whole)


@pytest.mark.parametrize(("lower", "best"), [(False, 2), (True, 3)])
def test_the_best_epoch_is_the_first_of_equals_by_what_is_asked(tmp_path: Path, lower: bool, best: int) -> None:
    figures = [{"mse": value} for value in (0.3, 0.4, 0.1, 0.4, 0.1)]
    assert trained(tmp_path / "all", figures, monitor="mse", lower_is_better=lower).best_epoch == best
    few = trained(tmp_path / "few", figures, monitor="mse", lower_is_better=lower, patience=1)
    assert len(few.history) == (3 if not lower else 2)


class OneOfTwo:
    """As much of an accelerator as the loop uses, of two processes that have each their own batches."""

    num_processes, rank = 2, 0
    options: dict[str, bool]

    def __init__(self, **options: bool) -> None:
        type(self).options = options
        self.process_index = type(self).rank
        self.is_main_process = self.process_index == 0

    def prepare(self, *things: Any) -> Any:
        return things

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def wait_for_everyone(self) -> None: ...


@pytest.mark.parametrize("rank", [0, 1])
def test_of_two_processes_each_takes_every_other_batch_and_the_first_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rank: int
) -> None:
    accelerator: type[OneOfTwo] = type("Accelerator", (OneOfTwo,), {"rank": rank})
    monkeypatch.setattr("egptlib.adapters._fit.Accelerator", accelerator)
    monkeypatch.setenv("WORLD_SIZE", "2")
    line, seen, rates = Line(), list[Tensor](), list[float]()
    line.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    step = torch.optim.AdamW.step

    def stepping(self: torch.optim.AdamW, closure: Any = None) -> Any:
        rates.append(self.param_groups[0]["lr"])
        return step(self, closure)

    monkeypatch.setattr(torch.optim.AdamW, "step", stepping)
    settings = FitSettings(epochs=2, monitor="top1")
    saved: list[Path] = []

    def save(folder: Path, row: dict[str, float]) -> None:
        saved.append(folder)

    told = fit(line, batches, STEPS, lambda: {"top1": 0.5}, save, settings, tmp_path, {})
    assert accelerator.options == {"cpu": True, "device_placement": True}
    expected = [batch for epoch in (1, 2) for batch in batches(epoch)[rank : STEPS - 1 : 2]]  # the seventh is no pair
    assert len(seen) == 6 and all(torch.equal(a, b) for a, b in zip(seen, expected))
    assert rates == pytest.approx([1e-3 * (1 + math.cos(math.pi * max(0, i - 1) / 5)) / 2 for i in range(6)])
    assert len(told.history) == 2
    files = {path.name for path in tmp_path.iterdir()} - {"settings.json"}
    assert files == (set() if rank else {"history.json", "state.safetensors"})
    assert saved == ([] if rank else [tmp_path / "best"])
    with pytest.raises(ValueError, match="fewer batches than the 2 processes; lower batch_size"):
        fit(line, batches, 1, lambda: {"top1": 0.5}, save, settings, tmp_path / "few", {})
    monkeypatch.setenv("WORLD_SIZE", "1")
    fit(line, batches, STEPS, lambda: {"top1": 0.5}, save, settings, tmp_path / "alone", {})
    assert accelerator.options == {"cpu": False, "device_placement": False}
