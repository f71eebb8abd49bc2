"""Every figure of the notebooks, as a pure function from data to a matplotlib figure; none is shown or saved here."""

from egptlib.reporting._figures import (
    consecutive_figure,
    lengths_figure,
    memory_figure,
    per_position_figure,
    proxy_figure,
    similarity_figure,
    stage_times_figure,
)
from egptlib.reporting._figures_adapters import acceptance_figure, training_figure
from egptlib.reporting._figures_costs import step_parts_figure, verify_cost_figure
from egptlib.reporting._figures_decoding import accepted_lengths_figure, methods_figure, positions_figure, tokens_figure
from egptlib.reporting._figures_explore import (
    AcceptanceGrid,
    acceptance_explorer_figure,
    acceptance_grid,
    adapter_comparison_figure,
)
from egptlib.reporting._figures_extraction import extraction_figure
from egptlib.reporting._figures_hiding import free_tokens_figure, hiding_figure
from egptlib.reporting._figures_prediction import prediction_figure, speedup_map_figure
from egptlib.reporting._figures_scene import scene_figure
from egptlib.reporting._figures_timeline import timeline_cursor_figure, timeline_figure
from egptlib.reporting._figures_tokens import (
    facts_figure,
    rejection_profile_figure,
    token_training_figure,
    word_kinds_figure,
)
from egptlib.reporting._timeline_runs import event_table, mean_run, recorded_runs

__all__ = [
    "AcceptanceGrid",
    "acceptance_explorer_figure",
    "acceptance_figure",
    "acceptance_grid",
    "accepted_lengths_figure",
    "adapter_comparison_figure",
    "consecutive_figure",
    "event_table",
    "extraction_figure",
    "facts_figure",
    "free_tokens_figure",
    "hiding_figure",
    "lengths_figure",
    "mean_run",
    "memory_figure",
    "methods_figure",
    "per_position_figure",
    "positions_figure",
    "prediction_figure",
    "proxy_figure",
    "recorded_runs",
    "rejection_profile_figure",
    "scene_figure",
    "similarity_figure",
    "speedup_map_figure",
    "stage_times_figure",
    "step_parts_figure",
    "timeline_cursor_figure",
    "timeline_figure",
    "token_training_figure",
    "tokens_figure",
    "training_figure",
    "verify_cost_figure",
    "word_kinds_figure",
]
