"""Open the result files of the earlier experiments as they are: the format follows from what a file holds."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from egptlib._paths import parse_json
from egptlib.recorded import _formats_timed as timed
from egptlib.recorded import _formats_tokens as tokens
from egptlib.recorded._recorded import Record, Recorded

# By kind: fields that tell the format (a name after a dot is one of the first record of that list or object), and its
# reader. The first kind that fits counts, so the more particular ones stand first.
_FORMATS: dict[str, tuple[tuple[str, ...], Callable[[str, Record], Recorded]]] = {
    "e2e_wallclock": (("baseline_per_sample", "sd_per_sample"), timed.read_e2e_wallclock),
    "five_stage": (("results.eventgpt", "results.videollava", "results.acceptance"), timed.read_five_stage),
    "sd_eval": (("results.sd_output_tokens", "results.adapted_draft_tokens"), tokens.read_sd_eval),
    "token_adapter_benchmark": (("results.adapter_tokens", "results.vl_tokens"), tokens.read_token_adapter_benchmark),
    "token_adapter_training": (("baseline", "final", "training_history"), tokens.read_token_adapter_training),
    "parallel_metrics": (("results.tokens_to_verify", "results.ideal_speedup"), timed.read_parallel_metrics),
    "parallel_prefill": (("results.eventgpt", "results.videollava", "results.parallel"), timed.read_parallel_prefill),
    "semantic_acceptance": (("results.acceptance_estimate", "results.word_overlap"), tokens.read_semantic_acceptance),
    "test_tokens": (("results.egpt_tokens", "results.vl_tokens"), tokens.read_test_tokens),
    "llava15_timing": (("eventgpt.samples", "videollava.samples"), timed.read_llava15_timing),
    "adapter_metrics": (("cos_sim_mean", "total_valid_positions"), tokens.read_adapter_metrics),
    "adapter_positions": (("positions.position", "positions.num_samples"), tokens.read_adapter_positions),
    "adapter_config": (("adapter", "task"), tokens.read_adapter_config),
    "two_phase": (("e2e_speedup", "label"), tokens.read_two_phase),
}


def open_recorded(path: str | Path) -> Recorded:
    """Open a result file of the earlier experiments; which format it is follows from what it holds.

    Kinds: `test_tokens` (ids of both models), `five_stage` (ids and stage times), `e2e_wallclock` (one row a sample
    and method, the baseline among them), `sd_eval`, `token_adapter_benchmark`, `token_adapter_training`,
    `parallel_metrics`, `parallel_prefill`, `semantic_acceptance`, `llava15_timing`, `adapter_metrics`,
    `adapter_positions`, `adapter_config`, `two_phase`.

    Raises:
        ValueError: not JSON, none of these formats, or a field missing or not of its kind (file, row, field named).
        OSError: the file cannot be read.
    """
    path = Path(path)
    content = parse_json(path.read_bytes(), path, nan=True)
    fields = {"positions": content} if isinstance(content, list) else content
    for kind, (names, read) in _FORMATS.items():
        if all(_has(fields, name) for name in names):
            return read(kind, Record(path, "", fields))
    found = sorted(content)[:8] if isinstance(content, dict) else type(content).__name__
    raise ValueError(f"{path}: no known result file; expected one of {', '.join(_FORMATS)}, found {found}")


def _has(value: Any, name: str) -> bool:
    """Whether `name` is there; of "results.label", `label` in the first of the `results`."""
    outer, _, inner = name.partition(".")
    if not isinstance(value, dict) or outer not in value:
        return False
    first = value[outer][0] if isinstance(value[outer], list) and value[outer] else value[outer]
    return not inner or (isinstance(first, dict) and inner in first)
