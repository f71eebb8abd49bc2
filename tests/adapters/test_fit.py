"""Every step of a training against AdamW, clipping, warm-up and cosine written out by hand."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from egptlib._sealed import read_sealed
from egptlib.adapters import FitSettings
from egptlib.adapters._fit import fit

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
    with pytest.raises(ValueError, match=f"got .*{next(iter(wrong.values()))}"):
        FitSettings(**wrong)  # type: ignore[arg-type]
    assert FitSettings(learning_rate=1e-9, warmup=0.0).warmup == 0
