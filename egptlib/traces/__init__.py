"""What runs left behind: traces (parquet), and the result files of the earlier experiments. Imports only metrics."""

from egptlib.traces._findings import findings_document
from egptlib.traces._fit_trace import fit_trace, recorded_schedule
from egptlib.traces._halves import HalfPrediction, predict_other_half
from egptlib.traces._open import open_recorded
from egptlib.traces._recorded import Recorded
from egptlib.traces._speedup_map import (
    RTX_4090,
    HidingCosts,
    MapPoint,
    RecordedPair,
    SpeedupMap,
)
from egptlib.traces._trace import Trace, TraceEvent, TraceRow
from egptlib.traces._trace_file import count_rows
from egptlib.traces._trace_sources import (
    trace_from_generations,
    trace_from_hidden_states,
    trace_from_recorded,
    trace_from_runs,
)

__all__ = [
    "RTX_4090",
    "HalfPrediction",
    "HidingCosts",
    "MapPoint",
    "Recorded",
    "RecordedPair",
    "SpeedupMap",
    "Trace",
    "TraceEvent",
    "TraceRow",
    "count_rows",
    "findings_document",
    "fit_trace",
    "open_recorded",
    "predict_other_half",
    "recorded_schedule",
    "trace_from_generations",
    "trace_from_hidden_states",
    "trace_from_recorded",
    "trace_from_runs",
]
