"""Result files and logs of others and of the earlier experiments: opened, judged, and what they say of a speedup."""

from egptlib.recorded._findings import findings_document
from egptlib.recorded._halves import HalfPrediction, predict_other_half
from egptlib.recorded._legacy import LegacyEstimate, LegacyKind, legacy_estimate, legacy_speedup_estimates
from egptlib.recorded._logs import DecodingLog, explain_log, open_log
from egptlib.recorded._open import open_recorded
from egptlib.recorded._recorded import Recorded
from egptlib.recorded._speedup_map import RTX_4090, HidingCosts, MapPoint, RecordedPair, SpeedupMap
from egptlib.recorded._trace_source import trace_from_recorded

__all__ = [
    "RTX_4090",
    "DecodingLog",
    "HalfPrediction",
    "HidingCosts",
    "LegacyEstimate",
    "LegacyKind",
    "MapPoint",
    "Recorded",
    "RecordedPair",
    "SpeedupMap",
    "explain_log",
    "findings_document",
    "legacy_estimate",
    "legacy_speedup_estimates",
    "open_log",
    "open_recorded",
    "predict_other_half",
    "trace_from_recorded",
]
