"""Prefill hiding against a simulation of what it describes, and against recorded runs."""

import json
from pathlib import Path

import numpy as np
import pytest

from egptlib.metrics import prefill_hiding_seconds


def test_hidden_prefill_against_two_lanes_on_one_clock() -> None:
    rng = np.random.default_rng(5)
    for _ in range(200):
        reading, drafter_reading, step, verify, rest = rng.uniform(0.01, 1, 5)
        count = int(rng.integers(0, 12))
        # Events of both lanes, taken in the order of time.
        lanes = sorted([reading] + [drafter_reading + step * (i + 1) for i in range(count)] + [drafter_reading])
        now = lanes[-1] + verify + rest
        assert prefill_hiding_seconds(reading, drafter_reading, step * count, verify, rest) == pytest.approx(now)


def test_hidden_prefill_of_the_recorded_runs(shared: Path) -> None:
    """The earlier runs stop drafting when the target is ready; what they call decoding is verification and the rest."""
    file = shared / "recorded" / "e2e_wallclock_20260207_113610_LVL.json"
    methods = json.loads(file.read_text())["sd_per_sample"]
    assert len(methods) == 4
    for row in (row for rows in methods.values() for row in rows):
        target, drafter = row["vl_prefill_ms"] / 1e3, row["egpt_prefill_ms"] / 1e3
        window = max(0.0, target - drafter)
        found = prefill_hiding_seconds(target, drafter, window, 0.0, row["sd_decode_ms"] / 1e3)
        assert found == pytest.approx(row["sd_total_ms"] / 1e3, rel=1e-9)


def test_formulas_refuse_what_cannot_be() -> None:
    with pytest.raises(ValueError, match="times of 0 or more"):
        prefill_hiding_seconds(1.0, 1.0, -0.1, 0.0, 0.0)
    with pytest.raises(ValueError, match="times of 0 or more"):
        prefill_hiding_seconds(1.0, float("nan"), 0.1, 0.0, 0.0)
