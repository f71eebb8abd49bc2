"""What decoding gives and costs: methods against the clock, costs of a step, agreement, what lossy rules change."""

from egptlib.measuring._agreement import Agreement, CascadeAgreement, record_agreement, record_cascade
from egptlib.measuring._baselines import TimedAnswer, timed_generate, transformers_baselines, transformers_generate
from egptlib.measuring._changes import Changes, compare_answers, compare_scenes
from egptlib.measuring._choices import ChoiceScore, chosen_option, score_choices
from egptlib.measuring._costs import CostReport, measure_costs, report_costs
from egptlib.measuring._divergences import Divergences, Parted, find_divergences
from egptlib.measuring._hiding import Contention, HidingRun, compare_prefill_hiding, contention
from egptlib.measuring._methods import (
    BlankedDrafter,
    Method,
    MethodRuns,
    Speed,
    compare_speed,
    run_methods,
    run_sessions,
    with_threads,
)
from egptlib.measuring._selftest import SelfTest, selftest
from egptlib.measuring._slots import slot_agreement, slot_rejections
from egptlib.measuring._word_kinds import KIND_GROUPS, KINDS, word_kinds

__all__ = [
    "KINDS",
    "KIND_GROUPS",
    "Agreement",
    "BlankedDrafter",
    "CascadeAgreement",
    "Changes",
    "ChoiceScore",
    "Contention",
    "CostReport",
    "Divergences",
    "HidingRun",
    "Method",
    "MethodRuns",
    "Parted",
    "SelfTest",
    "Speed",
    "TimedAnswer",
    "chosen_option",
    "compare_answers",
    "compare_prefill_hiding",
    "compare_scenes",
    "compare_speed",
    "contention",
    "find_divergences",
    "measure_costs",
    "record_agreement",
    "record_cascade",
    "report_costs",
    "run_methods",
    "run_sessions",
    "score_choices",
    "selftest",
    "slot_agreement",
    "slot_rejections",
    "timed_generate",
    "transformers_baselines",
    "transformers_generate",
    "with_threads",
    "word_kinds",
]
