"""What losslessness does not show: how lengths are learned, what is asked of a drafter, and each word of a refusal."""

import math
import threading
from collections.abc import Sequence
from dataclasses import fields
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from egptlib.adapters import create_adapter
from egptlib.decoding import (
    AdaptiveLength,
    CascadeDrafter,
    CosineThreshold,
    Deferral,
    Draft,
    DrafterProcess,
    DrafterThread,
    FixedLength,
    Fuzzy,
    Generation,
    HeadDrafter,
    ModelDrafter,
    NgramDrafter,
    Recorder,
    RetokenizedDrafter,
    Sampler,
    Sampling,
    SequenceDrafter,
    Stop,
    Streamed,
    TopK,
    TreeShape,
    Typical,
    acceptance_by_position,
    first_divergence,
    pipelined_generate,
    speculative_generate,
)
from egptlib.decoding._drafters import certain, write_on
from egptlib.decoding._lossy import jensen_shannon
from egptlib.decoding._model_drafter import Chain
from egptlib.decoding._round import Settings
from egptlib.decoding._rules import Lossless
from egptlib.decoding._stream import _after
from egptlib.decoding._trees import draw_different
from egptlib.metrics import Costs
from egptlib.models import Pair, shared_vocabulary

from .conftest import EOS, VOCAB, TextModel, make_model, plain


def refusal(call: Any, *given: Any, **options: Any) -> str:
    with pytest.raises(ValueError) as caught:
        call(*given, **options)
    return str(caught.value)


def test_what_an_adaptive_length_learns_is_written_out() -> None:
    """Two answers: the rate within one, the slow means over both, and the choice that follows from them."""
    step, prefill = 0.003, 0.02
    costs = Costs(0.010, step, verify={8: 0.014}, drafter_stages={"prefill": prefill}, round_overhead=0.001)
    length = AdaptiveLength(costs)
    assert (length.gamma, length.weight, length.margin, length.min_confidence) == (8, 6.0, 0.02, 0.0)
    kept, reached, prior, mean = 0.7 * 6, 6.0, 0.7, 0.0

    def rates(alpha: float) -> dict[int, float]:
        seconds = {g: g * step + 0.010 + 0.004 * g / 8 + 0.001 for g in range(1, 9)}
        return {g: sum(min(alpha, 0.999) ** k for k in range(g + 1)) / seconds[g] for g in seconds}

    answers = [[(8, 8), (8, 8), (8, 3), (5, 5)], [(8, 0), (8, 1), (4, 0)], [(8, 8)] * 60, [(1, 1)]]
    for answer in answers:
        length.start()
        kept, reached, said = prior * 6, 6.0, 0
        for drafted, accepted in answer:
            found = rates(kept / reached)
            best = max(found, key=found.__getitem__)
            assert length.alpha == pytest.approx(kept / reached)
            assert length.count() == (best if found[best] > 1.02 / 0.010 else 0)
            expected = min(40, mean or 40)
            assert length.pays(40) == (expected * (0.010 - 1 / max(found.values())) > prefill)
            length.observe(drafted, accepted)
            kept, reached = kept + accepted, reached + accepted + (accepted < drafted)
            said += accepted + 1
        prior += 0.2 * (kept / reached - prior)
        mean = mean + 0.2 * (said - mean) if mean else said
    assert length.pays(1000) == (mean * (0.010 - 1 / max(rates(length.alpha).values())) > prefill)
    sure = AdaptiveLength(costs, min_confidence=0.4)
    assert sure.stop(0.39) and not sure.stop(0.4) and not sure.stop(0.5)


