"""A drafter whose head drafts some tokens alone: as its whole head over these, and lossless by every way to decode."""

from pathlib import Path
from typing import Any

import pytest
import torch

from egptlib.adapters import DrafterLora, LoraSettings
from egptlib.decoding import (
    DrafterProcess,
    DrafterThread,
    ModelDrafter,
    Sampling,
    SceneSession,
    TreeShape,
    ask_together,
    hidden_prefill_generate,
    pipelined_generate,
    speculative_generate,
)
from egptlib.hidden_states import Head
from egptlib.models import Model, load_pair, shared_vocabulary
from egptlib.models._trimmed import TrimmedHead, answer_loss, trimmed_tokens

from .conftest import TextModel, make_model, plain
from .test_sampling import SMALL, run_often

TOKENS = torch.tensor([1, 2, 4, 7, 8, 11, 15, 16, 17, 20, 22])


def trim(model: Model, tokens: torch.Tensor) -> None:
    """Let a model's head draft so many tokens, in place; the rows are the whole head's."""
    whole = model.lm_head
    head = TrimmedHead(whole.in_features, len(tokens), whole.out_features)
    head.d2t.copy_(tokens - torch.arange(len(tokens)))
    head.weight.data = whole.weight.data[tokens].clone()
    model.module.lm_head = model.lm_head = head.to(whole.weight)


@pytest.fixture(scope="module")
def trimmed(target: TextModel) -> TextModel:
    model = make_model(1, layers=3, like=target, noise=0.1, name="trimmed")
    trim(model, TOKENS)
    return model


def test_logits_are_the_whole_heads_over_what_is_drafted(target: TextModel, trimmed: TextModel) -> None:
    whole = make_model(1, layers=3, like=target, noise=0.1).lm_head
    states = torch.randn(2, 3, whole.in_features)
    found, expected = trimmed.lm_head(states), whole(states)
    torch.testing.assert_close(found[..., TOKENS], expected[..., TOKENS])
    others = [token for token in range(expected.shape[-1]) if token not in TOKENS]
    assert (found[..., others] == -torch.inf).all() and trimmed.vocab_size == whole.out_features
    labels = torch.tensor([7, 3, 22])  # 3 is not drafted
    logits = expected[0][:, TOKENS].log_softmax(-1)
    own = -(logits[0, 3] + logits[2, 10]) / 2
    torch.testing.assert_close(answer_loss(trimmed.lm_head, states[0], labels), own)
    assert shared_vocabulary(trimmed, target).writable([7, 3, 22, 9]) == 0.5


def test_the_frequent_tokens_come_first_and_the_lowest_ids_fill_up() -> None:
    assert trimmed_tokens([30, 2, 30, 9], 5).tolist() == [0, 1, 2, 9, 30]
    assert trimmed_tokens([8, 7, 6], 2).tolist() == [7, 8]


def test_chains_trees_and_batches_give_the_targets_answer(target: TextModel, trimmed: TextModel) -> None:
    prompts = [[3 + i, 4, 5 + i] for i in range(4)]
    answers = [plain(target, prompt, 12) for prompt in prompts]
    vocabulary = shared_vocabulary(trimmed, target)
    drafter: Any = ModelDrafter(trimmed, vocabulary)
    accepted = 0
    for gamma in (3, TreeShape(8, 3, 3)):
        for prompt, answer in zip(prompts, answers, strict=True):
            out = speculative_generate(target, drafter, prompt, "", gamma=gamma, max_new_tokens=12)
            assert out.token_ids.tolist() == answer
            accepted += sum(each.accepted for each in out.rounds)
    assert accepted > 10
    asked = [(SceneSession(target, drafter, prompt), [""]) for prompt in prompts]
    told = ask_together(asked, gamma=3, max_new_tokens=12)
    assert [one.token_ids.tolist() for (one,) in told] == answers


@pytest.mark.slow
@pytest.mark.parametrize("beside", [DrafterThread, DrafterProcess])
def test_it_drafts_beside_the_target(beside: Any, target: TextModel, trimmed: TextModel, monkeypatch: Any) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent))  # a process finds `TextModel` by its name
    answer = plain(target, [3, 4, 5], 12)
    with beside(ModelDrafter(trimmed, shared_vocabulary(trimmed, target)), target.eos_token_ids) as running:
        for way in (hidden_prefill_generate, pipelined_generate):
            assert way(target, running, [3, 4, 5], "", gamma=3, max_new_tokens=12).token_ids.tolist() == answer


@pytest.mark.slow
@pytest.mark.parametrize("shape", [3, TreeShape(6, 2, 3)])
def test_sampled_answers_are_distributed_as_the_targets_own(shape: int | TreeShape) -> None:
    small, other = make_model(5, SMALL, 1), make_model(6, SMALL, 1, make_model(5, SMALL, 1), noise=0.6)
    trim(other, torch.tensor([1, 4]))
    found = run_often(small, ModelDrafter(other, shared_vocabulary(other, small)), shape, Sampling(1.0))
    assert found.accepted > 25 and found.rejected > 50  # a head of two tokens is seldom right
    assert found.statistic < found.bound


def test_a_stored_head_gives_the_same_logits(trimmed: TextModel, tmp_path: Path) -> None:
    states = torch.randn(4, trimmed.hidden_size)
    head = Head.of(trimmed)
    head.save(tmp_path / "head.safetensors")
    for each in (head, Head.load(tmp_path / "head.safetensors")):
        assert torch.equal(each.logits(states), trimmed.lm_head(states))
    data = (tmp_path / "head.safetensors").read_bytes()
    assert data.count(b'"24"') == 1
    (tmp_path / "head.safetensors").write_bytes(data.replace(b'"24"', b'"25"'))
    with pytest.raises(ValueError, match="damaged"):
        Head.load(tmp_path / "head.safetensors")


def test_lora_reads_no_trimmed_head_as_a_whole_one() -> None:
    pair = load_pair()
    trim(pair.drafter, torch.arange(20))
    with pytest.raises(ValueError, match="LoRA head 'own': EventGPT drafts a part"):
        DrafterLora(pair, LoraSettings(head="own"))
