"""Which language models our own passes take, and that all others are read by their own, with the same results."""

from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

from egptlib.decoding import SceneSession, SequenceDrafter, speculative_generate
from egptlib.hidden_states._heads import Head
from egptlib.models import BatchReader, Inputs, Model, Pair, Prompt, SingleReader, check_rows, reader_for
from egptlib.models._lean import KeyValues
from egptlib.models._structure import GROWTH, is_llama, whole_cache

SIZES: dict[str, Any] = {
    "vocab_size": 60, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 2.0, "original_max_position_embeddings": 64}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
TAKEN: dict[str, dict[str, Any]] = {"Llama": {}, "Mistral": {"sliding_window": None}, "Qwen2": {}}
OTHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "queries and keys normed": ("Qwen3", {}),
    "a window": ("Mistral", {"sliding_window": 4}),
    "a window in some layers": ("Qwen2", {
        "use_sliding_window": True, "sliding_window": 4,
        "layer_types": ["full_attention", "sliding_attention", "sliding_attention"],
    }),
    "norms behind, own scale": ("Gemma2", {"sliding_window": 4, "final_logit_softcapping": None}),
    "residuals scaled": ("Granite", {"residual_multiplier": 0.3, "attention_multiplier": 0.2}),
    "experts": ("Mixtral", {"num_local_experts": 2}),
    "part of a head turned": ("Glm", {"partial_rotary_factor": 0.5}),
    "no turning in some layers": ("SmolLM3", {}),
    "other angles": ("Llama", {"rope_parameters": YARN}),
    "angles that may change": ("Llama", {"rope_parameters": DYNAMIC, "max_position_embeddings": 64}),
}  # fmt: skip


class Reads(Model):
    """A language model alone; a scene is a list of ids."""

    def __init__(self, module: Any):
        tokenizer: Any = SimpleNamespace(eos_token_id=2, vocab_size=60, decode=lambda ids, **_: str(ids))
        super().__init__(type(module).__name__, module, tokenizer, None, module.model)

    def encode(self, scene: Any, question: str, like: Inputs | None = None) -> Inputs:
        return Inputs(torch.tensor([[1, *scene, *map(int, question.split())]]), torch.empty(0))

    def embed(self, inputs: Inputs) -> Tensor:
        return self.token_embedding(inputs.input_ids)


def make(kind: str, **changes: Any) -> Reads:
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**SIZES | changes)
    module = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=1.0 if "embed" in name else 0.3)
            elif "norm" in name:
                parameter.uniform_(0.5, 2)
            else:
                parameter.normal_()
        module.get_output_embeddings().weight[:3] = 0
    return Reads(module)


SCENES, QUESTIONS = ([5, 9, 30, 7, 11, 23, 6, 50], [8, 8, 4]), ("10 11 12", "20 21 22 23 24")


@torch.no_grad()
def own_states(model: Reads, prompt: Tensor, answer: Tensor) -> tuple[Tensor, Tensor]:
    """The class's own states that predict the answer: last ones, and those after layer 2."""
    whole = torch.cat([prompt, answer[None, :-1]], dim=1)
    states = model.module(whole, output_hidden_states=True, use_cache=False).hidden_states
    return states[-1][0, prompt.shape[1] - 1 :], states[2][0, prompt.shape[1] - 1 :]


@torch.no_grad()
def generate(model: Reads, prompt: Tensor) -> list[int]:
    out = model.module.generate(prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=10)
    return out[0, prompt.shape[1] :].tolist()


def check_reading(model: Reads, kind: type) -> None:
    inputs = [[model.encode(scene, question) for question in QUESTIONS] for scene in SCENES]
    scenes = [[model.see(each) for each in row] for row in inputs]
    reader = reader_for(model, (2,), scenes)
    assert type(reader) is kind
    prompts: Any = reader.prompts(scenes)
    answers = reader.answer(prompts, 10)
    again = reader.read(prompts, [reading.token_ids for reading in answers])
    for each, answered, read in zip([one for row in inputs for one in row], answers, again, strict=True):
        assert answered.token_ids.tolist() == generate(model, each.input_ids)
        last, second = own_states(model, each.input_ids, answered.token_ids)
        for reading in (answered, read):
            assert reading.layers is not None
            torch.testing.assert_close(reading.hidden, last, atol=1e-3, rtol=1e-3)
            torch.testing.assert_close(reading.layers[:, 0], second, atol=1e-3, rtol=1e-3)