def test_every_refused_setting_says_what_was_expected_and_found(target: TextModel, drafter: TextModel) -> None:
    costs = Costs(1.0, 0.1)
    vocabulary = shared_vocabulary(drafter, target)
    told = {
        "gamma: expected at least 0, found -1": lambda: FixedLength(-1),
        "min_confidence: expected a probability, found 1.5": lambda: FixedLength(1, 1.5),
        "min_confidence: expected a probability, found -0.5": lambda: FixedLength(1, -0.5),
        "expected gamma of at least 1 and alpha in (0, 1), found 0 and 0.5": lambda: AdaptiveLength(costs, 0, 0.5),
        "expected gamma of at least 1 and alpha in (0, 1), found 1 and 0": lambda: AdaptiveLength(costs, 1, 0),
        "expected gamma of at least 1 and alpha in (0, 1), found 1 and 1": lambda: AdaptiveLength(costs, 1, 1),
        "weight: expected a number in (0, inf), found 0": lambda: AdaptiveLength(costs, weight=0),
        "min_confidence: expected a number in [0, 1], found 50": lambda: AdaptiveLength(costs, min_confidence=50),
        "margin: expected a number in (-inf, inf), found nan": lambda: AdaptiveLength(costs, margin=math.nan),
        "epsilon: expected a number in [0, inf), found nan": lambda: Typical(math.nan),
        "delta: expected a number in [0, inf), found -1": lambda: Typical(0.1, -1),
        "alpha: expected a number in (-inf, inf), found '0.1'": lambda: Deferral("0.1"),  # type: ignore[arg-type]
        "temperature: expected a finite number above 0 (greedy is sampling=None), found 0": lambda: Sampling(0),
        "top_k: expected at least 1 or None, found 0": lambda: Sampling(1.0, 0),
        "top_p: expected a number in (0, 1], found 0": lambda: Sampling(1.0, None, 0),
        "top_p: expected a number in (0, 1], found 1.1": lambda: Sampling(1.0, None, 1.1),
        "a greedy sampler draws from no distribution": lambda: Sampler().probabilities(torch.zeros(3)),
        "threshold: expected a cosine in [-1, 1], found 1.5": lambda: CosineThreshold(1.5),
        "threshold: expected a cosine in [-1, 1], found -1.5": lambda: CosineThreshold(-1.5),
        "threshold: expected a divergence of at least 0, found -0.1": lambda: Fuzzy(-0.1),
        "k: expected at least 1, found 0": lambda: TopK(0),
        "tree: size: expected at least 1, found 0": lambda: TreeShape(0, 1, 1),
        "tree: depth: expected at least 1, found 0": lambda: TreeShape(1, 0, 1),
        "tree: width: expected at least 1, found 0": lambda: TreeShape(1, 1, 0),
        "max_new_tokens: expected at least 1, found 0": lambda: Settings(max_new_tokens=0),
        "max_new_tokens: expected a whole number, found 2.5": lambda: Settings(max_new_tokens=2.5),  # type: ignore[arg-type]
        "gamma: expected a whole number, found 2.5": lambda: Settings(2.5),  # type: ignore[arg-type]
        "gamma: expected a whole number, found None": lambda: Settings(None),  # type: ignore[arg-type]
        "tree: depth: expected a whole number, found 1.5": lambda: TreeShape(1, 1.5, 1),  # type: ignore[arg-type]
        "top_k: expected a whole number, found 2.5": lambda: Sampling(1.0, 2.5),  # type: ignore[arg-type]
        "temperature: expected a finite number above 0 (greedy is sampling=None), found 1e-40": lambda: Sampling(1e-40),
        "temperature: expected a finite number above 0 (greedy is sampling=None), found inf": lambda: Sampling(
            math.inf
        ),
        "threshold: expected a divergence of at least 0, found nan": lambda: Fuzzy(math.nan),
        "draft: expected a list of whole numbers, found [5.5]": lambda: Draft([5.5]),  # type: ignore[list-item]
        "draft: expected a list of whole numbers, found [5.0, nan]": lambda: Draft(torch.tensor([5, math.nan])),  # type: ignore[arg-type]
        "draft: probabilities has 1 rows for 2 tokens": lambda: Draft([5, 6], probabilities=torch.ones(1, 9)),
        "draft: parents has 1 rows for 2 tokens": lambda: Draft([5, 6], parents=[-1]),
        "draft: expected parents before their children, found [1, -1]": lambda: Draft([5, 6], parents=[1, -1]),
        "ngram: expected 1 <= min_ngram <= max_ngram, found 0 and 3": lambda: NgramDrafter(min_ngram=0),
        "ngram: expected 1 <= min_ngram <= max_ngram, found 3 and 2": lambda: NgramDrafter(None, 2, 3),
        "drafter: expected start() before propose()": lambda: ModelDrafter(drafter, vocabulary).propose(
            [3], 1, Sampler()
        ),
        "gpu: a drafter process runs on the CPU, found cuda:1": lambda: DrafterProcess(
            SimpleNamespace(name="gpu", device=torch.device("cuda:1"))
        ),
        "deferral 0.1 (lossy): expected a drafter that draws from a distribution": lambda: Deferral()(
            Draft([1], [1.0]), torch.zeros(2, 4), torch.zeros(2, 2), Sampler(Sampling())
        ),
        "deferral 0.1 (lossy): expected a drafter with logits": lambda: Deferral()(
            Draft([1], [1.0]), torch.zeros(2, 4), torch.zeros(2, 2), Sampler()
        ),
        "cosine > 0.9 (lossy): expected a drafter that gives hidden states aligned with the target's": lambda: (
            CosineThreshold()(Draft([1], [1.0]), torch.zeros(2, 4), torch.zeros(2, 2), Sampler())
        ),
    }
    for line, call in told.items():
        assert refusal(call) == line
    for rule in (TopK(), Typical(), Fuzzy(), Deferral(), CosineThreshold()):
        assert not rule.lossless
    assert [rule.name for rule in (TopK(), Typical(), Fuzzy(), Lossless())] == [
        "top-3 (lossy)", "typical 0.09, 0.3 (lossy)", "fuzzy 0.2 (lossy)", "lossless"
    ]  # fmt: skip
    # What just stands at an edge is taken.
    FixedLength(0, 1.0), FixedLength(0, 0.0), CosineThreshold(1), CosineThreshold(-1), Fuzzy(0), TopK(1)
    Sampling(1e-9, 1, 1), TreeShape(1, 1, 1), NgramDrafter(None, 2, 2), Settings(max_new_tokens=1)
    whole: Any = np.int64(3)
    assert (Settings(whole).length.gamma, Settings(max_new_tokens=whole).max_new_tokens) == (3, 3)
    plainly = Settings()
    assert (plainly.length.gamma, plainly.max_new_tokens, plainly.sampler.greedy) == (5, 50, True)
    assert type(plainly.rule) is Lossless and not FixedLength(0).pays(9) and FixedLength(1).pays(9)


