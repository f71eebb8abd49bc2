"""Both trainings of the mini pair step as they say: warm-up and cosine, a norm of 1 at most, weight decay."""

import math
from typing import Any

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from egptlib.models.mini._language import LanguageSettings, Prompts, train_language
from egptlib.models.mini._optim import update, warm_cosine
from egptlib.models.mini._towers import TowerSettings, frame_tokens, train_tower
from egptlib.models.mini._windows import FIELDS, GRID
from egptlib.scenes.streets._answers import SLOTS


def test_the_rate_rises_in_a_line_and_falls_as_a_cosine():
    factor = warm_cosine(20, 4)
    falling = [math.cos(math.pi * step / 32) ** 2 for step in range(17)]  # (1 + cos x) / 2 = cos(x / 2) squared
    assert [factor(step) for step in range(21)] == pytest.approx([0.25, 0.5, 0.75, 1.0, *falling])
    assert warm_cosine(1, 0)(0) == 1.0


@pytest.mark.parametrize(("gradient", "moved"), [((3.0, 4.0), (0.6, 0.8)), ((0.3, 0.4), (0.3, 0.4))])
def test_a_step_is_clipped_at_norm_one_and_takes_the_rate_of_its_turn(gradient, moved):
    parameter = nn.Parameter(torch.zeros(2))
    optimiser = torch.optim.SGD([parameter], 1.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 1.0 / (step + 1))
    for rate in (1.0, 0.5):
        before = parameter.detach().clone()
        parameter.grad = torch.tensor(gradient)
        update([parameter], optimiser, schedule)
        assert (before - parameter).tolist() == pytest.approx([rate * value for value in moved])
        assert parameter.grad is None


class Begun(Exception):
    """Raised in the place of the first step."""


def test_both_trainings_take_what_their_settings_say(monkeypatch):
    def begin(optimiser: Any, factor: Any) -> None:
        raise Begun(optimiser, factor)

    monkeypatch.setattr(torch.optim.lr_scheduler, "LambdaLR", begin)
    config = LlamaConfig(vocab_size=9, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2)
    told: dict[str, Any] = {"learning_rate": 0.25, "weight_decay": 0.125, "batch_size": 2}
    model, features, language = LlamaForCausalLM(config), torch.zeros(30, 1, 1, 8), LanguageSettings(epochs=3, **told)
    with pytest.raises(Begun) as begun:
        train_language(model, model.model, torch.flatten, features, features[0], Prompts(([], []), []), language, "")
    optimiser, factor = begun.value.args
    _check(optimiser, (0.9, 0.95))
    assert [factor(step) for step in (0, 2, 45)] == pytest.approx([1 / 3, 1.0, 0.0])  # 45 steps, 3 of them to warm up
    pictures, labels = torch.zeros(20, 1, 96, 96, 3, dtype=torch.uint8), torch.zeros(20, len(SLOTS), dtype=torch.long)
    patches, tower = torch.zeros(20, 1, GRID * GRID, len(FIELDS)), TowerSettings(pictures=(0,), epochs=6, **told)
    with pytest.raises(Begun) as begun:
        train_tower(pictures, labels, patches, frame_tokens, tower, (pictures, labels), "")
    optimiser, factor = begun.value.args
    _check(optimiser, (0.9, 0.98))
    assert [factor(step) for step in (0, 2, 60)] == pytest.approx([1 / 3, 1.0, 0.0])  # 60 steps


def _check(optimiser: torch.optim.AdamW, betas: tuple[float, float]) -> None:
    (group,) = optimiser.param_groups
    assert (group["lr"], group["weight_decay"], group["betas"]) == (0.25, 0.125, betas) and len(group["params"]) > 5
