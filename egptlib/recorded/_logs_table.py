"""A table copied from a paper or an issue, as JSON.

    {"source": "where it was read", "plain": {"ms_per_token": 7.07},
     "runs": [{"method": "EAGLE-3", "gamma": 3, "tokens_per_pass": 2.79, "ms_per_token": 4.09}, ...]}

A run may tell `speedup` in place of `ms_per_token`; then nothing is said of plain decoding.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from egptlib.metrics import RunTotals
from egptlib.recorded._logs_fields import maybe, number


def read_table(path: Path, records: Sequence[dict[str, Any]]) -> list[RunTotals]:
    """Return the runs, and plain decoding (of one second a token where only speedups are told)."""
    table = records[0]
    plain = table.get("plain") or {}
    if not isinstance(plain, dict) or not isinstance(table["runs"], list):
        raise ValueError(f"{path}: expected 'runs' as a list and 'plain' as an object")
    token = maybe(path, "plain", plain, "ms_per_token")
    made = [RunTotals(1.0, 1.0 if token is None else token / 1000, "plain", tokens_per_pass=1.0)]
    for place, row in enumerate(table["runs"]):
        where = f"run {place}"
        if not isinstance(row, dict):
            raise ValueError(f"{path}: {where}: expected an object, found {row!r}")
        told = number(path, where, row, "speedup" if token is None else "ms_per_token")
        seconds = told / 1000 if token is not None else 1 / told if told else 0.0
        length, gamma = number(path, where, row, "tokens_per_pass"), maybe(path, where, row, "gamma")
        made.append(RunTotals(1.0, seconds, str(row.get("method", where)), tokens_per_pass=length, gamma=gamma))
    return made
