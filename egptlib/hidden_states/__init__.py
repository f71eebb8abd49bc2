"""Paired hidden states on disk: written in chunks, resumed, read lazily; and the extraction that makes them."""

from egptlib.hidden_states._extract import Extraction, extract, is_complete
from egptlib.hidden_states._reader import HiddenBatch, HiddenSample, HiddenStates
from egptlib.hidden_states._writer import HiddenStateWriter

__all__ = ["Extraction", "HiddenBatch", "HiddenSample", "HiddenStateWriter", "HiddenStates", "extract", "is_complete"]
