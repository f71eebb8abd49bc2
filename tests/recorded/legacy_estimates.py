"""The earlier work's three estimates, each with what is wrong about it: the recorded files hold what they give."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from egptlib.metrics import prefill_hiding_seconds, steady_speedup
from egptlib.recorded import legacy_speedup_estimates

LegacyKind = Literal["verified_for_free", "window_with_loading", "assumed_times"]

# Seconds on the RTX 4090, both models in 4 bit (five-stage and end-to-end files): what was assumed as 130, 310, 25, 25.
_MEASURED = {"drafter_prefill": 0.086, "target_prefill": 0.326, "drafter_step": 0.0104, "target_step": 0.0149}


@dataclass(frozen=True)
class LegacyEstimate:
    """An estimate of the earlier work, and what becomes of it when the error is mended.

    Attributes:
        kind: which one.
        finding: its number in roadmap/FINDINGS.md.
        figures: under the names its file has; times in the unit of that file. No speedups, whatever they are called.
        reason: why it is wrong.
        mended: the same figures with that error taken out. Still estimates: each says less than a clock would.
    """

    kind: LegacyKind
    finding: str
    figures: dict[str, float]
    reason: str
    mended: dict[str, float]


def legacy_estimate(kind: str, recorded: Mapping[str, Any]) -> LegacyEstimate:
    """Reproduce one of the three estimates from one recorded sample.

    Args:
        kind: "verified_for_free" ("9.34x at 40 % acceptance") of a result in `parallel_metrics_*`;
            "window_with_loading" ("the window grows with the clip, 3.99x at 20 s") of a result in `five_stage_*`;
            "assumed_times" ("5.77x") of a `*_acceptance_metrics` file, or of what `acceptance_metrics` returns.
        recorded: the JSON object as it is in the file (seconds, or no times at all).

    Raises:
        KeyError: the object lacks a field.
        ValueError: an unknown kind, or a sample of zero tokens or seconds.
    """
    if kind not in _ESTIMATES:
        raise ValueError(f"kind: expected one of {sorted(_ESTIMATES)}, got {kind!r}")
    try:
        return _ESTIMATES[kind](recorded)
    except ZeroDivisionError:
        raise ValueError(f"{kind}: the recorded sample has no tokens or no seconds") from None


def _verified_for_free(row: Mapping[str, Any]) -> LegacyEstimate:
    total, drafter = row["vl_total_time"], row["egpt_complete_time"]
    again = 1.6 * (row["draft_time"] / row["draft_tokens"]) * row["tokens_to_verify"] / 5
    # What is not accepted the target still has to write.
    rest = row["vl_generation_time"] * (1 - row["accepted_tokens"] / len(row["output_tokens"]))
    charged = prefill_hiding_seconds(row["vl_prefill_time"], drafter, 0.0, 0.0, rest)
    return LegacyEstimate(
        "verified_for_free",
        "C6",
        {"speedup": total / (drafter + again), "ideal_speedup": total / max(drafter, row["vl_prefill_time"])},
        "The target's prefill, its verification and the rest of its decoding are left out, so it lies above its own "
        "ideal; 40 % acceptance is a constant. Mended: prefill and the rest are charged, verification is still free.",
        {"speedup": total / charged},
    )


def _window_with_loading(row: Mapping[str, Any]) -> LegacyEstimate:
    drafter, target = row["eventgpt"], row["videollava"]

    def figures(loading: bool) -> dict[str, float]:
        stages = range(1 if loading else 2, 5)
        ready = [sum(side[f"stage{i}_time"] for i in stages) for side in (drafter, target)]
        decode = [side["stage5_time"] for side in (drafter, target)]
        totals = [ready[0] + decode[0], ready[1] + decode[1]]
        window = max(0.0, ready[1] - ready[0])
        wall = max(ready) + max(decode[1], decode[0] - min(window, decode[0]))
        return {
            "overlap_window": window,
            "hidden_tokens": float(min(int(window * drafter["tokens_per_sec"]), drafter["num_output_tokens"])),
            "parallel_speedup": (sum(totals) if loading else totals[1]) / wall,
            "target_over_drafter": totals[1] / totals[0],
        }

    return LegacyEstimate(
        "window_with_loading",
        "C10",
        figures(loading=True),
        "Reading and decoding the video file counts as the target's prefill, so the window grows with the clip while "
        "the models take as long as ever; the speedup is over running both models, and 3.99x is how much sooner the "
        "drafter alone is done. Mended: without loading, against the target alone.",
        figures(loading=False),
    )


def _assumed_times(metrics: Mapping[str, Any]) -> LegacyEstimate:
    m, tokens = _MEASURED, 50
    window = m["target_prefill"] - m["drafter_prefill"]
    kept = min(window / m["drafter_step"], metrics["consecutive_mean_90"])
    plain = m["target_prefill"] + tokens * m["target_step"]
    hidden = prefill_hiding_seconds(
        m["target_prefill"], m["drafter_prefill"], window, 0.0, (tokens - kept) * m["target_step"]
    )
    gamma, c = int(metrics["sd_gamma_decode"]), m["drafter_step"] / m["target_step"]
    return LegacyEstimate(
        "assumed_times",
        "C11",
        legacy_speedup_estimates(metrics),
        "Three formulas that contradict one another, on times nobody measured: savings of decoding are divided by the "
        "prefill; verification and drafting are free in one and charged in another; cosine above 0.90 is taken for an "
        "accepted token, and the first five positions for all. Mended: measured times and drafting charged; "
        "verification is still free and cosine still taken for acceptance, so the clock stays far below.",
        {
            "speedup_prefill": plain / hidden,
            "speedup_decode_gamma5": steady_speedup(metrics["sd_consecutive_gamma5"] + 1, gamma, c, 1.0),
        },
    )


_ESTIMATES: dict[str, Callable[[Mapping[str, Any]], LegacyEstimate]] = {
    "verified_for_free": _verified_for_free,
    "window_with_loading": _window_with_loading,
    "assumed_times": _assumed_times,
}
