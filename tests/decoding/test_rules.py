"""Lossy rules, each against its formula; and how long to draft, against brute force."""

import math
from dataclasses import replace

import pytest
import torch

from egptlib.decoding import (
    AdaptiveLength,
    CosineThreshold,
    Deferral,
    Draft,
    FixedLength,
    Fuzzy,
    ModelDrafter,
    Sampler,
    Sampling,
    SequenceDrafter,
    TopK,
    Typical,
    speculative_generate,
)
from egptlib.decoding._round import keep
from egptlib.decoding._rules import Verdict
from egptlib.hidden_states._samples import figures
from egptlib.metrics import Costs
from egptlib.models import likelihoods, shared_vocabulary

from .conftest import TextModel, plain

P = torch.tensor([[0.5, 0.3, 0.15, 0.05], [0.4, 0.3, 0.2, 0.1], [0.7, 0.1, 0.1, 0.1]])  # the last row is the bonus
Q = torch.tensor([[0.45, 0.35, 0.15, 0.05], [0.01, 0.01, 0.01, 0.97]])


def judge(rule, tokens, hidden=None, target_hidden=None):
    draft = Draft(tokens, [1.0] * len(tokens), None, Q.log()[: len(tokens)], hidden)
    states = torch.zeros(3, 2) if target_hidden is None else target_hidden
    return tuple(rule(draft, P.log()[: len(tokens) + 1], states[: len(tokens) + 1], Sampler()))[:2]


def test_top_k() -> None:
    assert judge(TopK(1), [0, 0]) == (2, 0)
    assert judge(TopK(2), [1, 1]) == (2, 0)
    assert judge(TopK(2), [1, 2]) == (1, 0)
    assert judge(TopK(1), [1, 0]) == (0, 0)


def test_typical() -> None:
    entropy = -sum(p * math.log(p) for p in P[0].tolist())
    for epsilon, delta in ((0.2, 1.0), (0.9, 0.5), (0.04, 9.0)):
        bound = min(epsilon, delta * math.exp(-entropy))
        for token in range(4):
            expected = P[0, token] > bound or token == 0
            assert (
                judge(Typical(epsilon, delta), [token, 0])[0] > 0
                if expected
                else judge(Typical(epsilon, delta), [token, 0])[0] == 0
            )


def test_fuzzy() -> None:
    def divergence(p: list[float], q: list[float]) -> float:
        middle = [(a + b) / 2 for a, b in zip(p, q, strict=True)]
        return sum(x * math.log(x / m) / 2 for side in (p, q) for x, m in zip(side, middle, strict=True))

    near, far = (divergence(P[i].tolist(), Q[i].tolist()) for i in range(2))
    assert near < 0.01 < far
    assert judge(Fuzzy(near + 1e-4), [3, 3]) == (1, 0)
    assert judge(Fuzzy(far + 1e-4), [3, 3]) == (2, 0)
    assert judge(Fuzzy(near - 1e-4), [3, 3]) == (0, 0)
    with pytest.raises(ValueError, match="expected a drafter with logits"):
        Fuzzy()(Draft([1], [1.0]), P[:2].log(), torch.zeros(2, 2), Sampler())


def test_cosine() -> None:
    theirs = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    ours = torch.tensor([[0.9, 0.1], [0.5, 0.5]])
    assert judge(CosineThreshold(0.9), [3, 3], ours, theirs) == (1, 0)
    assert judge(CosineThreshold(0.7), [3, 3], ours, theirs) == (2, 0)
    assert judge(CosineThreshold(0.999), [0, 3], ours, theirs) == (1, 0)  # the target's own choice needs no cosine
    with pytest.raises(ValueError, match="hidden states aligned"):
        judge(CosineThreshold(), [1, 1])


def test_deferral() -> None:
    """Row 0: max q 0.45 < 0.5 - 0.1 * 0.05, deferred, so token 0; row 1: the drafter is sure, its own token stays."""
    assert judge(Deferral(0.1), [0, 3]) == (2, 0)
    assert judge(Deferral(0.1), [1, 3]) == (0, 0)
    assert judge(Deferral(2.0), [0, 0]) == (1, 3)
    sampler = Sampler(Sampling(), torch.Generator().manual_seed(0))
    counts = [0] * 4
    for _ in range(3000):  # row 1 is not deferred: what comes out follows q there, nothing is rejected
        token = sampler.draw(Q[1])
        draft = Draft([token], [1.0], Q[1:], Q[1:].log())
        verdict = Deferral(0.1)(draft, P[1:].log(), torch.zeros(2, 2), sampler)
        assert verdict.accepted == 1
        counts[token] += 1
    assert counts[3] / 3000 == pytest.approx(0.97, abs=0.02)


def test_lossy_runs_say_so(target: TextModel, drafter: TextModel) -> None:
    prompt = [5, 9, 4, 7]
    proposes = ModelDrafter(drafter, shared_vocabulary(drafter, target))
    strict = speculative_generate(target, proposes, prompt, "", max_new_tokens=20)
    assert strict.lossless
    for rule in (TopK(4), Typical(), Fuzzy(0.6), Deferral(0.5)):
        out = speculative_generate(target, proposes, prompt, "", max_new_tokens=20, rule=rule)
        assert not out.lossless
        assert "(lossy)" in rule.name
        assert 1 <= len(out.token_ids) <= 20
    assert speculative_generate(target, proposes, prompt, "", max_new_tokens=20, rule=TopK(1)).token_ids.tolist() == (
        plain(target, prompt, 20)
    )
    for wrong in (lambda: TopK(0), lambda: CosineThreshold(2), lambda: Fuzzy(-1)):
        with pytest.raises(ValueError, match="expected"):
            wrong()


