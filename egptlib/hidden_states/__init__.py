"""Paired hidden states on disk: written durably, resumed, read lazily; and the extraction that makes them."""

from egptlib.hidden_states._convert import convert
from egptlib.hidden_states._extract import Extraction, extract, is_complete
from egptlib.hidden_states._heads import Head
from egptlib.hidden_states._index import Damage, Problem
from egptlib.hidden_states._plan import ExtractionPlan, plan_extraction
from egptlib.hidden_states._reader import HiddenStates
from egptlib.hidden_states._recovery import check_store, repair_store
from egptlib.hidden_states._sample import HiddenBatch, HiddenSample, RaggedBatch
from egptlib.hidden_states._shards import extract_shards
from egptlib.hidden_states._trace import write_trace
from egptlib.hidden_states._writer import HiddenStateWriter

__all__ = [
    "Damage",
    "Extraction",
    "ExtractionPlan",
    "Head",
    "HiddenBatch",
    "HiddenSample",
    "HiddenStateWriter",
    "HiddenStates",
    "Problem",
    "RaggedBatch",
    "check_store",
    "convert",
    "extract",
    "extract_shards",
    "is_complete",
    "plan_extraction",
    "repair_store",
    "write_trace",
]