def test_what_a_newcomers_own_parts_lack_is_one_line(target: TextModel, drafter: TextModel) -> None:
    """A module of one's own that is no model of transformers answers; what is no drafter or no draft says so."""

    class Own(nn.Module):
        def __init__(self, told: bool):
            super().__init__()
            self.model, self.head = target.module.model, target.module.lm_head
            if told:
                self.get_input_embeddings = lambda: self.model.embed_tokens
                self.get_output_embeddings = lambda: self.head

    prompt, lines = [5, 9, 4], dict[str, Any]()
    own = TextModel(Own(True), target.tokenizer, "own")
    answer = speculative_generate(own, drafter, prompt, "", max_new_tokens=9).token_ids.tolist()
    assert answer == plain(target, prompt, 9) and own.precision == "float32" and not own.rule_settings

    def proposing(draft: Any) -> Any:
        drafts = SequenceDrafter()
        drafts.propose = lambda *_: draft  # type: ignore[method-assign]
        return lambda: speculative_generate(target, drafts, prompt, "")

    def embedding(cut: Any) -> Any:
        other = TextModel(target.module, target.tokenizer, "own")
        other.embed = lambda inputs: cut(target.embed(inputs))  # type: ignore[method-assign]
        return lambda: other.greedy(prompt, "")

    head: Any = create_adapter("B1", hidden_size=32, num_heads=4, ffn_dim=64)
    alone = HeadDrafter(drafter, head, target, shared_vocabulary(drafter, target))
    asked = "expected a model, or an object with name, device, start, propose"
    lines |= {
        "own: not usable: expected get_input_embeddings() and get_output_embeddings() of its module Own to give its "
        "token embedding and its lm head": lambda: TextModel(Own(False), target.tokenizer, "own"),
        f"drafter 'EventGPT': {asked}": lambda: speculative_generate(target, "EventGPT", prompt, ""),  # type: ignore[arg-type]
        f"drafter {NgramDrafter!r:.50}: {asked}": lambda: speculative_generate(target, NgramDrafter, prompt, ""),  # type: ignore[arg-type]
        "sequence: expected propose() to give a Draft, found [5, 9]": proposing([5, 9]),
        "draft: expected ids of target, 0 to 23, found [5, 24]": proposing(Draft([5, 24])),
        "draft: expected ids of target, 0 to 23, found [-1]": proposing(Draft([-1])),
        "own: expected `embed` to give [1, T, 32], found [3, 32]": embedding(lambda embeds: embeds[0]),
        "own: expected `embed` to give [1, T, 32], found [1, 3, 31]": embedding(lambda embeds: embeds[..., 1:]),
        "own: expected `embed` to give [1, T, 32], found []": embedding(lambda embeds: None),
        f"vocabulary: expected 1 to {VOCAB} first ids that both models have, found 25": lambda: Pair(
            "mine",
            drafter,
            target,
            VOCAB + 1,  # type: ignore[arg-type]
        ),
        "B1 head: nobody hands it the target's states beside the target; see `then=`": lambda: alone.propose(
            [5], 2, Sampler()
        ),
    }
    for line, call in lines.items():
        assert refusal(call) == line


