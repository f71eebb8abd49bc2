"""Drafters beyond a plain model, over one and over two vocabularies: greedy answers stay the target's own."""

import random
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from egptlib.adapters import VARIANTS, create_adapter, token_states
from egptlib.decoding import (
    AdapterDrafter,
    CascadeDrafter,
    Draft,
    Drafter,
    Fuzzy,
    HeadDrafter,
    ModelDrafter,
    NgramDrafter,
    Recorder,
    RetokenizedDrafter,
    Sampler,
    Sampling,
    SequenceDrafter,
    Stop,
    as_drafter,
    speculative_generate,
)
from egptlib.decoding._model_drafter import Chain
from egptlib.models import Inputs, common_vocabulary, shared_vocabulary, spelling

from .conftest import VOCAB, TextModel, make_model, plain


def adapted(level: str, target: TextModel, drafter: TextModel) -> Drafter:
    torch.manual_seed(0)
    adapter: Any = create_adapter(level, hidden_size=32, num_heads=4, ffn_dim=64, bottleneck=16)
    vocabulary = shared_vocabulary(drafter, target)
    kind = HeadDrafter if adapter.runs_ahead else AdapterDrafter
    extra: Any = {"source_layers": (1, 2, 3)} if level in ("E3", "DF") else {}
    return kind(drafter, adapter, target, vocabulary, **extra)


@pytest.mark.parametrize("level", ["L1", "L2", "L3", "L4", "L5", "L5F", "B1", "E3", "DF"])
def test_adapters_and_heads(level: str, target: TextModel, drafter: TextModel) -> None:
    chance, accepted = random.Random(level), 0
    proposes = adapted(level, target, drafter)
    for _ in range(4):
        prompt = [chance.randrange(3, VOCAB) for _ in range(5)]
        limit = chance.randint(2, 25)
        out = speculative_generate(target, proposes, prompt, "", gamma=4, max_new_tokens=limit)
        assert out.token_ids.tolist() == plain(target, prompt, limit)
        assert out.num_drafted_tokens > 0 or len(out.token_ids) <= 2
        accepted += sum(r.accepted for r in out.rounds)
        hot = Sampling(1.0)
        generator = torch.Generator().manual_seed(1)
        assert (
            len(
                speculative_generate(
                    target, proposes, prompt, "", sampling=hot, max_new_tokens=6, generator=generator
                ).token_ids
            )
            > 0
        )
    if level in ("L1", "L2", "L3"):
        assert accepted > 0  # near the identity, and the drafter is near the target


class Recording(HeadDrafter):
    """Keeps what it was asked and what it gave."""

    made: list[tuple[list[int], int, Draft]]

    def propose(self, answer: Sequence[int], count: int, sampler: Sampler, stop: Stop | None = None) -> Draft:
        draft = super().propose(answer, count, sampler, stop)
        self.made.append((list(answer), count, draft))
        return draft


@torch.no_grad()
def whole_pass(model: TextModel, prompt: list[int], tokens: list[int]) -> list[torch.Tensor]:
    """By number of layers, [t + 1, H]: row t stands before token t. The last entry is behind the final norm."""
    out = model.module(torch.tensor([[*prompt, *tokens]]), output_hidden_states=True)
    return [states[0, len(prompt) - 1 :] for states in out.hidden_states]


