"""From the drafter's hidden states to the target's: adapters by level, their training, and what they are worth."""

from egptlib.adapters._files import count_parameters, create_adapter, load_adapter, save_adapter
from egptlib.adapters._fit import Fit, FitSettings
from egptlib.adapters._judge import Judgement, Majority, acceptance_length, judge, judge_baselines, measure_latency
from egptlib.adapters._levels import Adapter, Head, token_states
from egptlib.adapters._runs import collect_training, new_run_folder, star
from egptlib.adapters._settings import LEVELS, RUNS_AHEAD, AdapterSettings, level_settings
from egptlib.adapters._token_adapter import (
    TokenAdapter,
    TokenAdapterSettings,
    judge_token_adapter,
    pad_ids,
    train_token_adapter,
)
from egptlib.adapters._train import LossSettings, split_by_sequence, train_adapter
from egptlib.adapters._word_kinds import rejections_by_kind, word_kinds

__all__ = [
    "LEVELS",
    "RUNS_AHEAD",
    "Adapter",
    "AdapterSettings",
    "Fit",
    "FitSettings",
    "Head",
    "Judgement",
    "LossSettings",
    "Majority",
    "TokenAdapter",
    "TokenAdapterSettings",
    "acceptance_length",
    "collect_training",
    "count_parameters",
    "create_adapter",
    "judge",
    "judge_baselines",
    "judge_token_adapter",
    "level_settings",
    "load_adapter",
    "measure_latency",
    "new_run_folder",
    "pad_ids",
    "rejections_by_kind",
    "save_adapter",
    "split_by_sequence",
    "star",
    "token_states",
    "train_adapter",
    "train_token_adapter",
    "word_kinds",
]
