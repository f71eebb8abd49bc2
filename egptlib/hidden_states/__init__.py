"""Paired hidden states on disk: written durably, resumed, read lazily; and the extraction that makes them."""

from egptlib.hidden_states._extract import Extraction, extract, is_complete
from egptlib.hidden_states._heads import Head
from egptlib.hidden_states._reader import HiddenStates
from egptlib.hidden_states._recovery import check_store, rebuild_index
from egptlib.hidden_states._sample import HiddenBatch, HiddenSample, RaggedBatch
from egptlib.hidden_states._writer import HiddenStateWriter

__all__ = [
    "Extraction",
    "Head",
    "HiddenBatch",
    "HiddenSample",
    "HiddenStateWriter",
    "HiddenStates",
    "RaggedBatch",
    "check_store",
    "extract",
    "is_complete",
    "rebuild_index",
]