def check_decoding(model: Reads) -> None:
    """Drafts with wrong tokens, so that caches are rolled back; sessions that go back into the prompt."""
    session = SceneSession(model, SequenceDrafter(), SCENES[0])
    for question in QUESTIONS:
        expected = generate(model, model.encode(SCENES[0], question).input_ids)
        draft = SequenceDrafter([3 + (t + 1) % 50 if i % 3 == 2 else t for i, t in enumerate(expected)])
        found = speculative_generate(model, draft, SCENES[0], question, gamma=4, max_new_tokens=10)
        assert found.token_ids.tolist() == expected
        assert session.ask(question, max_new_tokens=10).token_ids.tolist() == expected
    together = session.ask_all(list(QUESTIONS), max_new_tokens=10)
    assert together[1].token_ids.tolist() == expected


@pytest.mark.parametrize("kind", TAKEN)
def test_plain_llamas_are_read_in_batches(kind: str) -> None:
    model = make(kind, **TAKEN[kind])
    assert is_llama(model.language_model)
    check_reading(model, BatchReader)
    check_decoding(model)


@pytest.mark.parametrize("what", OTHERS)
def test_others_are_read_by_their_own_pass(what: str) -> None:
    kind, changes = OTHERS[what]
    model = make(kind, **changes)
    assert not is_llama(model.language_model)
    with pytest.raises(ValueError, match=f"expected a plain Llama language model, found {kind}Model"):
        check_rows(model)
    check_reading(model, SingleReader)
    check_decoding(model)


def test_a_llama_that_was_changed_is_no_llama() -> None:
    def changed(change: Any) -> bool:
        model = make("Llama").language_model
        change(model)
        return is_llama(model)

    assert changed(lambda model: None)
    assert not changed(lambda model: model.train())
    assert not changed(lambda model: setattr(model.layers[1].self_attn, "scaling", 1.0))
    assert not changed(lambda model: setattr(model.layers[1].self_attn, "q_norm", nn.Identity()))
    assert not changed(lambda model: setattr(model.layers[2], "mlp", nn.Identity()))
    assert not changed(lambda model: setattr(model.layers[0], "forward", model.layers[0].forward))
    assert not changed(lambda model: setattr(model.norm, "variance_epsilon", 0.5))
    assert not changed(lambda model: model.layers.append(model.layers[0]))
    assert not changed(lambda model: model.layers[0].mlp.register_forward_hook(lambda *_: None))
    everywhere = nn.modules.module.register_module_forward_hook(lambda *_: None)
    try:
        assert not changed(lambda model: None)
    finally:
        everywhere.remove()


def test_a_late_hook_is_called_once_a_pass_and_a_state_stays_with_its_pass() -> None:
    model, calls = make("Llama"), list[int]()
    prompt = model.encode(SCENES[0], QUESTIONS[0])
    before = model.prefill(prompt)
    expected = model.decode_greedy(model.prefill(prompt), 6)[0]
    handle = model.language_model.layers[1].mlp.register_forward_hook(lambda *_: calls.append(1))  # type: ignore[index,union-attr]
    state = model.prefill(prompt)
    assert model.decode_greedy(state, 6)[0].tolist() == expected.tolist() and len(calls) == len(expected)
    assert isinstance(before.cache, KeyValues) and not isinstance(state.cache, KeyValues)
    assert model.step(expected[None, :5], before).logits[0].argmax(-1).tolist() == expected[1:6].tolist()
    kept = model.prefill(prompt, after=before)  # another pass filled it: it is read anew
    assert not isinstance(kept.cache, KeyValues)
    handle.remove()
    assert isinstance(model.prefill(prompt).cache, KeyValues)