def test_an_empty_draft_and_an_empty_answer() -> None:
    logits = torch.tensor([[0.0, 3.0, 1.0]])
    hot = Sampler(Sampling(1e-3), torch.Generator().manual_seed(0))
    for rule in (TopK(), Deferral(), Lossless()):
        for sampler in (Sampler(), hot):
            assert tuple(rule(Draft(), logits, torch.zeros(1, 2), sampler)[:2]) == (0, 1)
    nothing = Generation(torch.empty(0, dtype=torch.int64), "", [], [])
    assert not nothing.histogram and not nothing.times and nothing.lossless
    assert nothing.num_drafted_tokens == nothing.num_accepted_tokens == nothing.mean_acceptance_length == 0.0
    assert nothing.alpha == nothing.wall_seconds == 0.0 and acceptance_by_position([]) == []
    p, q = torch.tensor([[0.5, 0.5, 0.0]]), torch.tensor([[0.0, 0.0, 1.0]])
    assert jensen_shannon(p, q).item() == pytest.approx(math.log(2)) and jensen_shannon(p, p).item() == 0.0


def test_a_fixed_sequence_and_n_grams_stop_where_they_are_told() -> None:
    asked = list[float]()

    def stop(sure: float) -> bool:
        asked.append(sure)
        return len(asked) == 2

    assert certain([4, 5, 6], stop) == Draft([4, 5], [1.0, 1.0]) and asked == [1.0, 1.0]
    drafts = SequenceDrafter([4, 5, 6])
    assert drafts.name == "sequence" and drafts.device.type == "cpu"
    assert drafts.propose([4], 9, Sampler()).tokens == [5, 6] and drafts.propose([4], 1, Sampler()).tokens == [5]
    assert drafts.propose([5], 9, Sampler()).tokens == drafts.propose([4, 5, 6], 9, Sampler()).tokens == []
    grams = NgramDrafter()
    assert (grams.name, grams.max_ngram, grams.min_ngram) == ("n-grams", 3, 1)
    answer = [9, 1, 2, 3, 7, 8, 2, 3, 5, 6, 1, 2, 3]
    assert grams.propose(answer, 2, Sampler()).tokens == [7, 8]  # three tokens count before the later two
    assert NgramDrafter(max_ngram=2).propose(answer, 2, Sampler()).tokens == [5, 6]
    assert NgramDrafter(min_ngram=2).propose([3, 9, 3], 2, Sampler()).tokens == []


class Noting(SequenceDrafter):
    """Tells what it was asked."""

    def __init__(self, tokens: Sequence[int]) -> None:
        super().__init__(tokens, "noting")
        self.asked: list[tuple[list[int], int, Stop | None]] = []
        self.kept: list[Any] = []
        self.gate = threading.Event()
        self.gate.set()

    def keep(self, scene: Any) -> None:
        self.kept.append(scene)

    def start(self, scene: Any, question: str, recorder: Recorder) -> None:
        with recorder("drafter", "prefill", self.device):
            self.kept.append((scene, question))

    def propose(self, answer: Sequence[int], count: int, sampler: Sampler, stop: Stop | None = None) -> Draft:
        assert self.gate.wait(30)
        self.asked.append((list(answer), count, stop))
        return super().propose(answer, count, sampler, stop)


