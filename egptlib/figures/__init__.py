"""Figures, as pure functions from data to a matplotlib figure, and the explorers around them; none is shown here."""

from egptlib.figures._adapters import acceptance_figure, training_figure
from egptlib.figures._basic import (
    consecutive_figure,
    lengths_figure,
    memory_figure,
    per_position_figure,
    proxy_figure,
    similarity_figure,
    stage_times_figure,
)
from egptlib.figures._costs import step_parts_figure, verify_cost_figure
from egptlib.figures._decoding import accepted_lengths_figure, methods_figure, positions_figure, tokens_figure
from egptlib.figures._explore import (
    AcceptanceGrid,
    acceptance_explorer_figure,
    acceptance_grid,
    adapter_comparison_figure,
)
from egptlib.figures._explorers import (
    AnswerPair,
    browse_samples,
    compare_adapters,
    explore,
    explore_acceptance,
    scrub_timeline,
)
from egptlib.figures._extraction import extraction_figure
from egptlib.figures._hiding import free_tokens_figure, hiding_figure
from egptlib.figures._lanes import event_table, mean_run, recorded_runs
from egptlib.figures._prediction import prediction_figure, speedup_map_figure
from egptlib.figures._scene import scene_figure
from egptlib.figures._stream import stream_figure
from egptlib.figures._style import (
    DOUBLE_COLUMN,
    DRAFTER_COLOR,
    NEUTRAL_COLOR,
    PALETTE,
    SINGLE_COLUMN,
    TARGET_COLOR,
    apply_style,
    paper_width,
)
from egptlib.figures._summary import runs_figure, sweep_figure
from egptlib.figures._timeline import timeline_cursor_figure, timeline_figure
from egptlib.figures._tokens import (
    facts_figure,
    rejection_profile_figure,
    token_training_figure,
    word_kinds_figure,
)
from egptlib.figures._waterfall import waterfall_figure

__all__ = [
    "DOUBLE_COLUMN",
    "DRAFTER_COLOR",
    "NEUTRAL_COLOR",
    "PALETTE",
    "SINGLE_COLUMN",
    "TARGET_COLOR",
    "AcceptanceGrid",
    "AnswerPair",
    "acceptance_explorer_figure",
    "acceptance_figure",
    "acceptance_grid",
    "accepted_lengths_figure",
    "adapter_comparison_figure",
    "apply_style",
    "browse_samples",
    "compare_adapters",
    "consecutive_figure",
    "event_table",
    "explore",
    "explore_acceptance",
    "extraction_figure",
    "facts_figure",
    "free_tokens_figure",
    "hiding_figure",
    "lengths_figure",
    "mean_run",
    "memory_figure",
    "methods_figure",
    "paper_width",
    "per_position_figure",
    "positions_figure",
    "prediction_figure",
    "proxy_figure",
    "recorded_runs",
    "rejection_profile_figure",
    "runs_figure",
    "scene_figure",
    "scrub_timeline",
    "similarity_figure",
    "speedup_map_figure",
    "stage_times_figure",
    "step_parts_figure",
    "stream_figure",
    "sweep_figure",
    "timeline_cursor_figure",
    "timeline_figure",
    "token_training_figure",
    "tokens_figure",
    "training_figure",
    "verify_cost_figure",
    "waterfall_figure",
    "word_kinds_figure",
]
