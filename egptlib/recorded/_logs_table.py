"""A table copied from a paper or an issue, as JSON.

    {"source": "where it was read", "plain": {"ms_per_token": 7.07},
     "runs": [{"method": "EAGLE-3", "gamma": 3, "tokens_per_pass": 2.79, "ms_per_token": 4.09}, ...]}

A run may tell `speedup` in place of `ms_per_token`; then nothing is said of plain decoding.
"""

from collections.abc import Sequence

from egptlib.metrics import RunTotals
from egptlib.recorded._record import Record


def read_table(records: Sequence[Record]) -> list[RunTotals]:
    """Return the runs, and plain decoding (of one second a token where only speedups are told)."""
    token = records[0].optional("plain").maybe("ms_per_token")
    made = [RunTotals(1.0, 1.0 if token is None else token / 1000, "plain", tokens_per_pass=1.0)]
    for place, row in enumerate(records[0].records("runs")):
        told = row.number("speedup" if token is None else "ms_per_token")
        seconds = told / 1000 if token is not None else 1 / told if told else 0.0
        method, length = str(row.fields.get("method", f"run {place}")), row.number("tokens_per_pass")
        made.append(RunTotals(1.0, seconds, method, tokens_per_pass=length, gamma=row.maybe("gamma")))
    return made
