"""Parts of a step: they cover it, they leave the model as it was; and peak memory against blocks of a known size."""

import time
from typing import Any

import pytest
import torch

from egptlib.models import STEP_PARTS, Model, Pair, peak_bytes, step_parts


def count_hooks(model: Model) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.module.modules())


@pytest.mark.parametrize("lean", [True, False])
@pytest.mark.parametrize("slow", ["MLP products", "lm head", "attention products"])
def test_a_part_that_is_made_slow_is_the_one_that_grows(
    lean: bool, slow: str, pair: Pair, scene: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = pair.drafter
    hooks = count_hooks(model)
    if not lean:
        monkeypatch.setattr("egptlib.models._interface.lean_pass", lambda *_: None)
    state = model.prefill(model.encode(scene, "what moves?"))
    before = model.step(torch.tensor([[5]]), state).logits
    model.rollback(state, state.length - 1)
    pause = 0.02

    def wait(function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            time.sleep(pause)
            return function(*args, **kwargs)

        return call

    with monkeypatch.context() as patch:
        layers: Any = model.language_model.layers
        if slow == "lm head":
            patch.setattr(model.lm_head, "forward", wait(model.lm_head.forward))
        elif lean:
            assert state.lean is not None
            place = {"attention products": "qkv", "MLP products": "gate_up"}[slow]
            changed = list(state.lean.layers)
            changed[1] = changed[1]._replace(**{place: wait(getattr(changed[1], place))})
            patch.setattr(state.lean, "layers", changed)
        else:
            part = layers[1].self_attn.k_proj if slow == "attention products" else layers[1].mlp.up_proj
            patch.setattr(part, "forward", wait(part.forward))
        parts = step_parts(model, state, repeats=4)
    assert tuple(parts) == STEP_PARTS
    assert parts[slow] > pause
    assert all(seconds > 0 for seconds in parts.values())
    assert parts[slow] == max(parts.values())
    assert model.step(torch.tensor([[5]]), state).logits.equal(before)
    assert count_hooks(model) == hooks
    with pytest.raises(ValueError, match="at least 4 repeats"):
        step_parts(model, state, repeats=3)


def test_peak_is_what_is_alive_at_once() -> None:
    device = torch.device("cpu")

    def job() -> None:
        first = torch.zeros(2**20, dtype=torch.uint8)
        second = torch.zeros(2**20, dtype=torch.uint8)
        del first, second
        third = torch.zeros(3 * 2**19, dtype=torch.uint8)
        del third

    assert peak_bytes(job, device) == 2**21
    assert peak_bytes(lambda: None, device) == 0
