"""What transformers itself offers beside ours: the same tokens where it accepts, its message where it refuses."""

from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from egptlib.measuring import transformers_baselines, transformers_generate
from egptlib.models import LanguageModel, load_pair
from tests.hidden_states.conftest import make_scene
from tests.models.families import make_words


def assistant(tokenizer: Any, name: str) -> LanguageModel:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=1,
        num_attention_heads=4, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    return LanguageModel(LlamaForCausalLM(config).eval(), tokenizer, name)


def test_what_video_llava_accepts_gives_generates_own_tokens() -> None:
    """Prompt look-up from embeddings (with ids it drafts tokens of pictures), assistants from ids."""
    target, scene = load_pair().target, make_scene(0)
    prompt = (scene, scene.questions[0])
    helpers = [assistant(target.tokenizer, "same"), assistant(make_words((), "other words"), "other")]
    accepted, refused = transformers_baselines(target, [prompt], 12, assistants=helpers)
    assert not refused
    assert [*accepted] == [f"generate, {name}" for name in ("prompt look-up 5", "assistant same", "assistant other")]
    plain: Any = transformers_generate(target, 12)(*prompt)
    for method in accepted.values():
        assert method(*prompt) == plain


def test_a_refusal_of_ids_at_any_prompt_is_told_with_its_message(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def refuse(*_: Any, **options: Any) -> Any:
        asked.append(1)
        if len(asked) > 1:
            raise ValueError(f"assisted generate is not\nsupported for {next(iter(options))}")
        return torch.zeros(1, 3, dtype=torch.long)

    monkeypatch.setattr("egptlib.measuring._baselines.GenerationMixin.generate", refuse)
    accepted, refused = transformers_baselines(load_pair().target, [(make_scene(0), "What?")] * 2, 4)
    assert not accepted
    message = "ValueError: assisted generate is not supported for"
    expected = f"given ids: {message} input_ids; given embeddings: {message} inputs_embeds"
    assert refused == {"generate, prompt look-up 5": expected}
