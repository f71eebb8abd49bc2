"""What training asks of a device: a step of every level without the models, as notebook 03 trains, and one of L6."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import nn

from egptlib.adapters import (
    CLASSES,
    LEVELS,
    Adapter,
    AnswerReader,
    DrafterLora,
    FitSettings,
    LoraObjective,
    LossSettings,
    Objective,
    create_adapter,
    new_optimiser,
    train_step,
)
from egptlib.hidden_states import HiddenBatch, PromptRows, StoredPrompt
from egptlib.models import Pair
from egptlib.rehearsal._hollow import empty, fill
from egptlib.scenes import Scene

TOKENS = 50  # of an answer
SETTINGS = FitSettings()


def hollow_adapter(level: str, pair: Pair, **settings: Any) -> Adapter:
    """A level as wide as a pair, of meta tensors; of E3, E3S and DF over a low, a middle and the last layer."""
    layers = len(pair.target.language_model.layers)  # type: ignore[arg-type]
    if "target_layers" in CLASSES[level].inputs:
        fused = sorted({1, max(1, layers // 2), layers})
        settings |= {"source_layers": tuple(fused), "num_source_layers": len(fused)}
    with torch.device("meta"):
        return create_adapter(
            level, hidden_size=pair.target.hidden_size, drafter_size=pair.drafter.hidden_size, **settings
        )


def lessons(pair: Pair, length: int) -> dict[str, Callable[[], Any]]:
    """A step of each level on a batch of `FitSettings`' size, on the first card. The models need not be there.

    In float32: the autocast of a card is not rehearsed, which makes both less.

    Args:
        length: positions of the target's prompt, which E3S reads.
    """
    head, device = partial(empty, pair.target.lm_head.weight.shape, pair.target.dtype), pair.target.device
    if device.type != "cpu":
        device = torch.device(device.type, 0)  # autograd knows of one pretended device
    return {f"train {level}": partial(_learn, hollow_adapter(level, pair), head, device, length) for level in LEVELS}


def _learn(adapter: Adapter, head: Callable[[Any], Any], device: torch.device, length: int) -> None:
    fill(adapter, device)
    rows, s = SETTINGS.batch_size, adapter.settings
    shape = (1, rows * TOKENS) if adapter.by_position else (rows, TOKENS)
    batch = _batch(shape, s.input_size, s.hidden_size, s.num_source_layers)
    prompt = PromptRows(
        torch.zeros(length, dtype=torch.int32),
        torch.empty(0),
        empty((length, s.num_source_layers, s.hidden_size), torch.float16, "cpu"),
    )
    with patch("egptlib.adapters._batches.read_prompt", lambda stored: prompt):
        _step(Objective(adapter.requires_grad_(), head(device), LossSettings()), batch, device)


class LoraLesson:
    """L6: attached and trained by one answer, then merged; the drafter does not become what it was again."""

    def __init__(self, pair: Pair, scene: Scene, question: str):
        self.pair, self.scene, self.question = pair, scene, question

    def learn(self) -> None:
        self.lora = DrafterLora(self.pair)
        reader, target = AnswerReader(self.lora, {self.scene.id: self.scene}), self.pair.target
        batch = _batch((1, TOKENS), 1, target.hidden_size, 1, scene=self.scene.id, question=self.question)
        _step(LoraObjective(reader.train(), self.lora.head), batch, self.pair.drafter.device)

    def decode(self, generate: Callable[..., Any]) -> None:
        generate(drafter=self.lora.eval().merge())


def _batch(shape: tuple[int, int], drafter: int, target: int, layers: int, **told: str) -> HiddenBatch:
    """As a store gives it: on the CPU, states in 16 bit."""
    return HiddenBatch(
        drafter_hidden=empty((*shape, drafter), torch.float16, "cpu"),
        target_hidden=empty((*shape, target), torch.float16, "cpu"),
        mask=torch.ones(shape, dtype=torch.bool),
        metadata=[told] * shape[0],
        token_ids=torch.zeros(shape, dtype=torch.int32),
        target_layers=empty((*shape, layers, target), torch.float16, "cpu"),
        prompts=[StoredPrompt(Path(), "", "")] * shape[0],
    )


def _step(objective: nn.Module, batch: HiddenBatch, device: torch.device) -> None:
    with torch.enable_grad():
        optimiser = new_optimiser([p for p in objective.parameters() if p.requires_grad], SETTINGS)
        train_step(objective, batch, optimiser, device, SETTINGS.clip, SETTINGS.learning_rate)
