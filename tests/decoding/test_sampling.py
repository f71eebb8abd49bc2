"""Sampling is lossless: what comes out is distributed as the target, counted exactly over a tiny vocabulary."""

import itertools
from collections import Counter
from typing import Any, NamedTuple

import pytest
import torch
from tokenizers import Tokenizer, decoders, models
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    PreTrainedTokenizerFast,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from egptlib.decoding import (
    CascadeDrafter,
    Draft,
    Drafter,
    Lossless,
    ModelDrafter,
    RetokenizedDrafter,
    Rule,
    Sampler,
    Sampling,
    SequenceDrafter,
    TopK,
    TreeShape,
    speculative_generate,
)
from egptlib.models import common_vocabulary, shared_vocabulary

from .conftest import TextModel, make_model

SMALL = 5  # ids 0, 1, 3, 4 and the end token 2
LENGTH = 3
RUNS = 800
# 0.999 quantiles of chi-square for 1 to 130 degrees of freedom lie below this (Wilson and Hilferty 1931, + 1 %).
WORST_Z = 3.09


def chi_square_bound(degrees: int) -> float:
    spread = 2 / (9 * degrees)
    return 1.01 * degrees * (1 - spread + WORST_Z * spread**0.5) ** 3 + 0.5


@pytest.mark.parametrize(
    "settings", [(0.7, None, 1.0), (1.3, 4, 1.0), (1.0, None, 0.8), (0.9, 6, 0.6), (1, 1, 1), (1, 50, 0.01)]
)
def test_settings_mean_what_they_mean_in_transformers(settings: tuple[float, int | None, float]) -> None:
    temperature, top_k, top_p = settings
    logits = 3 * torch.randn(40, 11, generator=torch.Generator().manual_seed(0))
    processors = LogitsProcessorList([TemperatureLogitsWarper(float(temperature))])
    if top_k is not None:
        processors.append(TopKLogitsWarper(top_k))
    if top_p < 1:
        processors.append(TopPLogitsWarper(top_p))
    expected = processors(torch.zeros(40, 1, dtype=torch.long), logits).softmax(dim=-1)
    torch.testing.assert_close(Sampling(temperature, top_k, top_p).probabilities(logits), expected)