@pytest.mark.parametrize("lean", [True, False])
@pytest.mark.parametrize("level", ["L5", "L5-reads-last", "L5F", "B1", "E3", "E3S", "DF"])
def test_a_head_drafts_what_its_own_pass_predicts(
    level: str, lean: bool, target: TextModel, drafter: TextModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every draft of whole answers against `ahead` on rows of one plain pass over answer and draft; E3S's over all."""
    if not lean:
        monkeypatch.setattr("egptlib.models._interface.lean_pass", lambda *_: None)
    torch.manual_seed(1)
    name, options = VARIANTS[level]
    head: Any = create_adapter(name, hidden_size=32, num_heads=4, ffn_dim=64, num_source_layers=2, **options).eval()
    with torch.no_grad():
        getattr(head, "positions", torch.empty(0)).normal_(std=0.5)
    layers = (1, 2) if level in ("E3", "E3S", "DF") else ()
    proposes = Recording(drafter, head, target, shared_vocabulary(drafter, target), layers)
    proposes.made, chance, checked = [], random.Random(level), 0
    for _ in range(5):
        prompt = [chance.randrange(3, VOCAB) for _ in range(4)]
        proposes.made.clear()
        out = speculative_generate(target, proposes, prompt, "", gamma=3, max_new_tokens=15)
        assert out.token_ids.tolist() == plain(target, prompt, 15)
        assert ("drafter" in {e.lane for e in out.events if e.stage == "prefill"}) == (name in ("L5", "L5F"))
        for answer, count, draft in proposes.made:
            before = prompt[1:] if level == "E3S" else []  # it reads them too, as rows before the answer's
            tokens, n = [*before, *answer, *draft.tokens], len(before) + len(answer)
            start = prompt[: len(prompt) - len(before)]
            theirs, ours = whole_pass(target, start, tokens), whole_pass(drafter, start, tokens)
            known = torch.arange(len(tokens))[:, None] < n  # the target has read no further
            given = {
                "L5": [ours[-1][:n]],
                "L5-reads-last": [ours[-1][1 : n + 1]],
                "B1": [theirs[-1][:n]],
                "L5F": [ours[-1][1:], theirs[-1][:-1] * known],
                "E3": [
                    torch.stack([theirs[i][:-1] * known for i in layers], dim=1) if layers else torch.empty(0),
                    token_states(torch.tensor([tokens]), target.lm_head.weight)[0],
                ],
            }[level if level not in ("E3S", "DF") else "E3"]
            with torch.no_grad():
                ahead = head.ahead(*(rows[None] for rows in given), depths=count)
            expected = torch.stack([state[0, n - 1] for state in ahead[: len(draft.tokens)]])
            assert draft.hidden is not None
            torch.testing.assert_close(draft.hidden, expected, atol=2e-4, rtol=2e-4)
            assert draft.tokens == target.lm_head(expected).argmax(dim=-1).tolist()
            checked += len(draft.tokens)
    assert checked > 20


def test_a_block_is_chosen_as_its_tokens_are_one_by_one() -> None:
    logits = torch.randn(4, VOCAB, generator=torch.Generator().manual_seed(0))
    for sampling in (None, Sampling(0.8, 10, 0.9)):
        one, block = (Chain(4, Sampler(sampling, torch.Generator().manual_seed(1)), frozenset()) for _ in range(2))
        assert [one.choose(row) for row in logits] == [True, True, True, False]
        assert not block.choose(logits)
        expected, found = one.draft(), block.draft()
        assert found.tokens == expected.tokens and found.confidence == pytest.approx(expected.confidence)
        torch.testing.assert_close(found.logits, expected.logits)
        assert (found.probabilities is None) == (expected.probabilities is None) == (sampling is None)
        if sampling is not None:
            torch.testing.assert_close(found.probabilities, expected.probabilities)


def test_an_l4_aligns_what_its_own_pass_aligns(target: TextModel, drafter: TextModel) -> None:
    torch.manual_seed(2)
    adapter: Any = create_adapter("L4", hidden_size=32, num_heads=4, ffn_dim=64, scale=0.7).eval()
    proposes = AdapterDrafter(drafter, adapter, target, shared_vocabulary(drafter, target))
    prompt = [5, 9, 4, 7]
    proposes.start(prompt, "", Recorder())
    for answer in ([], [7], [7, 8, 9], [7, 8, 4, 5, 6], [7, 8]):  # grows, is cut, and grows again
        draft = proposes.propose(answer, 4, Sampler())
        with torch.no_grad():
            rows = whole_pass(drafter, prompt, [*answer, *draft.tokens])[-1]
            expected = adapter(rows[None])[0, len(answer) : len(answer) + len(draft.tokens)]
        torch.testing.assert_close(draft.hidden, expected, atol=2e-4, rtol=2e-4)
    with pytest.raises(ValueError, match="L4: it looks ahead"):
        looks_ahead = create_adapter("L4", hidden_size=32, num_heads=4, ffn_dim=64, causal=False)
        AdapterDrafter(drafter, looks_ahead, target, shared_vocabulary(drafter, target))


def test_an_unfit_adapter_is_named(target: TextModel, drafter: TextModel) -> None:
    vocabulary = shared_vocabulary(drafter, target)
    small = {"hidden_size": 32, "num_heads": 4, "ffn_dim": 64}
    with pytest.raises(ValueError, match="L5 runs ahead"):
        AdapterDrafter(drafter, create_adapter("L5", **small), target, vocabulary)
    for level, layers in (("E3", (1, 2)), ("B1", (1,))):
        head: Any = create_adapter(level, **small)
        with pytest.raises(ValueError, match=f"head {level}: source_layers: expected"):
            HeadDrafter(drafter, head, target, vocabulary, layers)
    for level, sizes in (("L1", {"hidden_size": 16}), ("L1", {"drafter_size": 16}), ("B1", {"hidden_size": 16})):
        other: Any = create_adapter(level, **small | sizes)
        told = (
            rf"adapter {level}: made for 16 values .* and {sizes.get('hidden_size', 32)} of .*; these have 32 and 32$"
        )
        with pytest.raises(ValueError, match=told):
            (AdapterDrafter if level == "L1" else HeadDrafter)(drafter, other, target, vocabulary)
    unknown: Any = create_adapter("E3", **small)
    with pytest.raises(ValueError, match="layers: target has layers 1 to 3, found 4"):
        speculative_generate(target, HeadDrafter(drafter, unknown, target, vocabulary, (1, 2, 4)), [5], "")


@pytest.mark.parametrize("inner", ["model", "n-grams", "nothing"])
def test_cascades(inner: str, target: TextModel, drafter: TextModel) -> None:
    middle = make_model(11, layers=3, like=target, noise=0.1, name="middle")
    drafters: dict[str, Drafter] = {
        "model": ModelDrafter(drafter, shared_vocabulary(drafter, middle)),
        "n-grams": NgramDrafter(),
        "nothing": SequenceDrafter(),
    }
    small = drafters[inner]
    chance = random.Random(inner)
    for rule in (None, Fuzzy(0.3) if inner == "model" else None):
        cascade = CascadeDrafter(middle, small, shared_vocabulary(middle, target), gamma=3, rule=rule)
        for _ in range(5):
            prompt = [chance.randrange(3, VOCAB) for _ in range(5)]
            limit = chance.randint(1, 30)
            out = speculative_generate(target, cascade, prompt, "", gamma=6, max_new_tokens=limit)
            assert out.token_ids.tolist() == plain(target, prompt, limit)
            if (
                rule is None and out.rounds and out.rounds[0].drafted
            ):  # what it drafts is the middle model's own greedy answer
                start = out.token_ids[:1].tolist()
                own = plain(middle, [*prompt, *start], out.rounds[0].drafted)
                cascade.start(prompt, "", Recorder())
                assert cascade.propose(start, len(own), Sampler()).tokens == own
    with pytest.raises(ValueError, match="under sampling the inner rule has to be lossless"):
        CascadeDrafter(middle, small, shared_vocabulary(middle, target), rule=Fuzzy()).propose(
            [], 2, Sampler(Sampling())
        )


def test_ngrams_propose_what_followed_last() -> None:
    drafter = NgramDrafter(lambda text, add_special_tokens: SimpleNamespace(input_ids=[7, 8, 9, 7, 8, 5]), max_ngram=2)
    drafter.start(None, "", Recorder())
    assert drafter.propose([7, 8], 3, Sampler()).tokens == [5, 7, 8]  # the latest place of (7, 8)
    assert drafter.propose([8, 9], 2, Sampler()).tokens == [7, 8]
    assert drafter.propose([1, 9], 1, Sampler()).tokens == [7]  # no pair, so the single token
    assert drafter.propose([1], 4, Sampler()).tokens == []


def trained(kind: str, size: int, text: list[str]) -> Any:
    """Two really different tokenizers: byte-level BPE and a Unigram over spaced words."""
    if kind == "bpe":
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer: Any = trainers.BpeTrainer(
            vocab_size=size, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False,
            initial_alphabet=sorted(set("".join(text)) - {" "}) + ["Ġ"],
        )  # fmt: skip
    else:
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.UnigramTrainer(
            vocab_size=size, special_tokens=["</s>", "<unk>", "<s>"], unk_token="<unk>", show_progress=False
        )
    tokenizer.train_from_iterator(text, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", unk_token="<unk>", bos_token="<s>")


class WordModel(TextModel):
    """Reads a text as its "scene"."""

    def encode(self, scene: Any, question: str, like: Inputs | None = None) -> Inputs:
        ids = self.tokenizer(scene, add_special_tokens=False).input_ids
        return Inputs(torch.tensor([ids]), torch.empty(0))


def word_model(tokenizer: Any, seed: int) -> WordModel:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=4, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    module = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        module.get_input_embeddings().weight.normal_()
        module.lm_head.weight.normal_(std=0.4)
    return WordModel(module, tokenizer, f"model {seed}")


def test_two_tokenizers() -> None:
    """Greedy identity over token intersection and over text; and sampled answers stay within the target's law."""
    text = ["a red car turns left", "a blue bus goes straight on", "two people cross the road at dusk"] * 4
    bpe, unigram = trained("bpe", 70, text), trained("unigram", 60, text)
    assert bpe("a red car").input_ids != unigram("a red car").input_ids
    assert bpe.eos_token_id != unigram.eos_token_id
    for first, second in ((bpe, unigram), (unigram, bpe)):
        target, drafter = word_model(first, 1), word_model(second, 2)
        vocabulary = common_vocabulary(drafter, target)
        assert 5 < len(vocabulary) < min(len(first), len(second))
        assert not vocabulary.is_shared
        for prompt in ("a red car", "two people cross"):
            reference = plain(target, first(prompt, add_special_tokens=False).input_ids, 20)
            replay = ModelDrafter(drafter, vocabulary)
            by_text = RetokenizedDrafter(drafter, target)
            for proposes in (replay, by_text):
                out = speculative_generate(target, proposes, prompt, "", gamma=4, max_new_tokens=20)
                assert out.token_ids.tolist() == reference
                assert out.num_drafted_tokens > 0


def test_a_word_is_the_same_however_a_vocabulary_marks_it() -> None:
    """Byte-level BPE writes a space as one letter, SentencePiece as another and bytes as numbers."""
    spoken = [b" car", b"\n", "é".encode(), b" turns", b"\xe2"]
    theirs = ["<s>", "</s>", "\u2581car", "<0x0A>", "é", "\u2581turns", "<0xE2>", "\u2581"]
    mine = ["</s>", "Ċ", "Ġturns", "Ã©", "Ġcar", "â", "<s>", "car"]
    target, drafter = (
        word_model(tokenizer, i) for i, tokenizer in enumerate((pieces(theirs, False), pieces(mine, True)))
    )
    vocabulary = common_vocabulary(drafter, target)
    names = {theirs[t]: mine[d] for d, t in zip(vocabulary.drafter_ids.tolist(), vocabulary.target_ids.tolist())}
    assert names == {
        "\u2581car": "Ġcar", "<0x0A>": "Ċ", "é": "Ã©", "\u2581turns": "Ġturns", "<0xE2>": "â", "<s>": "<s>",
        "</s>": "</s>",
    }  # fmt: skip
    for model in (drafter, target):
        assert set(spoken) <= {spelling(model.tokenizer, i) for i in range(8)}
        assert spelling(model.tokenizer, model.tokenizer.eos_token_id) == b""
    assert vocabulary.writable([2, 3, 7, 7]) == 0.5 and vocabulary.writable([]) == 1.0
    assert vocabulary.from_drafter([2, 7]) == [5, -1]


def pieces(names: list[str], byte_level: bool) -> Any:
    """A tokenizer with these tokens."""
    tokenizer = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="<s>"))
    tokenizer.decoder = decoders.ByteLevel() if byte_level else decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", bos_token="<s>")


