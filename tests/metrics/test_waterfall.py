"""A waterfall against answers that are timed by hand: what each part costs is known, so every factor is."""

from dataclasses import replace

import pytest

from egptlib.metrics import Factor, RunTotals, explain, fit_draft_cost

PLAIN = RunTotals(30.0, 30.0)
RUN = RunTotals(30.0, 20.0, "g4", tokens_per_pass=3.0, gamma=4.0, accepted_at=(0.9, 0.6, 0.3, 0.2))  # 2 steps a round


def same(found: tuple[Factor, ...], expected: list[Factor]) -> None:
    assert [replace(factor, value=0.0) for factor in found] == [replace(factor, value=0.0) for factor in expected]
    assert [factor.value for factor in found] == pytest.approx([factor.value for factor in expected])


def test_a_draft_cost_that_is_given_parts_a_round_in_two() -> None:
    found = explain(RUN, PLAIN, draft_cost=0.1)
    assert (found.method, found.start_name, found.start, found.round_cost) == ("g4", "every draft accepted", 5, None)
    expected = [
        Factor("acceptance", 3 / 5, "measured", "3.00 tokens a pass of 5"),
        Factor("draft cost", 1 / 1.4, "estimated", "drafting costs 0.40 plain steps a round"),
        Factor("verify cost", 1.4 / 2, "estimated", "verifying costs 1.60 steps"),
    ]
    same(found.factors, expected)
    assert found.product == pytest.approx(found.measured) == pytest.approx(1.5)
    assert found.changes == pytest.approx(
        {"drafter at half its cost": 3 / 1.8, "drafting free": 3 / 1.6, "verification at 1.2 steps": 3 / 1.6}
        | {f"gamma {g}": t / (1 + 0.25 * g) for g, t in ((1, 1.9), (2, 2.5), (3, 2.8))}
    )
    assert "verification at 1.2 steps" not in explain(RUN, PLAIN, draft_cost=0.2).changes  # it is at 1.2 already
    unsplit = explain(RUN, PLAIN)
    same(unsplit.factors, [expected[0], Factor("cost of a round", 1 / 2, "measured", "drafting and verifying cost 2.00 "
                                               "plain steps a round")])  # fmt: skip
    assert unsplit.changes == {}
    nameless = explain(replace(RUN, gamma=None), PLAIN)
    assert (nameless.start_name, nameless.start) == ("a pass for the price of a step", 3.0)


def test_against_a_paper_and_with_several_at_once() -> None:
    found = explain(RUN, PLAIN, paper=(2.5, 4.0), draft_cost=0.1)
    assert (found.start_name, found.start) == ("paper", 2.5)
    why = "a round costs 2.00 plain steps, in the paper 1.60; ours: drafting 0.40, the rest 1.60"
    expected = [
        Factor("acceptance", 3 / 4, "measured", "3.00 tokens a pass, in the paper 4.00"),
        Factor("cost of a round", 1.6 / 2, "measured", why),
    ]
    same(found.factors, expected)
    together = replace(RUN, seconds=25.0, batch=8.0)
    found = explain(together, PLAIN, paper=(2.5, 4.0), draft_cost=0.1, alone=(RUN, PLAIN))
    assert found.method == "g4, 8 at once" and found.product == pytest.approx(found.measured) == pytest.approx(1.2)
    same(found.factors, [*expected, Factor("batch", 1.2 / 1.5, "measured", "answering several at once")])


def test_reading_prompts_stays_what_it_is_under_every_change() -> None:
    """3 answers: 2 s to read each prompt, which gives its first token; then 9 tokens in 3 rounds."""
    plain = RunTotals(30.0, 33.0, step_seconds=1.0, answers=3.0)
    run = RunTotals(30.0, 24.0, "g4", step_seconds=2 / 3, draft_seconds=0.3, verify_seconds=1.5, answers=3.0,
                    tokens_per_pass=3.0, gamma=4.0)  # fmt: skip
    found = explain(run, plain)
    prefill = "decoding alone is 1.50x; reading prompts and beginning answers is not speculated on"
    expected = [
        Factor("acceptance", 3 / 5, "measured", "3.00 tokens a pass of 5"),
        Factor("draft cost", 1 / 1.3, "measured", "drafting costs 0.30 plain steps a round"),
        Factor("verify cost", 1.3 / 1.8, "measured", "verifying costs 1.50 steps"),
        Factor("host", 1.8 / 2, "measured", "0.20 steps a round are neither model's"),
        Factor("prefill and overhead", 33 / 24 / 1.5, "measured", prefill),
    ]
    same(found.factors, expected)
    assert found.round_cost == pytest.approx(2.0) and found.product == pytest.approx(33 / 24)
    rounds = {"drafter at half its cost": 1.85, "drafting free": 1.7, "verification at 1.2 steps": 1.5}
    changes = {name: 33 / (6 + 9 * seconds) for name, seconds in rounds.items()} | {"decoding alone": 1.5}
    alpha = 0.741271  # 1 + a + a^2 + a^3 + a^4 = 3
    for gamma in (1, 2, 3, 5, 8):
        tokens = sum(alpha**k for k in range(gamma + 1))
        changes[f"gamma {gamma}"] = 33 / (6 + 27 / tokens * (1 + 0.25 * gamma))
    assert found.changes == pytest.approx(changes, rel=1e-4)


def test_a_line_through_rounds_of_several_lengths_tells_both_costs() -> None:
    def runs(v: float, c: float, *gammas: int) -> list[RunTotals]:
        return [RunTotals(2.0, v + c * g, f"{g}", tokens_per_pass=2.0, gamma=float(g)) for g in gammas]

    plain = RunTotals(1.0, 1.0)
    assert fit_draft_cost(runs(1.2, 0.1, 1, 2, 3), plain) == pytest.approx((0.1, 1.2))
    assert fit_draft_cost(runs(1.2, 0.1, 2, 2), plain) is None
    assert fit_draft_cost(runs(3.0, -0.1, 1, 2, 3), plain) is None
    assert fit_draft_cost(runs(-0.5, 1.0, 1, 2, 3), plain) is None
    assert fit_draft_cost([replace(run, tokens_per_pass=None) for run in runs(1.2, 0.1, 1, 2)], plain) is None