@pytest.mark.parametrize(("field", "value"), [("temperature", 0), ("top_k", 0), ("top_p", 0), ("top_p", 1.1)])
def test_wrong_settings_are_refused(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{field}: expected"):
        Sampling(**{field: value})  # type: ignore[arg-type]


def exact_distribution(target: TextModel, prompt: list[int], sampling: Sampling) -> dict[tuple[int, ...], float]:
    """Probability of every answer of at most LENGTH tokens, by enumeration."""
    found: dict[tuple[int, ...], float] = {}

    def extend(answer: tuple[int, ...], weight: float) -> None:
        if len(answer) == LENGTH or (answer and answer[-1] in target.eos_token_ids):
            found[answer] = weight
            return
        with torch.no_grad():
            logits = target.module(torch.tensor([[*prompt, *answer]])).logits[0, -1]
        for token, p in enumerate(sampling.probabilities(logits).tolist()):
            if p > 0:
                extend((*answer, token), weight * p)

    extend((), 1.0)
    return found


@pytest.fixture(scope="module")
def small() -> TextModel:
    return make_model(5, SMALL, 1)


def drafters(target: TextModel) -> dict[str, Drafter]:
    other = make_model(6, SMALL, 1, target, noise=0.6)
    middle = make_model(7, SMALL, 1, target, noise=0.3)
    own = ModelDrafter(other, shared_vocabulary(other, target))
    return {
        "model": own,
        "sequence": SequenceDrafter([3, 4, 1, 3]),
        "cascade": CascadeDrafter(middle, own, shared_vocabulary(middle, target), gamma=2),
    }


@pytest.mark.parametrize(
    ("kind", "gamma", "sampling"),
    [
        pytest.param("model", 1, Sampling(1.0), marks=pytest.mark.slow),
        ("model", 2, Sampling(0.7, top_k=4)),
        ("model", 5, Sampling(1.2, top_p=0.85)),
        ("sequence", 3, Sampling(1.0)),
        ("cascade", 3, Sampling(1.0)),
    ],
)
def test_answers_are_distributed_as_the_targets_own(
    small: TextModel, kind: str, gamma: int, sampling: Sampling
) -> None:
    found = run_often(small, drafters(small)[kind], gamma, sampling)
    assert found.accepted > 0
    assert found.statistic < found.bound


class Runs(NamedTuple):
    """Counts of RUNS answers against the target's own law: chi-square, what it stays below, draft tokens by fate."""

    statistic: float
    bound: float
    accepted: int
    rejected: int


def run_often(
    target: TextModel,
    drafter: Drafter,
    gamma: int | TreeShape,
    sampling: Sampling,
    rule: Rule | None = None,
    seed: int = 0,
) -> Runs:
    prompt = [3, 4, 1]
    expected = exact_distribution(target, prompt, sampling)
    assert sum(expected.values()) == pytest.approx(1, abs=1e-5)
    size = gamma.size if isinstance(gamma, TreeShape) else gamma
    generator = torch.Generator().manual_seed(size + seed)
    counts: Counter[tuple[int, ...]] = Counter()
    accepted = rejected = 0
    for _ in range(RUNS):
        out = speculative_generate(
            target, drafter, prompt, "", gamma=gamma, max_new_tokens=LENGTH, sampling=sampling, generator=generator,
            rule=rule,
        )  # fmt: skip
        counts[tuple(out.token_ids.tolist())] += 1
        accepted += sum(r.accepted for r in out.rounds)
        rejected += sum(r.accepted < r.drafted for r in out.rounds)
    assert set(counts) <= set(expected)
    common = [answer for answer, p in expected.items() if p * RUNS >= 5]
    cells = [(counts[answer], expected[answer] * RUNS) for answer in common]
    rest = 1 - sum(expected[answer] for answer in common)
    if rest * RUNS >= 5:
        cells.append((RUNS - sum(counts[answer] for answer in common), rest * RUNS))
    statistic = sum((observed - mean) ** 2 / mean for observed, mean in cells)
    return Runs(statistic, chi_square_bound(len(cells) - 1), accepted, rejected)


def letters(names: list[str], merge: tuple[str, str]) -> Any:
    """A byte-pair tokenizer whose tokens, in order, are `names`, with one merge."""
    model = models.BPE(vocab={name: i for i, name in enumerate(names)}, merges=[merge], unk_token="<unk>")
    tokenizer = Tokenizer(model)
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", unk_token="<unk>")


@pytest.fixture(scope="module")
def strangers(small: TextModel) -> tuple[TextModel, TextModel]:
    """A target that knows a, b and ab, and a drafter that knows a, b, c and ba, with other numbers for all of them."""
    target = TextModel(small.module, letters(["<unk>", "a", "</s>", "b", "ab"], ("a", "b")), "target")
    drafter = make_model(9, SMALL + 1, 1, name="drafter")
    drafter = TextModel(drafter.module, letters(["</s>", "ba", "b", "a", "<unk>", "c"], ("b", "a")), "drafter")
    drafter.eos_token_ids = frozenset({0})
    return target, drafter


@pytest.mark.parametrize("gamma", [*(pytest.param(few, marks=pytest.mark.slow) for few in (1, 2)), 4])
@pytest.mark.parametrize("how", ["intersection", "text"])
def test_two_vocabularies_keep_the_targets_law(how: str, gamma: int, strangers: tuple[TextModel, TextModel]) -> None:
    """Timor et al. 2502.05202: rejection with the drafter confined to the common tokens (algorithm 4), and drafts that
    pass through text, which count as chosen with certainty. Both keep the law exactly, whatever is drafted."""
    target, drafter = strangers
    vocabulary = common_vocabulary(drafter, target)
    assert not vocabulary.is_shared and len(vocabulary) == 4  # a, b, <unk>, and the ends
    assert vocabulary.to_drafter([4, 3]) == [3, 2, 2]  # ab, b
    proposes: Drafter = (
        ModelDrafter(drafter, vocabulary) if how == "intersection" else RetokenizedDrafter(drafter, target)
    )
    found = run_often(target, proposes, gamma, Sampling(2.0), seed=10)
    assert found.accepted > 50 and found.rejected > 50
    assert found.statistic < found.bound


@pytest.mark.parametrize("how", ["intersection", "text"])
def test_a_law_that_is_bent_is_noticed(how: str, strangers: tuple[TextModel, TextModel]) -> None:
    """The same count with a rule that keeps every draft token: chi-square is far beyond its bound."""
    target, drafter = strangers
    proposes: Drafter = (
        ModelDrafter(drafter, common_vocabulary(drafter, target))
        if how == "intersection"
        else RetokenizedDrafter(drafter, target)
    )
    found = run_often(target, proposes, 2, Sampling(2.0), TopK(SMALL))
    assert found.rejected == 0
    assert found.statistic > 1.5 * found.bound


def enumerate_rejection(p: Tensor, q: Tensor) -> Tensor:
    """The law of the first token of one verification, summed over every draft token x ~ q."""
    kept = torch.minimum(p, q)
    rest = (p - q).clamp_min(0)
    return kept + (1 - kept.sum()) * rest / rest.sum()


def test_one_rejection_step_keeps_the_law() -> None:
    """Many draws of one step against p, for a q that is nothing like it; and the bound test catches a wrong law."""
    p, q = torch.tensor([0.5, 0.2, 0.2, 0.1]), torch.tensor([0.1, 0.1, 0.3, 0.5])
    torch.testing.assert_close(enumerate_rejection(p, q), p)
    sampler = Sampler(Sampling(), torch.Generator().manual_seed(1))
    counts, logits = [0] * 4, torch.stack([p, p]).log()
    for _ in range(4000):
        draft = Draft([sampler.draw(q)], [1.0], q[None])
        verdict = Lossless()(draft, logits, torch.empty(0), sampler)
        counts[draft.tokens[0] if verdict.accepted else verdict.token] += 1

    def statistic(law: Tensor) -> float:
        return sum((n - 4000 * m) ** 2 / (4000 * m) for n, m in zip(counts, law.tolist(), strict=True))

    assert statistic(p) < chi_square_bound(3)
    assert statistic(0.9 * p + 0.1 * q) > chi_square_bound(3)


def test_where_drafter_and_target_agree_everything_is_kept() -> None:
    p = torch.tensor([[0.25, 0.75]])
    sampler = Sampler(Sampling(), torch.Generator().manual_seed(0))
    for _, token in itertools.product(range(50), range(2)):
        assert Lossless()(Draft([token], [1.0], p), p.log().expand(2, 2), torch.empty(0), sampler).accepted == 1
