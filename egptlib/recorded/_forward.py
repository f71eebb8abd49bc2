"""The two tables at the end of FINDINGS.md: the clock foretold from its own other half, and what 1.5x and 2x need."""

from statistics import fmean

from egptlib.recorded._findings_files import LVL, Files
from egptlib.recorded._halves import predict_other_half
from egptlib.recorded._speedup_map import ASSUMED_HEAD, ASSUMED_VERIFY, RecordedPair

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
    """Speedup by acceptance and verify cost, and what the map says in three sentences."""
    pair = RecordedPair.from_recorded(files(LVL))
    rows, costs = files(LVL).method("L4+VL"), pair.costs
    lines = [
        "## Forward: what would make 1.5x and 2x\n",
        f"Speedup [estimated, overlap computed] with the recorded stage times, {pair.num_tokens:.0f} tokens, the best "
        "gamma, by acceptance of one draft token and cost of a verification in target steps (notebook 08 draws it):\n",
        "| verify cost | " + " | ".join(f"alpha {a:g}" for a in _ALPHAS) + " |",
        "| --- |" + " --- |" * len(_ALPHAS),
    ]
    for name, verify, drafter in _scenarios(costs.verify_cost):
        speedups = costs.speedup_map(_ALPHAS, [verify], pair.num_tokens, drafter).speedup[0]
        lines.append(f"| {verify:.1f} ({name}) | " + " | ".join(f"{speedup:.2f}" for speedup in speedups) + " |")
    today = (
        f"\nToday's point: {fmean(r['accepted'] for r in rows):.1f} of {costs.drafted:.0f} free drafts accepted. What "
        "the map says:\n"
    )
    return "\n".join([*lines, today, *(f"- {sentence}" for sentence in pair.reading()), ""])


def _scenarios(today: float) -> list[tuple[str, float, float]]:
    """(name, verify cost, drafter step in today's) of the rows of the map."""
    return [
        ("today's 4-bit kernels", today, 1.0),
        ("kernels that verify at twice a step", 2.0, 1.0),
        (f"kernels that verify at {ASSUMED_VERIFY} steps, as assumed of bitsandbytes 0.50", ASSUMED_VERIFY, 1.0),
        ("the same, with an EAGLE-style head at a tenth of the drafter's step", ASSUMED_VERIFY, ASSUMED_HEAD),
    ]
