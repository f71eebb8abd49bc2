"""The two tables at the end of FINDINGS.md: the clock foretold from its own other half, and what 1.5x and 2x need."""

from statistics import fmean

from egptlib.traces._findings_files import LVL, Files, least_alpha, ratio_of_sums
from egptlib.traces._real_runs import HidingCosts, predict_other_half

_ALPHAS = (0.2, 0.4, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0)


def prediction(files: Files) -> str:
    """Costs of every other prompt, times of the rest."""
    prompts = len(files(LVL).method("baseline"))
    results = predict_other_half(files(LVL), range(0, prompts, 2))
    lines = [
        "## Predicted from measured costs\n",
        f"Costs fitted on every other prompt of the {prompts}, the total time of the rest predicted [computed "
        "overlap]:\n",
        "| method | predicted s | recorded s | error | predicted ratio | recorded ratio |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {r.method} | {r.predicted:.2f} | {r.measured:.2f} | {r.error:+.2%} | {r.predicted_ratio:.4f} "
        f"| {r.measured_ratio:.4f} |"
        for r in results
    ]
    return "\n".join(lines) + "\n"


def forward(files: Files) -> str:
    """Speedup by acceptance and verify cost, and the least acceptance for two goals."""
    plain, rows = files(LVL).method("baseline"), files(LVL).method("L4+VL")
    costs, tokens = HidingCosts.fit(rows, plain), fmean(r["num_tokens"] for r in plain)
    lines = [
        "## Forward: what would make 1.5x and 2x\n",
        f"Speedup [estimated, overlap computed] with the recorded stage times, {tokens:.0f} tokens, the best gamma, "
        "by acceptance of one draft token and cost of a verification in target steps:\n",
        "| verify cost | " + " | ".join(f"alpha {a:g}" for a in _ALPHAS) + " |",
        "| --- |" + " --- |" * len(_ALPHAS),
    ]
    needs = []
    for name, verify, drafter in _scenarios(costs.verify_cost):

        def speedup(alpha: float, verify: float = verify, drafter: float = drafter) -> float:
            return costs.map_speedup(alpha, verify, tokens, drafter)

        cells = " | ".join(f"{speedup(alpha):.2f}" for alpha in _ALPHAS)
        lines.append(f"| {verify:.1f} ({name}) | {cells} |")
        goals = {goal: least_alpha(speedup, float(goal)) for goal in ("1.5", "2")}
        needs.append(
            f"- {name}: "
            + "; ".join(
                f"{goal}x is out of reach" if alpha is None else f"{goal}x needs alpha {alpha:.2f}"
                for goal, alpha in goals.items()
            )
            + "."
        )
    today = (
        f"\nToday's point: {fmean(r['accepted'] for r in rows):.1f} of {costs.drafted:.0f} free drafts accepted, "
        f"verify cost {costs.verify_cost:.1f}, {ratio_of_sums(rows):.3f}x [computed overlap].\n"
    )
    return "\n".join([*lines, "", *needs, today])


def _scenarios(today: float) -> list[tuple[str, float, float]]:
    """(name, verify cost, drafter step in today's) of the rows of the map."""
    return [
        ("today's 4-bit kernels", today, 1.0),
        ("kernels that verify at twice a step", 2.0, 1.0),
        ("kernels that verify at 1.2 steps, as assumed of bitsandbytes 0.50", 1.2, 1.0),
        ("the same, with an EAGLE-style head at a tenth of the drafter's step", 1.2, 0.1),
    ]
