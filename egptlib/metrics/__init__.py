"""What is accepted, and how much of it: pure functions on tensors. This room imports no other."""

from egptlib.metrics._acceptance import (
    AcceptanceAccumulator,
    acceptance_metrics,
    consecutive_accepts,
    masked_cosine,
    per_position_table,
    telling_thresholds,
)
from egptlib.metrics._bootstrap import Estimate, bootstrap
from egptlib.metrics._cost_model import CostModel, Prediction, Tag
from egptlib.metrics._costs import Costs
from egptlib.metrics._fit_costs import TimedEvent, fit_costs, least_squares
from egptlib.metrics._formulas import (
    acceptance_rate,
    expected_tokens,
    leviathan_speedup,
    prefill_hiding_seconds,
    steady_speedup,
)
from egptlib.metrics._rejections import Rejections, bin_names, binned
from egptlib.metrics._replay import Replay, expected_accepted, replay
from egptlib.metrics._replay_cascade import CascadeReplay, agreement_ahead, replay_cascade
from egptlib.metrics._replay_policy import DraftLength, replay_policy
from egptlib.metrics._tokens import exact_against_proxy, token_acceptance
from egptlib.metrics._trees import TreePlan, best_tree, choose_tree
from egptlib.metrics._waterfall import Factor, RunTotals, Waterfall, explain, fit_draft_cost

__all__ = [
    "AcceptanceAccumulator",
    "CascadeReplay",
    "CostModel",
    "Costs",
    "DraftLength",
    "Estimate",
    "Factor",
    "Prediction",
    "Rejections",
    "Replay",
    "RunTotals",
    "Tag",
    "TimedEvent",
    "TreePlan",
    "Waterfall",
    "acceptance_metrics",
    "acceptance_rate",
    "agreement_ahead",
    "best_tree",
    "bin_names",
    "binned",
    "bootstrap",
    "choose_tree",
    "consecutive_accepts",
    "exact_against_proxy",
    "expected_accepted",
    "expected_tokens",
    "explain",
    "fit_costs",
    "fit_draft_cost",
    "least_squares",
    "leviathan_speedup",
    "masked_cosine",
    "per_position_table",
    "prefill_hiding_seconds",
    "replay",
    "replay_cascade",
    "replay_policy",
    "steady_speedup",
    "telling_thresholds",
    "token_acceptance",
]
