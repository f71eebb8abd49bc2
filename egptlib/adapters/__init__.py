"""From the drafter's hidden states to the target's: adapters by level, their training, and what they are worth."""

from egptlib.adapters._build import create_adapter
from egptlib.adapters._files import MINI_HEADS, count_parameters, load_adapter, save_adapter
from egptlib.adapters._fit import Fit, FitSettings
from egptlib.adapters._judge import (
    Judgement,
    Majority,
    acceptance_length,
    judge,
    judge_baselines,
    length_gain,
    measure_latency,
)
from egptlib.adapters._levels import CLASSES, Adapter, AttentionAdapter, Head, register, token_states
from egptlib.adapters._lora import DrafterLora, LoraSettings, count_lora_parameters, load_lora, save_lora
from egptlib.adapters._lora_train import ScenesById, judge_lora, train_lora
from egptlib.adapters._losses import LossSettings
from egptlib.adapters._mini_heads import train_mini_heads
from egptlib.adapters._runs import new_run_folder
from egptlib.adapters._served import ServedHead
from egptlib.adapters._served_files import FORMATS, export_head
from egptlib.adapters._settings import LEVELS, RUNS_AHEAD, AdapterSettings, level_settings
from egptlib.adapters._stepwise import AlignerRun, HeadRun
from egptlib.adapters._table import VARIANTS, Trained, find_variant, order_agreement, tell_order, train_level
from egptlib.adapters._token_adapter import (
    TokenAdapter,
    TokenAdapterSettings,
    judge_token_adapter,
    pad_ids,
    rank_tokens,
    train_token_adapter,
)
from egptlib.adapters._token_folds import (
    TokenFolds,
    cross_validate_tokens,
    halves,
    majority_guesses,
    score_guesses,
    top1_gain,
)
from egptlib.adapters._train import split_by_sequence, train_adapter

__all__ = [
    "CLASSES",
    "FORMATS",
    "LEVELS",
    "MINI_HEADS",
    "RUNS_AHEAD",
    "VARIANTS",
    "Adapter",
    "AdapterSettings",
    "AlignerRun",
    "AttentionAdapter",
    "DrafterLora",
    "Fit",
    "FitSettings",
    "Head",
    "HeadRun",
    "Judgement",
    "LoraSettings",
    "LossSettings",
    "Majority",
    "ScenesById",
    "ServedHead",
    "TokenAdapter",
    "TokenAdapterSettings",
    "TokenFolds",
    "Trained",
    "acceptance_length",
    "count_lora_parameters",
    "count_parameters",
    "create_adapter",
    "cross_validate_tokens",
    "export_head",
    "find_variant",
    "halves",
    "judge",
    "judge_baselines",
    "judge_lora",
    "judge_token_adapter",
    "length_gain",
    "level_settings",
    "load_adapter",
    "load_lora",
    "majority_guesses",
    "measure_latency",
    "new_run_folder",
    "order_agreement",
    "pad_ids",
    "rank_tokens",
    "register",
    "save_adapter",
    "save_lora",
    "score_guesses",
    "split_by_sequence",
    "tell_order",
    "token_states",
    "top1_gain",
    "train_adapter",
    "train_level",
    "train_lora",
    "train_mini_heads",
    "train_token_adapter",
]