def test_angles_that_change_on_the_way_are_refused() -> None:
    """Several tokens in one pass would be turned by other angles than one by one."""
    model = make("Llama", rope_parameters=DYNAMIC, max_position_embeddings=13)
    with pytest.raises(ValueError, match=r"LlamaModel: .* exact up to 13 positions alone"):
        model.decode_greedy(model.prefill(model.encode(SCENES[0], QUESTIONS[0])), 10)


@torch.no_grad()
def test_the_general_pass_does_not_copy_its_cache_at_each_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps, verifications and roll-backs within a growth stay in one place; beyond it nothing is lost."""
    monkeypatch.setattr("egptlib.models._structure.GROWTH", 12)
    model = make("Qwen3")
    prompt = model.encode(SCENES[0], QUESTIONS[0])
    state = model.prefill(prompt)
    layer, places = state.cache.layers[1], list[int]()  # type: ignore[union-attr]
    tokens = torch.randint(3, 60, (1, 40), generator=torch.Generator().manual_seed(0))
    logits = [state.logits]
    for first in range(0, 40, 4):
        model.step(torch.full((1, 3), 7), state)  # a draft that is refused
        model.rollback(state, state.length - 3)
        logits.append(model.step(tokens[:, first : first + 4], state).logits[0])
        places.append(layer.keys.data_ptr())
    assert sum(a != b for a, b in pairwise(places)) == 2  # 40 positions in steps of 12, the first with the prompt
    whole = torch.cat([model.embed(prompt), model.token_embedding(tokens)], dim=1)
    expected = model.lm_head(model.language_model(inputs_embeds=whole, use_cache=False).last_hidden_state)[0, -41:]
    torch.testing.assert_close(torch.cat(logits), expected, atol=1e-4, rtol=1e-4)
    assert GROWTH == 256  # keys and values of a 7B model: 128 MiB of room


def test_a_cache_that_cannot_forget_is_refused() -> None:
    config = transformers.Mamba2Config(
        num_hidden_layers=1, hidden_size=16, num_heads=2, head_dim=16, state_size=4, n_groups=1, vocab_size=8
    )
    with pytest.raises(ValueError, match="expected a cache of keys and values by position, found LinearAttention"):
        whole_cache(SimpleNamespace(config=config))


def test_a_prompt_without_what_its_class_needs_is_refused() -> None:
    """The hook of a class that reads pictures in several layers, and one with positions of its own."""
    model = make("Llama")

    def forward(inputs_embeds: Any = None, deepstack_visual_embeds: Any = None, **_: Any) -> Any: ...

    model.language_model.forward = forward
    model.module.get_rope_index = None
    with pytest.raises(ValueError, match=r"LlamaForCausalLM: .* with deepstack_visual_embeds, position_ids in `given`"):
        model.see(model.encode(SCENES[0], ""))
    given = {"deepstack_visual_embeds": [], "position_ids": torch.arange(9)[None] + 5}
    prompt = model.see(Prompt(model.embed(model.encode(SCENES[0], "")), given))
    assert prompt.offset == 5


@pytest.mark.parametrize("kind", ["Llama", "Qwen3", "Gemma2"])
@torch.no_grad()
def test_the_head_that_is_stored_is_the_models(kind: str) -> None:
    """Gemma's norms keep their weights less 1."""
    model = make(kind)
    head, states = Head.of(model), torch.randn(3, 64)
    torch.testing.assert_close(head.normalise(states), model.final_norm(states), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(head.logits(states), model.lm_head(states))
    model.final_norm = nn.LayerNorm(64)
    with pytest.raises(ValueError, match="expected an RMS norm before the lm head, found LayerNorm"):
        Head.of(model)


def test_a_pair_takes_the_number_of_ids_that_both_share() -> None:
    vocabulary = Pair("two", make("Llama"), make("Qwen3"), 50).vocabulary  # type: ignore[arg-type]
    assert vocabulary.is_shared and len(vocabulary) == 50