def test_a_drafter_is_asked_for_what_has_room_and_to_stop_only_where_that_can_be(target: TextModel) -> None:
    prompt = [5, 9, 4, 7]
    expected = plain(target, prompt, 11)
    assert len(expected) == 11
    for length, stops in (
        (4, False),
        (FixedLength(4, 0.3), True),
        (AdaptiveLength(Costs(1.0, 0.01, verify={4: 1.1}), 4), False),
    ):
        noting = Noting(expected)
        out = speculative_generate(target, noting, prompt, "", gamma=length, max_new_tokens=11)
        assert out.token_ids.tolist() == expected
        assert [answer for answer, _, _ in noting.asked] == [expected[:1], expected[:6]]
        assert [count for _, count, _ in noting.asked] == [4, 4] and len(out.rounds) == 2
        assert all((stop is not None) == stops for _, _, stop in noting.asked)
        drafts = [event for event in out.events if event.stage == "draft"]
        assert [event.info for event in drafts] == [
            {"drafted": 4, "tokens": expected[1:5]}, {"drafted": 4, "tokens": expected[6:10]}
        ]  # fmt: skip
        judged = [event for event in out.events if event.stage == "verify"]
        assert [(event.lane, event.info) for event in judged] == [("target", {"drafted": 4, "accepted": 4})] * 2


def test_a_job_beside_the_caller_writes_up_to_its_limit_an_end_or_a_stop() -> None:
    def made(limit: int, ends: frozenset[int] = frozenset(), stop_after: int = 99, answer: Sequence[int] = ()) -> Any:
        recorder, noting, seen = Recorder(), Noting([4, 5, 6, 7]), list[tuple[int, float]]()
        for each in write_on(noting, answer, limit, ends, lambda: len(seen) >= stop_after, recorder):
            seen.append(each)
        assert all(sure == 1.0 for _, sure in seen) and all(count == 1 for _, count, _ in noting.asked)
        told = [(event.lane, event.stage, event.info) for event in recorder.events]
        assert told == ([("drafter", "draft", {"drafted": len(seen)})] if limit else [])
        return [token for token, _ in seen]

    assert made(0) == [] and made(3) == [4, 5, 6] and made(9) == [4, 5, 6, 7]
    assert made(9, frozenset([5])) == [4, 5] and made(9, stop_after=1) == [4] and made(9, stop_after=0) == []
    assert made(9, answer=[4, 5]) == [6, 7]


def test_a_thread_hands_on_what_it_is_told_and_gives_what_was_made() -> None:
    noting = Noting([4, 5, 6, 7, 8])
    with DrafterThread(noting, [7]) as thread:
        assert (thread.name, thread.device) == ("noting", noting.device) and thread.is_done()
        thread.keep("scene")
        noting.gate.clear()
        thread.begin("scene", "question", 9)
        assert not thread.is_done() and thread.made().tokens == []
        noting.gate.set()
        thread.wait()
        assert noting.kept == ["scene", ("scene", "question")] and thread.is_done()
        assert thread.made() == Draft([4, 5, 6, 7], [1.0] * 4) == thread.take()  # 7 is an end
        thread.follow([4, 5], 1)
        thread.wait()
        assert thread.made() == Draft([6], [1.0])
        told = [(event.stage, event.info.get("drafted")) for event in thread.events()]
        assert told == [("prefill", None), ("draft", 4), ("draft", 1)]
        recorder = Recorder()
        thread.start("other", "words", recorder)
        assert [event.stage for event in recorder.events] == ["prefill"] and noting.kept[-1] == ("other", "words")
        assert thread.propose([4], 2, Sampler(), lambda sure: True) == Draft([5], [1.0])
        assert thread.events() == recorder.events  # proposals are stamped by who waits for them
    with DrafterThread(SequenceDrafter()) as thread:
        thread.keep("scene")  # which keeps nothing


