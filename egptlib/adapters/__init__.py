"""From the drafter's hidden states to the target's: adapters by level, their training, and what they are worth."""

from egptlib.adapters._files import count_parameters, create_adapter, load_adapter, save_adapter
from egptlib.adapters._levels import Adapter, Head, token_states
from egptlib.adapters._settings import LEVELS, RUNS_AHEAD, AdapterSettings, level_settings

__all__ = [
    "LEVELS",
    "RUNS_AHEAD",
    "Adapter",
    "AdapterSettings",
    "Head",
    "count_parameters",
    "create_adapter",
    "level_settings",
    "load_adapter",
    "save_adapter",
    "token_states",
]
