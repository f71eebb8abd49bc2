"""What runs left behind, one row an answer: traces (parquet), and the costs fitted to them. Imports only metrics."""

from egptlib.traces._find import find_traces
from egptlib.traces._fit_trace import fit_trace, recorded_schedule
from egptlib.traces._parquet import count_rows
from egptlib.traces._totals import trace_totals
from egptlib.traces._trace import Trace, TraceEvent, TraceRow
from egptlib.traces._trace_sources import (
    trace_from_agreement,
    trace_from_generations,
    trace_from_hidden_states,
    trace_from_runs,
)

__all__ = [
    "Trace",
    "TraceEvent",
    "TraceRow",
    "count_rows",
    "find_traces",
    "fit_trace",
    "recorded_schedule",
    "trace_from_agreement",
    "trace_from_generations",
    "trace_from_hidden_states",
    "trace_from_runs",
    "trace_totals",
]
