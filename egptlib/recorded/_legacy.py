"""The estimates that the earlier script wrote beside what it measured, kept so that its tables can be read."""

from collections.abc import Mapping
from typing import Any


def legacy_speedup_estimates(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Reproduce the `speedup_*` figures of the earlier script from its formulas and its assumed times.

    They contradict one another and the clock: 5.77x was estimated where 1.00 to 1.03x was measured. The
    prefill one divides what decoding saves by the prefill time; the decode one takes verification of gamma
    tokens as free; the end-to-end one charges five drafter steps and ignores the free draft tokens, and jumps
    from 1.0 at nothing accepted to 0.2 at almost nothing. The assumed 130/310 ms and 25 ms a token were never
    measured (86/326 ms and 10.4/14.9 ms were). `prefill_overlap_window_ms` is what that script called so: the
    drafter's prefill and adapter, not the window.

    Args:
        metrics: from `acceptance_metrics`, with the threshold 0.90 among its thresholds.

    Raises:
        KeyError: `metrics` lacks a figure that is needed.
    """
    drafter_prefill_ms, target_prefill_ms, token_ms, adapter_ms, num_output_tokens = 130.0, 310.0, 25.0, 1.5, 50
    of_five = metrics["sd_consecutive_gamma5"]
    gamma = int(metrics["sd_gamma_decode"])
    overhead = adapter_ms / token_ms
    free_tokens = max(0.0, target_prefill_ms - drafter_prefill_ms) / token_ms
    effective = min(free_tokens, metrics["consecutive_mean_90"])

    baseline_ms = target_prefill_ms + num_output_tokens * token_ms
    speculative_ms = baseline_ms
    if of_five > 0:
        iteration_ms = gamma * token_ms + token_ms + adapter_ms
        speculative_ms = target_prefill_ms + num_output_tokens / (of_five + 1) * iteration_ms
    return {
        "speedup_prefill": (target_prefill_ms + effective * token_ms) / target_prefill_ms,
        "prefill_overlap_window_ms": drafter_prefill_ms + adapter_ms,
        "prefill_free_draft_tokens": free_tokens,
        "prefill_effective_tokens": effective,
        "speedup_decode_gamma5": (of_five + 1) / (1 + overhead),
        "decode_overhead_ratio": overhead,
        "speedup_e2e": baseline_ms / speculative_ms,
        "e2e_baseline_time_ms": baseline_ms,
        "e2e_sd_time_ms": speculative_ms,
        "e2e_num_output_tokens": num_output_tokens,
    }
