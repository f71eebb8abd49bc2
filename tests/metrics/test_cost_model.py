"""The cost model against a simulated clock, the formulas against simulation, and the bound."""

import inspect

import numpy as np
import pytest

from egptlib.metrics import CostModel, Costs, Prediction, expected_tokens, leviathan_speedup, replay, steady_speedup

COSTS = Costs(
    target_step=1.0,
    drafter_step=0.2,
    verify={5: 1.5, 30: 4.0},
    drafter_passes={2: 0.25},
    target_stages={"prefill": 10.0},
    drafter_stages={"prefill": 3.0, "adapter": 0.01},
    round_overhead=0.03,
    target_growth=0.002,
    contention_target=1.2,
)


def clock(rounds, n, ahead, overlap):
    """Add the seconds of one sample up, round by round."""
    now = 12.0 if overlap else 13.0
    known, full = (0, False) if ahead else (1, False)
    for drafted, accepted, gained in rounds:
        if known == 0:
            now += 0.0 if overlap else 0.2 * drafted
        elif drafted:
            now += (0.25 if full else 0.2) + (drafted - 1) * 0.21 + 0.01
        now += COSTS.verify_seconds(drafted) + 0.03 + 0.002 * known
        known += gained
        full = drafted > 0 and accepted == drafted
    assert known == n
    return now


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("with_free", [False, True])
def test_prediction_is_what_the_clock_would_show(overlap: bool, with_free: bool) -> None:
    rng = np.random.default_rng(1)
    match = rng.random((40, 30)) < 0.8
    lengths = rng.integers(5, 31, 40)
    free = rng.integers(1, 20, 40) if with_free else None
    result = replay(match, lengths, [4], limit=30, free=free)
    found = CostModel(COSTS).predict(result, lengths, 4, overlap=overlap)
    expected = [clock(result.rounds(s, 4), lengths[s], with_free, overlap) for s in range(40)]
    assert found.seconds == pytest.approx(expected)
    assert (found.seconds >= found.bound).all()
    assert found.speedup <= found.largest_speedup
    assert found.tag == "estimated" and "[estimated]" in str(found)
    assert f"at most {found.largest_speedup:.2f}x (every draft accepted, drafting free)" in str(found)


def test_plain_decoding_is_predicted_as_plain() -> None:
    lengths = np.array([3, 20])
    costs = Costs(1.0, 0.2, target_stages={"prefill": 5.0}, target_growth=0.5)
    found = CostModel(costs).predict(replay(np.zeros((2, 20), dtype=bool), lengths, [0]), lengths, 0)
    assert found.baseline == pytest.approx([5 + 2 + 0.5 * 3, 5 + 19 + 0.5 * 19 * 20 / 2])
    assert found.seconds == pytest.approx(found.baseline)


def test_who_does_not_read_does_not_pay() -> None:
    lengths = np.array([5, 9])
    result = replay(np.zeros((2, 9), dtype=bool), lengths, [4], skip=np.array([True, False]))
    model = CostModel(COSTS)
    everybody = model.predict(result, lengths, 4)
    some = model.predict(result, lengths, 4, reads=np.array([False, True]))
    assert everybody.seconds - some.seconds == pytest.approx([3.0, 0.0])
    one = replay(np.zeros((2, 9), dtype=bool), lengths, [0, 1])
    drafting = model.predict(one, lengths, 1).seconds - model.predict(one, lengths, 1, overlap=True).seconds
    assert drafting == pytest.approx([1.0, 1.0])  # 3 s of the drafter's, for the target's 2 s more beside it
    assert model.predict(one, lengths, 0).seconds[0] < 10 + 4 * 1.1  # who never drafts need not read


def test_free_tokens_are_what_two_clocks_show() -> None:
    assert CostModel(COSTS).free_tokens == 1 + int((12.0 - 3.0) / 0.2)
    slow = Costs(1.0, 0.25, target_stages={"prefill": 2.0}, drafter_stages={"prefill": 1.0}, contention_drafter=1.5)
    made = sum(1.5 + 0.375 * k <= 2.0 for k in range(50))  # at these times a token is there
    assert CostModel(slow).free_tokens == made == 2
    assert CostModel(Costs(1.0, 0.2, drafter_stages={"prefill": 1.0})).free_tokens == 0


