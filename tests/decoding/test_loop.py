"""The loop against plain decoding, in hundreds of random cases."""

import random
from collections.abc import Sequence

import pytest
import torch

from egptlib.decoding import (
    Draft,
    Drafter,
    FixedLength,
    ModelDrafter,
    NgramDrafter,
    PromptReader,
    Recorder,
    Sampler,
    SequenceDrafter,
    Stop,
    acceptance_by_position,
    speculative_decode,
    speculative_generate,
)
from egptlib.models import common_vocabulary, shared_vocabulary

from .conftest import EOS, VOCAB, TextModel, make_model, plain


class Capricious(SequenceDrafter):
    """Proposes as many random tokens as it likes, too many and end tokens included."""

    def __init__(self, seed: int):
        super().__init__(name="capricious")
        self.random = random.Random(seed)

    def propose(self, answer: Sequence[int], count: int, sampler: Sampler, stop: Stop | None = None) -> Draft:
        tokens = [self.random.randrange(VOCAB) for _ in range(self.random.randrange(count + 4))]
        return Draft(tokens, [1.0] * len(tokens))


def make_drafter(kind: str, target: TextModel, drafter: TextModel, seed: int, answer: list[int]) -> Drafter:
    if kind == "model":
        return ModelDrafter(drafter, shared_vocabulary(drafter, target))
    if kind == "narrow":  # a drafter that lacks the target's last tokens
        narrow = make_model(seed, VOCAB - 5, 1, target if seed % 2 else None, 0.1)
        return ModelDrafter(narrow, common_vocabulary(narrow, target))
    if kind == "recorded":
        wrong = [(token + 1) % VOCAB if i % 7 == 6 else token for i, token in enumerate(answer)]
        return SequenceDrafter(wrong)
    return NgramDrafter() if kind == "n-grams" else Capricious(seed)


@pytest.mark.parametrize("kind", ["model", "narrow", "recorded", "n-grams", "capricious"])
def test_greedy_equals_plain_decoding(kind: str, target: TextModel, drafter: TextModel) -> None:
    """60 random cases a drafter: prompts of 1 to 12 tokens, limits of 1 to 40, gamma of 0 to 12."""
    chance = random.Random(kind)
    ended = accepted = 0
    for case in range(60):
        prompt = [chance.randrange(3, VOCAB) for _ in range(chance.randint(1, 12))]
        limit, gamma = chance.randint(1, 40), chance.randint(0, 12)
        expected = plain(target, prompt, limit)
        proposes = make_drafter(kind, target, drafter, case, expected)
        length = FixedLength(gamma, chance.choice([0.0, 0.5]))
        out = speculative_generate(target, proposes, prompt, "", gamma=length, max_new_tokens=limit)
        assert out.token_ids.tolist() == expected, (case, prompt, limit, gamma)
        assert out.lossless
        assert sum(r.gained for r in out.rounds) == len(expected) - 1
        assert all(r.accepted <= r.drafted <= gamma for r in out.rounds)
        ended += expected[-1] == EOS
        accepted += sum(r.accepted for r in out.rounds)
    assert accepted > (0 if kind == "capricious" else 60)
    assert ended > 0  # some answers end by themselves


@pytest.mark.parametrize("drafted", [0, 1, 4, 60])
def test_drafts_made_before_the_first_token(drafted: int, target: TextModel, drafter: TextModel) -> None:
    """What was drafted while the target read its prompt is judged by the prefill's own logits first."""
    chance = random.Random(drafted)
    for _ in range(30):
        prompt = [chance.randrange(3, VOCAB) for _ in range(6)]
        limit = chance.randint(1, 20)
        proposes = ModelDrafter(drafter, shared_vocabulary(drafter, target))
        proposes.start(prompt, "", Recorder())
        draft = proposes.propose([], drafted, Sampler())
        state = PromptReader(target, prompt, "target").read("", Recorder())
        out = speculative_decode(target, state, proposes, gamma=3, max_new_tokens=limit, draft=draft)
        assert out.token_ids.tolist() == plain(target, prompt, limit)


def test_nothing_is_read_twice(target: TextModel, drafter: TextModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """One target pass a verification, over the last token and the draft; both caches are cut, never filled again."""
    prompt, passes = [5, 9, 4, 7], {"target": list[int](), "drafter": list[int]()}
    for model in (target, drafter):
        monkeypatch.setattr(model, "read", counted(model.read, passes[model.name]))
    out = speculative_generate(target, drafter, prompt, "", gamma=4, max_new_tokens=40)
    assert passes["target"] == [1 + r.drafted for r in out.rounds]
    # The drafter reads what is new: its own tokens but the last, and what the target added (and its last, if kept).
    assert max(passes["drafter"]) <= 2
    assert sum(passes["drafter"]) <= sum(r.drafted + 1 for r in out.rounds)
    assert 1 < out.mean_acceptance_length <= 5
    assert {e.stage for e in out.events if e.lane == "target"} == {"preprocess", "vision", "prefill", "verify"}


def counted(function, widths):
    def call(tokens, *rest):
        if rest:
            widths.append(tokens.shape[1])
        return function(tokens, *rest)

    return call


def test_figures_of_a_run(target: TextModel) -> None:
    prompt = [5, 9, 4, 7]
    expected = plain(target, prompt, 12)
    nothing = speculative_generate(target, SequenceDrafter(), prompt, "", max_new_tokens=12)
    assert nothing.mean_acceptance_length == 1
    assert nothing.num_accepted_tokens == nothing.alpha == 0
    assert nothing.histogram == {0: len(expected) - 1}
    assert set(nothing.times) - {"drafter.draft"} == {
        f"target.{s}" for s in ("preprocess", "vision", "prefill", "step")
    }
    assert 0 < sum(nothing.times.values()) <= nothing.wall_seconds
    wrong = [*expected[:4], (expected[4] + 1) % VOCAB]
    out = speculative_generate(target, SequenceDrafter(wrong), prompt, "", gamma=4, max_new_tokens=12)
    assert out.rounds[0] == (4, 3, 4)
    assert out.alpha == 0.75
    assert acceptance_by_position(out.rounds)[:4] == [1.0, 1.0, 1.0, 0.0]
    assert out.text == target.decode_text(expected)
    with pytest.raises(ValueError, match="max_new_tokens: expected at least 1"):
        speculative_generate(target, SequenceDrafter(), prompt, "", max_new_tokens=0)
    assert torch.equal(out.token_ids, torch.tensor(expected))
