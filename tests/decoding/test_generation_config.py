"""What a checkpoint's generation_config.json asks for comes out of every way to decode, as out of `generate`."""

import copy
import json
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from egptlib.decoding import (
    DrafterThread,
    ModelDrafter,
    NgramDrafter,
    Sampling,
    SceneSession,
    SequenceDrafter,
    TreeShape,
    hidden_prefill_generate,
    pipelined_generate,
    speculative_generate,
)
from egptlib.measuring import find_divergences, record_agreement
from egptlib.metrics import replay
from egptlib.models import Inputs, Prompt, PromptAs, shared_vocabulary
from egptlib.models._rules import APPLIED, REFUSED

from .conftest import TextModel, plain

LENGTH = 14
PROMPTS = [[1, 5, 7], [1, 9, 9, 3, 11]]
AT = 1000  # stands, with a place added, for the token that the first prompt's plain answer has there
FIELDS: list[dict[str, Any]] = [
    {"repetition_penalty": 1.6},
    {"no_repeat_ngram_size": 2},
    {"suppress_tokens": [AT + 1, 7]},
    {"begin_suppress_tokens": [AT + 0, 3, 8]},
    {"min_new_tokens": LENGTH},
    {"min_length": 12},
    {"bad_words_ids": [[AT + 2], [AT + 0, AT + 1], [14, 3, 2]]},
    {"sequence_bias": [[[15], 4.0], [[4, 7], -9.0]]},
    {"encoder_repetition_penalty": 0.6},
    {"encoder_no_repeat_ngram_size": 1},
    {"exponential_decay_length_penalty": [3, 1.4]},
    {"forced_bos_token_id": 6},
    {"repetition_penalty": 1.3, "no_repeat_ngram_size": 3, "suppress_tokens": [16], "renormalize_logits": True},
]


class PromptModel(TextModel):
    """Counts the prompt's ids, as `generate` does when it is called with ids."""

    def embed(self, inputs: Inputs) -> Prompt:  # type: ignore[override]
        return Prompt(self.token_embedding(inputs.input_ids), ids=inputs.input_ids[0])

    def generate_inputs(self, inputs: Inputs, prompt_as: PromptAs | None = None) -> dict[str, Any]:
        return {"input_ids": inputs.input_ids, "attention_mask": torch.ones_like(inputs.input_ids)}


@pytest.fixture(params=[PromptModel])
def reader(request: pytest.FixtureRequest, target: TextModel) -> TextModel:
    """The target with a generation_config of its own; its prompts are counted by the rules, or are not."""
    module = copy.copy(target.module)
    module.generation_config = copy.deepcopy(target.module.generation_config)
    first = plain(target, PROMPTS[0], LENGTH)
    end = next(token for token in first[4:] if token not in first[:4])  # its answer ends early
    module.generation_config.eos_token_id = [2, end]
    made: TextModel = request.param(module, target.tokenizer, "target")
    return made


@contextmanager
def asked_for(model: TextModel, fields: dict[str, Any]) -> Iterator[None]:
    model.module.generation_config.update(**fields)
    try:
        yield
    finally:
        model.module.generation_config.update(**dict.fromkeys(fields))


def generate(model: TextModel, prompt: list[int]) -> list[int]:
    ids = torch.tensor([prompt])
    given: dict[str, Any] = {"attention_mask": torch.ones_like(ids)}
    if not isinstance(model, PromptModel):
        given["inputs_embeds"], ids = model.token_embedding(ids), None  # type: ignore[assignment]
    with torch.no_grad():
        out = model.module.generate(ids, **given, do_sample=False, max_new_tokens=LENGTH)
    return out[0, 0 if ids is None else len(prompt) :].tolist()


@pytest.mark.filterwarnings("ignore:Passing `.*` (requires|with) :UserWarning")
@pytest.mark.parametrize(
    ("reader", "fields"),
    [
        *(pytest.param(PromptModel, fields, id="-".join(fields)) for fields in FIELDS),
        *(pytest.param(TextModel, FIELDS[i], id=f"{next(iter(FIELDS[i]))} of embeddings") for i in (0, 5, -1)),
    ],
    indirect=["reader"],
)
def test_every_way_gives_the_tokens_of_generate(reader: TextModel, drafter: TextModel, fields: dict[str, Any]) -> None:
    vocabulary = shared_vocabulary(drafter, reader)
    changed, before = 0, [generate(reader, prompt) for prompt in PROMPTS]
    told = json.dumps(fields)
    for place, token in enumerate(before[0]):
        told = re.sub(rf"\b{AT + place}\b", str(token), told)
    with asked_for(reader, json.loads(told)):
        for prompt, without in zip(PROMPTS, before, strict=True):
            expected = generate(reader, prompt)
            changed += expected != without
            state = reader.prefill(reader.encode(prompt, ""))
            assert reader.decode_greedy(state, LENGTH)[0].tolist() == expected
            wrong = [3 + (token + 1) % 20 if i % 3 == 2 else token for i, token in enumerate(expected)]
            for drafts in (drafter, NgramDrafter(), SequenceDrafter(wrong)):
                found = speculative_generate(reader, drafts, prompt, "", gamma=4, max_new_tokens=LENGTH)
                assert found.token_ids.tolist() == expected and found.lossless
            branching = speculative_generate(
                reader, drafter, prompt, "", gamma=TreeShape(8, 4, 3), max_new_tokens=LENGTH
            )
            assert branching.token_ids.tolist() == expected
            session = SceneSession(reader, drafter, prompt)
            assert session.ask("", max_new_tokens=LENGTH).token_ids.tolist() == expected
            together = session.ask_all(["", ""], max_new_tokens=LENGTH)
            assert [each.token_ids.tolist() for each in together] == [expected] * 2
            logits = reader.forward_answer(reader.encode(prompt, ""), expected)[1]
            assert logits.argmax(dim=-1).tolist() == expected
            with DrafterThread(ModelDrafter(drafter, vocabulary), reader.eos_token_ids) as beside:
                for way in (hidden_prefill_generate, pipelined_generate):
                    found = way(reader, beside, prompt, "", gamma=3, max_new_tokens=LENGTH)
                    assert found.token_ids.tolist() == expected
    # These look at the prompt alone, which is not there as embeddings, or are for empty prompts.
    assert changed or next(iter(fields)).startswith(("encoder", "forced"))