@pytest.mark.parametrize("gamma", [1, 4])
def test_long_answers_come_to_the_formula_of_steady_decoding(gamma: int) -> None:
    match, lengths = np.random.default_rng(2).random((30, 3000)) < 0.7, np.full(30, 3000)
    result = replay(match, lengths, [gamma])
    costs = Costs(1.0, 0.2, verify={0: 1.0, 1: 1.1, 4: 1.5})
    found = CostModel(costs).predict(result, lengths, gamma)
    tau = float(result.mean_acceptance_length[0])
    assert tau == pytest.approx(expected_tokens(0.7, gamma), rel=0.01)
    assert found.speedup == pytest.approx(
        steady_speedup(tau, gamma, costs.cost_ratio, costs.verify_cost(gamma)), rel=1e-3
    )


@pytest.mark.parametrize("overlap", [False, True])
def test_the_bound_is_reached_where_everything_is_accepted_and_drafting_is_free(overlap: bool) -> None:
    lengths = np.arange(1, 31)
    costs = Costs(1.0, 1e-12, verify={5: 1.0}, target_stages={"prefill": 10.0}, contention_target=1.0)
    for free in (None, 5):
        result = replay(np.ones((30, 30), dtype=bool), lengths, [5], free=free)
        found = CostModel(costs).predict(result, lengths, 5, overlap=overlap)
        assert found.seconds == pytest.approx(found.bound, rel=1e-9)
        assert found.speedup == pytest.approx(found.largest_speedup)


def test_the_interval_holds_what_other_samples_give() -> None:
    rng = np.random.default_rng(0)
    ours = rng.gamma(4, 1.0, (400, 60)) + 1
    theirs = ours * rng.uniform(1.0, 2.0, ours.shape)  # the ratio of sums over ever so many is 1.5
    intervals = [Prediction(a, b, a * 0.1).interval() for a, b in zip(ours, theirs)]
    assert 0.9 < np.mean([low < 1.5 < high for low, high in intervals]) < 0.98


def test_no_figure_above_the_bound() -> None:
    one = np.array([1.0])
    with pytest.raises(ValueError, match="less than the bound"):
        Prediction(one * 0.5, one * 3, one)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.8, 1.0])
@pytest.mark.parametrize("gamma", [1, 4])
def test_formulas_against_simulation(alpha: float, gamma: int) -> None:
    match = np.random.default_rng(3).random((4000, 60)) < alpha
    lengths = np.full(4000, 60)
    # The first round of each sample only: later ones are cut off by the end.
    tokens = replay(match, lengths, [gamma]).gained[0, :, 0].mean()
    assert tokens == pytest.approx(expected_tokens(alpha, gamma), abs=0.08)
    c = 0.2
    assert leviathan_speedup(alpha, gamma, c) == pytest.approx(tokens / (gamma * c + 1), abs=0.08)


def test_formulas_refuse_what_cannot_be() -> None:
    assert steady_speedup(3.0, 5, 0.2, 1.5) == pytest.approx(1.2)
    with pytest.raises(ValueError, match="expected 1 to 6"):
        steady_speedup(6.35, 5, 0.2, 1.0)
    with pytest.raises(ValueError, match="alpha"):
        expected_tokens(1.2, 3)
    with pytest.raises(ValueError, match="expected c of 0 or more"):
        steady_speedup(2.0, 5, float("nan"), 1.0)


def test_lengths_that_were_not_replayed_are_refused() -> None:
    lengths = np.array([9, 5])
    result = replay(np.ones((2, 9), dtype=bool), lengths, [2])
    for other in (lengths[::-1], lengths + 1, lengths[:1]):
        with pytest.raises(ValueError, match="lengths: expected those that were replayed"):
            inspect.unwrap(CostModel.predict)(CostModel(COSTS), result, other, 2)