def test_a_chain_ends_at_its_count_at_an_end_and_where_it_is_told() -> None:
    rows = torch.full((6, 5), -10.0)
    rows[range(6), [3, 4, 1, 2, 0, 3]] = 10.0
    cases: list[tuple[int, frozenset[int], float | None, int]] = [
        (6, frozenset(), None, 6), (2, frozenset(), None, 2), (6, frozenset([1]), None, 3), (6, frozenset(), 2.0, 1),
        (6, frozenset(), 0.0, 6),
    ]  # fmt: skip
    for count, ends, least, expected in cases:
        stop = None if least is None else (lambda sure, least=least: sure < least)
        chain = Chain(count, Sampler(), ends, stop)
        goes_on = [chain.choose(row) for row in rows[:expected]]
        assert goes_on == [True] * (expected - 1) + [expected == 6 and count > 6]
        draft = chain.draft()
        assert draft.tokens == [3, 4, 1, 2, 0, 3][:expected] and draft.logits is not None
        assert torch.equal(draft.logits, rows[:expected]) and draft.probabilities is None
        assert draft.confidence == pytest.approx(rows.softmax(-1).amax(-1)[:expected].tolist())
    assert Chain(3, Sampler(), frozenset()).draft() == Draft()


def test_what_follows_in_an_earlier_draft() -> None:
    """Where the answer's last two tokens stand in it, nearest to the same place, or those before an exchanged one."""
    draft = [5, 6, 7, 8, 5, 6, 9]
    cases = [
        ([], 3, [5, 6, 7]), ([5], 3, [6, 7, 8]), ([5, 6], 2, [7, 8]), ([5, 6], 9, [7, 8, 5, 6, 9]),
        ([1, 1, 1, 5, 6], 9, [9]),  # the later place is nearer
        ([5, 6, 1], 9, [8, 5, 6, 9]),  # 7 was exchanged for 1
        ([1], 9, [6, 7, 8, 5, 6, 9]), ([1, 1], 9, []), ([5, 6, 9], 9, [8, 5, 6, 9]), ([8, 5, 6, 9, 4], 9, []),
    ]  # fmt: skip
    for answer, count, expected in cases:
        assert _after(draft, answer, count) == expected, answer


def test_different_tokens_are_drawn_until_there_are_no_more() -> None:
    law = torch.tensor([0.5, 0.0, 0.3, 0.2])
    sampler = Sampler(Sampling(), torch.Generator().manual_seed(0))
    for count in range(6):
        drawn = draw_different(law, count, sampler)
        assert len(drawn) == len(set(drawn)) == min(count, 3) and 1 not in drawn
    firsts = [draw_different(law, 2, sampler)[0] for _ in range(500)]
    assert [firsts.count(token) / 500 for token in (0, 2, 3)] == pytest.approx([0.5, 0.3, 0.2], abs=0.08)
    assert law.tolist() == torch.tensor([0.5, 0.0, 0.3, 0.2]).tolist()


def test_names_and_what_a_cascade_tells(target: TextModel, drafter: TextModel) -> None:
    middle = make_model(11, layers=3, like=target, noise=0.1, name="middle")
    inner = ModelDrafter(drafter, shared_vocabulary(drafter, middle))
    vocabulary = shared_vocabulary(middle, target)
    cascade = CascadeDrafter(middle, inner, vocabulary)
    assert (cascade.name, cascade.gamma, inner.name) == ("drafter > middle", 3, "drafter")
    assert CascadeDrafter(middle, inner, vocabulary, name="own").name == "own"
    assert RetokenizedDrafter(drafter, target).name == "drafter (by text)"
    assert RetokenizedDrafter(drafter, target, "own").name == ModelDrafter(drafter, vocabulary, "own").name == "own"
    line = refusal(CascadeDrafter, middle, inner, SimpleNamespace(is_shared=False))
    assert line == "cascade: middle and the target need one vocabulary"
    line = refusal(cascade.propose_tree, [], TreeShape(3, 2, 2), 2, Sampler())
    assert line == "drafter > middle: drafts chains alone, no trees"
    prompt = [5, 9, 4, 7]
    cascade.start(prompt, "", Recorder())
    answer = plain(middle, prompt, 10)
    assert EOS not in answer
    assert cascade.propose([], 10, Sampler()).tokens == answer
    assert sum(kept + 1 for _, kept in cascade.accepted) == 10 and max(made for made, _ in cascade.accepted) == 3
    cascade.start(prompt, "", Recorder())
    assert cascade.accepted == [] and cascade.propose([], 0, Sampler()).tokens == []
    drawn = Sampler(Sampling())
    lossy = CascadeDrafter(middle, inner, vocabulary, rule=Typical())
    lossy.start(prompt, "", Recorder())
    assert lossy.propose([], 4, Sampler()).tokens and cascade.propose([], 4, drawn).tokens
    line = refusal(lossy.propose, [], 4, drawn)
    assert line == f"drafter > middle: under sampling the inner rule has to be lossless, found {Typical().name}"