@pytest.mark.parametrize("field", REFUSED)
def test_what_cannot_be_followed_is_refused_by_name(reader: TextModel, field: str) -> None:
    setattr(reader.module.generation_config, field, 3)
    with pytest.raises(ValueError, match=rf"generation_config.json: {field}: 3 cannot be followed"):
        reader.prefill(reader.encode(PROMPTS[0], ""))


def test_every_processor_of_transformers_is_known(target: TextModel) -> None:
    """A field that makes transformers build a processor is applied or refused; one of a newer version would be told."""
    config, _ = target.module._prepare_generation_config(None, do_sample=False)
    told = {name for name in vars(config) if not name.startswith("_")}
    neutral = told - set(APPLIED) - set(REFUSED)
    target.module._prepare_special_tokens(config, True, device=torch.device("cpu"), batch_size=1)
    for name in neutral - {"eos_token_id", "bos_token_id", "pad_token_id", "max_length"}:
        trial = copy.copy(config)
        setattr(trial, name, 0.5)
        built = target.module._get_logits_processor(trial, input_ids_seq_length=3, device="cpu", model_kwargs={})
        of_sampling = {
            "do_sample",
            "temperature",
            "top_k",
            "top_p",
            "min_p",
            "typical_p",
            "epsilon_cutoff",
            "eta_cutoff",
        }
        assert not built or name in of_sampling | {"top_h"}, name


def test_sampling_draws_from_what_the_rules_leave(reader: TextModel, drafter: TextModel) -> None:
    banned = [3, 5, 7, 8, 9, 10, 11, 12, 13]
    with asked_for(reader, {"suppress_tokens": banned}):
        generator = torch.Generator().manual_seed(3)
        for _ in range(40):
            found = speculative_generate(
                reader, drafter, PROMPTS[0], "", gamma=2, max_new_tokens=3, sampling=Sampling(), generator=generator
            )
            assert not set(found.token_ids.tolist()) & set(banned)


def test_a_replay_of_the_trace_is_the_loop(reader: TextModel, drafter: TextModel) -> None:
    """Along the target's path after its rules, a drafter's matches give each round of the real loop."""
    drafter_rules = drafter.module.generation_config
    with asked_for(reader, {"no_repeat_ngram_size": 2}):
        drafter_rules.update(repetition_penalty=1.5)  # a drafter's own rules are not asked for
        try:
            agreement = record_agreement(reader, drafter, [(Prompted(p), "") for p in PROMPTS], LENGTH)
            rounds = [speculative_generate(reader, drafter, p, "", gamma=3, max_new_tokens=LENGTH) for p in PROMPTS]
        finally:
            drafter_rules.update(repetition_penalty=None)
    told = replay(agreement.match, agreement.lengths, [3], limit=LENGTH, stops=agreement.ends)
    assert [found.token_ids.tolist() for found in rounds] == agreement.token_ids
    assert [told.rounds(i, 3) for i in range(len(PROMPTS))] == [list(found.rounds) for found in rounds]


@pytest.mark.filterwarnings("ignore:Passing `repetition_penalty` with:UserWarning")
def test_divergences_are_told_against_the_rules(reader: TextModel) -> None:
    with asked_for(reader, {"repetition_penalty": 1.6}):
        scene = Prompted(PROMPTS[0])
        answer = reader.decode_greedy(reader.start(scene, ""), LENGTH)[0].tolist()
        found = find_divergences(reader, {"ours": lambda *_: answer}, [(scene, "")], LENGTH)
    assert found.parted["ours"] == [] and min(found.gaps) >= 0 and not any(map(math.isnan, found.gaps))


class Prompted(list[int]):
    """A scene with the attributes that reports read."""

    metadata = {"load_seconds": 0.0}  # noqa: RUF012
    id = "prompt"


def test_rules_forget_what_is_rolled_back(reader: TextModel) -> None:
    with torch.no_grad(), asked_for(reader, {"repetition_penalty": 3.0}):
        state = reader.prefill(reader.encode(PROMPTS[0], ""))
        length = state.length
        step = reader.step(torch.tensor([[6, 9, 12]]), state).logits
        reader.rollback(state, length + 1)
        again = reader.step(torch.tensor([[9, 12]]), state).logits
    torch.testing.assert_close(again, step[:, 1:])
    raw: Tensor = reader.lm_head(reader.read(torch.tensor([[4]]), state)[0])
    assert not torch.allclose(raw, reader.step(torch.tensor([[4]]), state).logits[0])
