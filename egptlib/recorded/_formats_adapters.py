"""Recorded formats of the earlier adapters: metrics, figures by position, settings, two-phase estimates."""

from egptlib.recorded._record import Record
from egptlib.recorded._recorded import ASSUMED_TIMES, Recorded, Row

_METRICS = (
    "total_valid_positions", "cos_sim_mean", "accept_90", "consecutive_mean_90", "token_top1_match",
    "token_consecutive_mean", "cosim_token_pearson_r", "speedup_prefill", "speedup_decode_gamma5", "speedup_e2e",
    "token_sd_e2e_speedup",
)  # fmt: skip


def read_adapter_metrics(kind: str, file: Record) -> Recorded:
    """One row, the fields as they are in the file."""
    for name in _METRICS:
        file.number(name)
    traps = (
        ASSUMED_TIMES,
        "two free answers set side by side, cut to the shorter: position t of one text beside t of another",
        "B1 and L5F were given the state they are compared with: their cosine is no upper bound",
    )
    adapter = file.path.name.removesuffix("_acceptance_metrics.json")
    return Recorded(kind, file.path, [dict(file.fields)], traps, {"adapter": adapter})


def read_adapter_positions(kind: str, file: Record) -> Recorded:
    """One row a position, the fields as they are in the file."""
    rows: list[Row] = []
    for r in file.records("positions"):
        r.number("mean"), r.number("accept_90")
        rows.append(dict(r.fields) | {"position": r.count("position"), "num_samples": r.count("num_samples")})
    return Recorded(kind, file.path, rows, (), {"adapter": file.path.name.removesuffix("_position_stats.json")})


def read_adapter_config(kind: str, file: Record) -> Recorded:
    """One row, the adapter's own settings; `config` is the whole file."""
    return Recorded(kind, file.path, [dict(file.part("adapter").fields)], (), file.fields)


def read_two_phase(kind: str, file: Record) -> Recorded:
    """One row: an estimate of two adapters one after the other."""
    row: Row = {
        "baseline_seconds": file.ms("baseline_time_ms"),
        "total_seconds": file.ms("sd_time_ms"),
        "recorded_speedup": file.number("e2e_speedup"),
        "recorded_consecutive": file.number("phase2_decode_consecutive"),
        "next_token_top1": file.number("phase2_shifted_top1"),
        "method": file.text("label"),
    }
    traps = ("every figure is estimated; measured were 0.31 to 0.37x", ASSUMED_TIMES)
    return Recorded(kind, file.path, [row], traps, file.fields)
