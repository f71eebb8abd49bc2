"""Costs: the file round trip, interpolation, and what is refused."""

import math
from pathlib import Path

import pytest

from egptlib.metrics import Costs

FULL = Costs(
    target_step=0.010,
    drafter_step=0.0025,
    verify={2: 0.012, 4: 0.016, 8: 0.020},
    drafter_passes={2: 0.003},
    target_stages={"load": 9.0, "preprocess": 0.002, "vision": 0.020, "prefill": 0.030},
    drafter_stages={"vision": 0.010, "prefill": 0.005, "adapter": 0.0001},
    round_overhead=0.0002,
    target_growth=1e-6,
    context_length=330,
    contention_target=1.7,
    device="cpu (1 thread)",
    precision="float32",
    pair="mini",
    versions={"torch": "2.8"},
)


def test_a_file_gives_back_what_was_saved(tmp_path: Path) -> None:
    FULL.save(tmp_path / "costs.json")
    assert Costs.load(tmp_path / "costs.json") == FULL


def test_named_figures() -> None:
    assert FULL.cost_ratio == pytest.approx(0.25)
    assert FULL.verify_seconds(0) == 0.010
    assert FULL.verify_seconds(3) == pytest.approx(0.014)
    assert FULL.verify_cost(8) == pytest.approx(2.0)
    assert FULL.verify_seconds(1) == pytest.approx(0.011)
    assert FULL.drafter_pass_seconds(2) == 0.003
    assert FULL.target_prefill == pytest.approx(0.052)
    assert FULL.free_draft_tokens == math.floor(0.037 / 0.0025)


def test_no_window_gives_no_free_tokens() -> None:
    assert Costs(0.01, 0.002, target_stages={"prefill": 0.01}, drafter_stages={"prefill": 0.2}).free_draft_tokens == 0


@pytest.mark.parametrize("gamma", [-1, 9])
def test_beyond_what_was_measured_is_refused(gamma: int) -> None:
    with pytest.raises(ValueError, match="measured from 0 to 8"):
        FULL.verify_seconds(gamma)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "expected a JSON object"),
        ('{"target_step": 1.0}', "'drafter_step' is missing"),
        ('{"target_step": 1.0, "drafter_step": 1.0, "speed": 2}', "unknown field 'speed'"),
        ('{"target_step": 0, "drafter_step": 1.0}', "target_step: expected a positive number"),
        ('{"target_step": 1.0, "drafter_step": NaN}', "NaN is no JSON number"),
        ('{"target_step": 1.0, "drafter_step": 1.0, "verify": {"two": 1.0}}', "verify: expected"),
        ('{"target_step": 1.0, "drafter_step": 1.0, "verify": {"2": -1.0}}', r"verify\[2\]"),
        ('{"target_step": 1.0, "drafter_step": 1.0, "drafter_passes": {"0": 1.0}}', "size of at least 1"),
        ('{"target_step": 1.0, "drafter_step": 1.0, "target_stages": 3}', "target_stages: expected an object"),
        ("{", "Expecting"),
        ("[" * 100_000, "nested too deeply"),
        ('{"target_step": 1.0, "drafter_step": 1.0, "checksum": "0"}', "checksum does not fit"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(ValueError, match=message) as raised:
        Costs.load(tmp_path / "c.json")
    assert "c.json" in str(raised.value)


def test_a_context_has_a_length() -> None:
    with pytest.raises(ValueError, match="context_length: expected 0 or more, got -1"):
        Costs(1.0, 1.0, context_length=-1)


def test_no_flipped_bit_gives_other_costs(tmp_path: Path) -> None:
    path = tmp_path / "costs.json"
    FULL.save(path)
    whole = path.read_bytes()
    for bit in range(3, 8 * len(whole), 11):
        data = bytearray(whole)
        data[bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
        try:
            assert Costs.load(path) == FULL
        except ValueError as error:
            assert "costs.json" in str(error)


def test_the_median_of_costs_is_that_of_every_figure() -> None:
    parts = [Costs(step, 0.1, verify={3: 2 * step}, target_stages={"prefill": step}) for step in (1.0, 5.0, 2.0)]
    median = Costs.median(parts)
    assert (median.target_step, median.verify, median.target_stages) == (2.0, {3: 4.0}, {"prefill": 2.0})
    with pytest.raises(ValueError, match="verify: expected the same keys"):
        Costs.median([*parts, Costs(1.0, 0.1)])
    with pytest.raises(ValueError, match="at least one measurement"):
        Costs.median([])