def costs(drafter_step: float, prefill: float = 0.0) -> Costs:
    return Costs(
        target_step=0.010,
        drafter_step=drafter_step,
        verify={0: 0.010, 8: 0.014},
        drafter_stages={"prefill": prefill},
    )


@pytest.mark.parametrize("alpha", [0.3, 0.6, 0.9])
@pytest.mark.parametrize("step", [0.001, 0.004])
def test_gamma_from_the_cost_curve(alpha: float, step: float) -> None:
    """Against the expected tokens a second, summed term by term."""
    length = AdaptiveLength(costs(step), gamma=8, alpha=alpha)
    length.start()
    rates = {}
    for gamma in range(1, 9):
        tokens = sum(alpha**k for k in range(gamma + 1))
        rates[gamma] = tokens / (gamma * step + 0.010 + 0.004 * gamma / 8)
    best = max(rates, key=rates.__getitem__)
    assert length.count() == (best if rates[best] > 1.02 / 0.010 else 0)


def test_drafting_is_skipped_where_it_does_not_pay(target: TextModel, drafter: TextModel) -> None:
    length = AdaptiveLength(costs(0.003), alpha=0.7)
    length.start()
    assert length.count() > 0
    for _ in range(6):
        length.observe(3, 0)
    assert length.count() == 0  # this sample goes on without drafts
    length.start()
    assert length.count() > 0  # the next one is tried again
    assert AdaptiveLength(costs(0.001, prefill=0.01)).pays(50)
    assert not AdaptiveLength(costs(0.001, prefill=0.01)).pays(1)
    assert not AdaptiveLength(costs(0.020)).pays(50)
    loaded = replace(costs(0.001), drafter_stages={"load": 10.0, "prefill": 0.01})  # disk time is nobody's choice
    assert AdaptiveLength(loaded).pays(50)
    dear = AdaptiveLength(costs(0.001, prefill=10.0))
    out = speculative_generate(target, drafter, [5, 9, 4], "", gamma=dear, max_new_tokens=10)
    assert {event.lane for event in out.events} == {"target"}  # the drafter did not even read the prompt
    assert out.token_ids.tolist() == plain(target, [5, 9, 4], 10)


def test_drafts_end_where_the_drafter_is_unsure() -> None:
    drafter = SequenceDrafter(range(9))
    assert drafter.propose([], 5, Sampler(), lambda confidence: confidence > 0.5).tokens == [0]
    assert FixedLength(4, 0.5).stop(0.4)
    assert not FixedLength(4, 0.5).stop(0.6)
    with pytest.raises(ValueError, match="gamma: expected at least 0"):
        FixedLength(-1)
    with pytest.raises(ValueError, match="min_confidence"):
        FixedLength(1, 1.5)


def test_figures_of_16_bit_logits_have_more_than_8_bits() -> None:
    """Overlap, entropy, confidence and the probabilities that are drawn from, against float64 of the same logits."""
    wide = torch.randn(2, 40, 50, generator=torch.Generator().manual_seed(2)) * 4
    for dtype in (torch.bfloat16, torch.float16):
        drafter, target = wide.to(dtype)
        q, p = drafter.double().softmax(-1), target.double().softmax(-1)
        found = figures(drafter, target)
        expected = {
            "overlap": torch.minimum(p, q).sum(-1),
            "drafter_confidence": q.amax(-1),
            "target_entropy": torch.special.entr(p).sum(-1),
        }
        for name, figure in expected.items():
            torch.testing.assert_close(found[name].double(), figure, atol=2e-6, rtol=2e-6)
        sampled = Sampling(0.7).probabilities(target)
        torch.testing.assert_close(sampled.double(), (target.double() / 0.7).softmax(-1), atol=2e-6, rtol=2e-5)
        tokens = drafter.argmax(-1)
        named = likelihoods(drafter, tokens).double()
        torch.testing.assert_close(named, q.gather(1, tokens[:, None])[:, 0], atol=2e-6, rtol=2e-6)
        draft = Draft(tokens.tolist(), logits=drafter)
        middle = (p + q) / 2
        apart = [torch.special.entr(x).sum(-1) for x in (middle, p, q)]
        apart_by = apart[0] - (apart[1] + apart[2]) / 2
        level = float(apart_by.sort().values[19:21].mean())
        kept = Fuzzy(level).passes(draft, target, torch.empty(0))
        assert kept.tolist() == (apart_by <= level).tolist()
        sure = p.gather(1, tokens[:, None])[:, 0]
        bound = (0.3 * (-apart[1]).exp()).clamp_max(0.09)
        assert Typical().passes(draft, target, torch.empty(0)).tolist() == (sure > bound).tolist()


@pytest.mark.parametrize("ends", [set(), {2}, {7}, {1, 7}, {3, 7}, {1, 2, 3, 4}])
@pytest.mark.parametrize("accepted", range(5))
def test_an_answer_ends_at_its_first_end_token_and_only_tokens_before_it_count(accepted: int, ends: set[int]) -> None:
    """Token by token: kept drafts 1 2 3 4, then the target's own 7."""
    expected, drafted = list[int](), 0
    for token in [*[1, 2, 3, 4][:accepted], 7]:
        expected.append(token)
        drafted += token != 7
        if token in ends:
            break
    assert keep(Verdict(accepted, 7), Draft([1, 2, 3, 4]), frozenset(ends)) == (expected, drafted)