def test_a_model_drafts_over_another_vocabulary_by_tokens_or_by_text() -> None:
    text = ["a red car turns left", "two people cross the road at dusk"] * 4
    target, drafter = word_model(trained("bpe", 70, text), 1), word_model(trained("unigram", 60, text), 2)
    by_tokens, by_text = as_drafter(drafter, target), as_drafter(drafter, target, "text")
    assert isinstance(by_tokens, ModelDrafter) and not by_tokens.vocabulary.is_shared
    assert isinstance(by_text, RetokenizedDrafter)
    assert as_drafter(by_text, target) is by_text
    same = as_drafter(target, target)
    assert isinstance(same, ModelDrafter) and same.vocabulary.is_shared


def test_mapped_logits_are_the_drafters_own_confined() -> None:
    text = ["a red car turns left", "two people cross the road at dusk"] * 4
    target, drafter = word_model(trained("bpe", 60, text), 1), word_model(trained("unigram", 50, text), 2)
    vocabulary = common_vocabulary(drafter, target)
    logits = torch.randn(3, drafter.vocab_size)
    q = vocabulary.to_target(logits).softmax(dim=-1)
    own = logits.softmax(dim=-1)[:, vocabulary.drafter_ids]
    torch.testing.assert_close(q[:, vocabulary.target_ids], own / own.sum(dim=-1, keepdim=True))
    torch.testing.assert_close(q.sum(dim=-1), torch.ones(3))
    for mine, theirs in zip(vocabulary.drafter_ids.tolist(), vocabulary.target_ids.tolist(), strict=True):
        if theirs not in target.eos_token_ids:
            assert drafter.tokenizer.convert_ids_to_tokens(mine) == target.tokenizer.convert_ids_to_tokens(theirs)
    assert vocabulary.to_drafter(target.tokenizer("red", add_special_tokens=False).input_ids)