def test_a_verification_may_wait_for_as_many_as_are_verified_at_once(target: TextModel) -> None:
    prompt, answer = [5, 9, 4, 7], plain(target, [5, 9, 4, 7], 8)
    with DrafterThread(SequenceDrafter(answer), target.eos_token_ids) as thread:
        out = pipelined_generate(target, thread, prompt, "", gamma=3, max_gamma=3, max_new_tokens=8)
        line = refusal(pipelined_generate, target, thread, prompt, "", gamma=4, max_gamma=3)
    assert out.token_ids.tolist() == answer and max(each.drafted for each in out.rounds) == 3
    assert line.endswith("0 <= gamma <= max_gamma, found 50, 4 and 3")


def test_a_streamed_answers_seconds_begin_with_the_last_frame() -> None:
    stamps = {"frames": (1.0, 2.0, 4.0), "first_token": 4.5, "last_token": 6.0}
    told = {entry.name: stamps.get(entry.name) for entry in fields(Streamed)}
    streamed = Streamed(**told)  # type: ignore[arg-type]
    assert (streamed.seconds_to_first, streamed.seconds_to_last) == (0.5, 2.0)


def test_where_two_answers_part_is_told_with_the_gap(target: TextModel) -> None:
    prompt = [5, 9, 4, 7]
    answer = plain(target, prompt, 8)
    with torch.no_grad():
        logits = target.module(torch.tensor([[*prompt, *answer]])).logits[0, len(prompt) - 1 :]
    for at in (0, 3):
        other = [*answer[:at], (answer[at] + 1) % VOCAB, *answer[at + 1 :]]
        best = logits[at].topk(2).values.tolist()
        for ours, theirs in ((other, answer), (answer, torch.tensor(other))):
            found = first_divergence(target, prompt, "", ours, theirs)
            assert found is not None and found.position == at
            assert (found.token, found.reference) == (int(ours[at]), int(theirs[at]))
            assert found.gap == pytest.approx(best[0] - best[1], abs=1e-4)
            neighbours = torch.nextafter(torch.tensor(best[0]), torch.tensor(math.inf)).item() - best[0]
            assert found.spacing == pytest.approx(neighbours)
    short = first_divergence(target, prompt, "", answer[:5], answer)
    long = first_divergence(target, prompt, "", answer, answer[:5])
    assert short is not None and (short.position, short.token, short.reference) == (5, None, answer[5])
    assert long is not None and (long.position, long.token, long.reference) == (5, answer[5], None)


def test_a_draft_of_arrays_is_one_of_tokens(target: TextModel) -> None:
    """The answer's last token and an array were added up, and the target read their sum."""

    class Own(SequenceDrafter):
        kind: Any = np.array

        def propose(self, answer: Sequence[int], count: int, sampler: Sampler, stop: Any = None) -> Draft:
            return Draft(self.kind([(7 * len(answer)) % VOCAB]))

    prompt = [5, 9, 4]
    expected = plain(target, prompt, 12)
    for kind in (np.array, torch.tensor, tuple):
        Own.kind = staticmethod(kind)
        assert speculative_generate(target, Own(), prompt, "", max_new_tokens=12).token_ids.tolist() == expected
        given: Any = kind([4, 5]), kind([0.5, 0.25]), kind([-1, 0])
        assert Draft(given[0], given[1], parents=given[2]) == Draft([4, 5], [0.5, 0.25], parents=[-1, 0])
    assert Draft([4, 5]).confidence == [1.0, 1.0]


def test_a_tree_deeper_than_asked_for_leaves_the_limit_alone(target: TextModel) -> None:
    prompt = [5, 9, 4]
    expected = plain(target, prompt, 30)

    class Deep(SequenceDrafter):
        def propose(self, answer: Sequence[int], count: int, sampler: Sampler, stop: Any = None) -> Draft:
            rest = expected[len(answer) :]
            return Draft([0, *rest], parents=[-1, -1, *range(1, len(rest))])

    for limit in range(1, len(expected)):
        found = speculative_generate(target, Deep(), prompt, "", max_new_tokens=limit)
        assert found.token_ids.tolist() == expected[:limit]
        assert sum(r.gained for r in found.rounds) == limit - 1
