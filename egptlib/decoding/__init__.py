"""Speculative decoding: the loop, drafters under one protocol, acceptance rules, vocabularies."""

from egptlib.decoding._adapted import AdapterDrafter, HeadDrafter
from egptlib.decoding._cascade import CascadeDrafter
from egptlib.decoding._changes import Changes, compare_answers, compare_scenes
from egptlib.decoding._compare_methods import (
    BlankedDrafter,
    Method,
    MethodRuns,
    Speed,
    compare_speed,
    run_methods,
    transformers_generate,
)
from egptlib.decoding._divergences import Divergences, Parted, find_divergences
from egptlib.decoding._drafter_process import DrafterProcess
from egptlib.decoding._drafter_thread import DrafterThread
from egptlib.decoding._drafters import Draft, Drafter, NgramDrafter, SequenceDrafter, Stop, WatchingDrafter
from egptlib.decoding._generation import (
    Event,
    Generation,
    Recorder,
    Round,
    RoundTokens,
    acceptance_by_position,
    round_tokens,
)
from egptlib.decoding._lengths import AdaptiveLength, DraftLength, FixedLength
from egptlib.decoding._loop import (
    Divergence,
    as_drafter,
    first_divergence,
    read_prompt,
    speculative_decode,
    speculative_generate,
)
from egptlib.decoding._lossy import CosineThreshold, Deferral, Fuzzy, TopK, Typical
from egptlib.decoding._measure_costs import CostReport, measure_costs, report_costs
from egptlib.decoding._model_drafter import ModelDrafter
from egptlib.decoding._pipelined import pipelined_generate
from egptlib.decoding._prefill_hiding import (
    ConcurrentDrafter,
    Contention,
    HidingRun,
    compare_prefill_hiding,
    contention,
    hidden_prefill_generate,
)
from egptlib.decoding._record import Agreement, CascadeAgreement, record_agreement, record_cascade
from egptlib.decoding._retokenized import RetokenizedDrafter
from egptlib.decoding._rules import Lossless, Rule, Verdict
from egptlib.decoding._sampling import Sampler, Sampling
from egptlib.decoding._vocabulary import Vocabulary, common_vocabulary, shared_vocabulary

__all__ = [
    "AdapterDrafter",
    "AdaptiveLength",
    "Agreement",
    "BlankedDrafter",
    "CascadeAgreement",
    "CascadeDrafter",
    "Changes",
    "ConcurrentDrafter",
    "Contention",
    "CosineThreshold",
    "CostReport",
    "Deferral",
    "Divergence",
    "Divergences",
    "Draft",
    "DraftLength",
    "Drafter",
    "DrafterProcess",
    "DrafterThread",
    "Event",
    "FixedLength",
    "Fuzzy",
    "Generation",
    "HeadDrafter",
    "HidingRun",
    "Lossless",
    "Method",
    "MethodRuns",
    "ModelDrafter",
    "NgramDrafter",
    "Parted",
    "Recorder",
    "RetokenizedDrafter",
    "Round",
    "RoundTokens",
    "Rule",
    "Sampler",
    "Sampling",
    "SequenceDrafter",
    "Speed",
    "Stop",
    "TopK",
    "Typical",
    "Verdict",
    "Vocabulary",
    "WatchingDrafter",
    "acceptance_by_position",
    "as_drafter",
    "common_vocabulary",
    "compare_answers",
    "compare_prefill_hiding",
    "compare_scenes",
    "compare_speed",
    "contention",
    "find_divergences",
    "first_divergence",
    "hidden_prefill_generate",
    "measure_costs",
    "pipelined_generate",
    "read_prompt",
    "record_agreement",
    "record_cascade",
    "report_costs",
    "round_tokens",
    "run_methods",
    "shared_vocabulary",
    "speculative_decode",
    "speculative_generate",
    "transformers_generate",
]
