"""A step of training: batches, learning rate, clipped update."""

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn


def batches(count: int, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """One epoch in random order; the last rows that do not fill a batch are left out."""
    order = torch.randperm(count, generator=generator)
    return iter(order[: count // size * size].split(size))


def warm_cosine(steps: int, warm_up: int) -> Callable[[int], float]:
    """Linear warm-up, then a cosine to zero."""

    def factor(step: int) -> float:
        if step < warm_up:
            return (step + 1) / warm_up
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warm_up) / max(1, steps - warm_up))))

    return factor


def update(
    parameters: list[nn.Parameter],
    optimiser: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
) -> None:
    """One step with the gradients that are there, clipped at norm 1; they are gone afterwards."""
    nn.utils.clip_grad_norm_(parameters, 1.0)
    optimiser.step()
    schedule.step()
    optimiser.zero_grad(set_to_none=True)
