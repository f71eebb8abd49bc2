"""What runs left behind: traces (parquet), and the result files of the earlier experiments. Imports only metrics."""

from egptlib.traces._recorded import Recorded, open_recorded
from egptlib.traces._trace import Trace, TraceRow, trace_from_generations, trace_from_hidden_states

__all__ = [
    "Recorded",
    "Trace",
    "TraceRow",
    "open_recorded",
    "trace_from_generations",
    "trace_from_hidden_states",
]
