"""The lean pass computes what transformers' Llama computes."""

from typing import Any

import pytest
import torch
from transformers import DynamicCache, LlamaConfig, LlamaModel

from egptlib.models import load_pair
from egptlib.models._batch import BatchReader, Prompts
from egptlib.models._lean import PACKS, KeyValues, LeanLlama, Projection, lean_pass
from egptlib.models._structure import GROWTH


def make_llama(dtype: torch.dtype = torch.float32, **changes: Any) -> LlamaModel:
    torch.manual_seed(3)
    fields = {
        "vocab_size": 40, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3,
        "num_attention_heads": 4, "num_key_value_heads": 2, **changes,
    }  # fmt: skip
    model = LlamaModel(LlamaConfig(**fields)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(
                1 + 0.1 * torch.randn_like(parameter) if "norm" in name else 0.2 * torch.randn_like(parameter)
            )
    return model.to(dtype)


LLAMA3_ROPE = {
    "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip


@pytest.mark.parametrize("packs", [PACKS, not PACKS])
@pytest.mark.parametrize(
    ("dtype", "changes"),
    [
        (torch.float32, {}),
        (torch.float32, {"num_key_value_heads": 4}),
        (torch.float32, {"head_dim": 32, "rope_parameters": LLAMA3_ROPE}),
        (torch.bfloat16, {}),
    ],
)
@torch.no_grad()
def test_it_equals_transformers(
    dtype: torch.dtype, changes: dict[str, Any], packs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A prompt, single tokens, several at once, buffers that have to grow, roll-backs; as here and on other CPUs."""
    if packs and not PACKS and dtype == torch.bfloat16:
        pytest.skip("oneDNN packs bfloat16 for AVX-512 alone")
    monkeypatch.setattr("egptlib.models._lean.PACKS", packs)
    model = make_llama(dtype, **changes)
    lean = lean_pass(model)
    assert lean is not None
    theirs, ours = DynamicCache(config=model.config), lean.cache(8)
    for count, forget in [(1, 0), (50, 7), (1, 0), (6, 5), (2, 0), (40, 3), (70, 30), (1, 1), (5, 0), (190, 0), (3, 0)]:
        embeds = torch.randn(1, count, 64).to(dtype)
        expected = model(inputs_embeds=embeds, past_key_values=theirs, use_cache=True).last_hidden_state[0]
        found = lean(embeds[0], ours)
        if dtype == torch.bfloat16:
            similarity = torch.nn.functional.cosine_similarity(found.float(), expected.float(), dim=-1)
            assert similarity.mean() > 0.99  # either rounds differently
        else:
            torch.testing.assert_close(found, expected, atol=2e-5, rtol=2e-5)
        if forget:
            theirs.crop(-forget)
            ours.crop(-forget)
        assert ours.get_seq_length() == theirs.get_seq_length()


@pytest.mark.parametrize("count", [1, 5, 150])
@torch.no_grad()
def test_the_last_token_alone(count: int) -> None:
    """Its states and those taken of it are the whole pass's, and so are all keys and values."""
    lean = lean_pass(make_llama())
    assert lean is not None
    embeds, caches = torch.randn(7 + count, 64), [lean.cache(8), lean.cache(8)]
    for cache in caches:
        lean(embeds[:7], cache)
    whole, only = dict.fromkeys((2, 3), embeds), dict.fromkeys((2, 3), embeds)
    expected, found = lean(embeds[7:], caches[0], whole), lean(embeds[7:], caches[1], only, last=True)
    torch.testing.assert_close(found, expected[-1:], atol=2e-5, rtol=2e-5)
    for number, states in only.items():
        torch.testing.assert_close(states, whole[number][-1:], atol=2e-5, rtol=2e-5)
    assert caches[1].length == 7 + count
    torch.testing.assert_close(*(cache.buffer[..., : cache.length, :] for cache in caches))


def test_which_models_take_it() -> None:
    model = make_llama()
    lean = lean_pass(model)
    assert isinstance(lean, LeanLlama)
    assert lean_pass(model, lean) is lean
    with torch.no_grad():
        model.layers[1].mlp.up_proj.weight.mul_(2)  # trained on: the copies are stale
    again = lean_pass(model, lean)
    assert again is not lean
    embeds = torch.randn(1, 5, 64)
    with torch.no_grad():
        assert again is not None
        torch.testing.assert_close(
            again(embeds[0], again.cache(5)), model(inputs_embeds=embeds).last_hidden_state[0], atol=2e-5, rtol=2e-5
        )
    assert lean_pass(model.half()) is None
    assert lean_pass(make_llama(attention_bias=True)) is None
    assert lean_pass(make_llama(hidden_act="gelu")) is None
    assert lean_pass(make_llama().train()) is None
    assert lean_pass(torch.nn.Linear(2, 2)) is None
    watched = make_llama()
    with torch.no_grad():
        watched(inputs_embeds=embeds, output_hidden_states=True)
    assert any(module._forward_hooks for module in watched.modules())  # left behind by transformers
    assert lean_pass(watched) is not None
    watched.layers[0].register_forward_hook(lambda *_: None)
    assert lean_pass(watched) is None


def test_large_models_keep_their_own_weights_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("egptlib.models._lean.COPY_LIMIT", 0)
    model = make_llama()
    lean = lean_pass(model)
    assert lean is not None
    assert all(projection.packed is None for layer in lean.layers for projection in layer[1::2] if callable(projection))
    embeds = torch.randn(1, 9, 64)
    with torch.no_grad():
        expected = model(inputs_embeds=embeds).last_hidden_state[0]
        torch.testing.assert_close(lean(embeds[0], lean.cache(9)), expected, atol=2e-5, rtol=2e-5)


def test_of_a_weight_at_most_one_copy_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """In bfloat16, where packed weights serve all lengths; and one pass serves single sequences and batches."""
    lean = lean_pass(make_llama(torch.bfloat16))
    assert lean is not None
    for joined in (product for layer in lean.layers for product in layer if isinstance(product, Projection)):
        assert joined.packed is None or len(joined.parts) == 1 or joined.weight is None
    made = list[LeanLlama]()
    plain = LeanLlama.__init__

    def noted(self: LeanLlama, model: Any) -> None:
        made.append(self)
        plain(self, model)

    monkeypatch.setattr(LeanLlama, "__init__", noted)
    target = load_pair().target
    prompts = [torch.randn(1, 12, target.token_embedding.embedding_dim) for _ in range(2)]
    reader = BatchReader(target)
    reader.answer(Prompts.of([[prompt[0] for prompt in prompts]]), 3)
    target.prefill(prompts[0])
    assert len(made) == 1


def test_buffers_grow_and_keep_what_they_hold() -> None:
    cache = KeyValues(2, 3, 4, capacity=5, dtype=torch.float32, device=torch.device("cpu"))
    cache.buffer.normal_()
    before = cache.buffer.clone()
    cache.length = 5
    cache.reserve(6)
    assert cache.buffer.shape == (2, 2, 3, 6 + GROWTH, 4)
    assert torch.equal(cache.buffer[..., :5, :], before)
