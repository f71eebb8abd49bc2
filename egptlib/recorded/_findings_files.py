"""What every finding is made of: the recorded files, each opened once, and a few sums over their rows."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from egptlib.recorded._open import open_recorded
from egptlib.recorded._recorded import Recorded, Row

LVL = "e2e_wallclock_20260207_113610_LVL.json"
SHARED_GPU = "e2e_wallclock_20260207_040508_gamma5.json"
ALL_CONFIGS = "e2e_wallclock_20260207_033813_16configs_10samples.json"
FIVE_STAGE = "five_stage_seq2s_20260127_204018.json"
FIVE_STAGE_LONG = "five_stage_seq20s_20260127_115908_semantic_metric.json"
TOKENS = "test_tokens_1q.json"
ADAPTER = "token_adapter_full_benchmark_20260129_225244.json"
ADAPTER_TRAINING = "token_adapter_results_1q_20260128_151847.json"
SD_EVAL = "sd_eval_20260129_222146.json"
SD_EVAL_AGAIN = "sd_eval_20260129_222534.json"
PARALLEL = "parallel_metrics_gamma5_4bit_20260126_003830.json"
PREFILLS = "parallel_prefill_4bit_20260126_000542.json"
SEMANTIC = "acceptance_rate_gamma5_4bit_20260126_013606.json"
LLAVA15 = "llava15_8img_vs_eventgpt_1frame_20260124_175006.json"


class Finding(NamedTuple):
    """One claim of the earlier notes, and what its files say."""

    id: str
    claim: str
    recomputed: str
    wrong: str
    question: str


class Files:
    """The recorded files, each opened once, and what else a finding may need.

    Attributes:
        folder: with the recorded files.
        encode: text to the ids of the vocabulary both models share; None: not at hand.
        l4: an adapter of level L4 as the earlier trainer saved it, states [batch, time, hidden] to the same; or None.
    """

    def __init__(
        self,
        folder: Path,
        encode: Callable[[str], list[int]] | None = None,
        l4: Callable[[Any], Any] | None = None,
    ):
        self.folder, self.encode, self.l4 = folder, encode, l4
        self._open: dict[str, Recorded] = {}

    def __call__(self, name: str) -> Recorded:
        if name not in self._open:
            self._open[name] = open_recorded(self.folder / name)
        return self._open[name]

    def adapter(self, level: str) -> Row:
        """The metrics of a level."""
        return self(f"adapters/{level}_acceptance_metrics.json").rows[0]

    def step_seconds(self, lane: str) -> float:
        """One decoding step of a model, as the wall-clock file's own stage timing has it."""
        return float(self(LVL).extra["stage_timing"][lane]["step"])


def ratio_of_sums(rows: Sequence[Row]) -> float:
    """All of the baseline's seconds over all of the method's."""
    return sum(r["baseline_seconds"] for r in rows) / sum(r["total_seconds"] for r in rows)


def ms(values: Iterable[float]) -> float:
    """Mean of seconds, in milliseconds."""
    return 1e3 * fmean(values)
