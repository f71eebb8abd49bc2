"""What transformers itself offers beside ours: the same tokens where it accepts, its message where it refuses."""

from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from egptlib.measuring import transformers_baselines, transformers_generate
from egptlib.models import LanguageModel, load_pair
from tests.hidden_states.conftest import make_scene


def test_accepted_baselines_give_generates_own_tokens_and_refusals_say_why() -> None:
    target, scene = load_pair().target, make_scene(0)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(target.tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=1,
        num_attention_heads=4, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    assistant = LanguageModel(LlamaForCausalLM(config).eval(), target.tokenizer, "tiny")
    prompt = (scene, scene.questions[0])
    accepted, refused = transformers_baselines(target, prompt, 12, assistant=assistant)
    assert set(accepted) | set(refused) == {"generate, prompt look-up", "generate, assistant tiny"}
    plain: Any = transformers_generate(target, 12)(*prompt)
    for method in accepted.values():
        assert method(*prompt) == plain
    assert all(": " in message for message in refused.values())


def test_a_refusal_is_told_with_its_message(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise ValueError("assisted generate is not\nsupported")

    monkeypatch.setattr("egptlib.measuring._methods.GenerationMixin.generate", refuse)
    accepted, refused = transformers_baselines(load_pair().target, (make_scene(0), "What?"), 4)
    assert not accepted
    assert refused == {"generate, prompt look-up": "ValueError: assisted generate is not supported"}
