"""Feature acceptance against the golden figures and against a plain loop in Python's own arithmetic."""

import json
import math
import statistics
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from egptlib.metrics import (
    AcceptanceAccumulator,
    acceptance_metrics,
    consecutive_accepts,
    masked_cosine,
    per_position_table,
    telling_thresholds,
)
from egptlib.metrics._acceptance import _checked_mask
from egptlib.recorded import legacy_speedup_estimates

PERCENTS = {0.80: "80", 0.85: "85", 0.90: "90", 0.95: "95"}


@pytest.fixture(scope="module")
def golden(shared: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    folder = shared / "golden" / "acceptance"
    return load_file(folder / "hidden.safetensors"), json.loads((folder / "expected.json").read_text())


def test_every_golden_figure(golden: tuple[dict[str, Tensor], dict[str, Any]]) -> None:
    states, expected = golden
    figures = acceptance_metrics(states["drafter_hidden"], states["target_hidden"], states["mask"])
    figures |= legacy_speedup_estimates(figures)
    assert figures.keys() == expected["metrics"].keys()
    for name, value in expected["metrics"].items():
        assert figures[name] == pytest.approx(value, rel=1e-6), name


def test_golden_per_position_table(golden: tuple[dict[str, Tensor], dict[str, Any]]) -> None:
    states, expected = golden
    table = per_position_table(states["drafter_hidden"], states["target_hidden"], states["mask"])
    assert len(table) == len(expected["per_position"])
    for row, reference in zip(table, expected["per_position"]):
        assert row == pytest.approx(reference, rel=1e-6)


def test_estimates_are_under_their_own_name_only(golden: tuple[dict[str, Tensor], dict[str, Any]]) -> None:
    states, _ = golden
    figures = acceptance_metrics(states["drafter_hidden"], states["target_hidden"], states["mask"])
    assert not [name for name in figures if "speedup" in name or name.startswith("e2e")]


def test_old_estimates_of_the_recorded_adapters(shared: Path) -> None:
    """Nine result files of the earlier work, with the inputs and the outputs of its formulas."""
    files = sorted((shared / "recorded" / "adapters").glob("*_acceptance_metrics.json"))
    assert files
    for file in files:
        recorded = json.loads(file.read_text())
        for name, value in legacy_speedup_estimates(recorded).items():
            assert value == pytest.approx(recorded[name], rel=1e-6), (file.name, name)


# A plain loop as the reference: one sample and one position at a time, Python floats, the statistics module.


def reference(
    drafter: Tensor, target: Tensor, mask: Tensor, thresholds: list[float]
) -> tuple[dict[str, Any], dict[int, list[float]]]:
    cosines: list[list[float | None]] = []
    for i in range(mask.shape[0]):
        row: list[float | None] = []
        for j in range(mask.shape[1]):
            if not mask[i, j]:
                row.append(None)
                continue
            a, b = drafter[i, j].tolist(), target[i, j].tolist()
            norm = math.hypot(*a) * math.hypot(*b)
            row.append(math.fsum(x * y for x, y in zip(a, b)) / norm if norm else 0.0)
        cosines.append(row)
    valid = [value for row in cosines for value in row if value is not None]
    lengths = [sum(value is not None for value in row) for row in cosines]

    def leading(row: list[float | None], threshold: float) -> int:
        count = 0
        for value in row:
            if value is None or value <= threshold:
                break
            count += 1
        return count

    figures: dict[str, Any] = {
        "batch_size": len(cosines),
        "total_valid_positions": len(valid),
        **{f"cos_sim_{name}": value for name, value in summary(valid).items()},
        **{f"num_hidden_tokens_{name}": value for name, value in summary(lengths).items() if name != "median"},
    }
    for threshold in thresholds:
        percent = PERCENTS[threshold]
        counts = [leading(row, threshold) for row in cosines]
        figures[f"accept_{percent}"] = sum(value > threshold for value in valid) / len(valid)
        figures |= {f"consecutive_{name}_{percent}": value for name, value in summary(counts).items()}
    of_five = [leading(row[:5], 0.90) for row in cosines]
    figures["sd_consecutive_gamma5"] = sum(of_five) / len(of_five)
    figures["sd_accept_rate_decode_gamma5"] = sum(of_five) / len(of_five) / 5
    figures["sd_accept_rate_prefill_gamma"] = sum(leading(row, 0.90) for row in cosines) / sum(lengths)
    columns: dict[int, list[float]] = {}
    for row in cosines:
        for j, value in enumerate(row):
            if value is not None:
                columns.setdefault(j, []).append(value)
    return figures, columns


def summary(values: list[Any]) -> dict[str, float]:
    return {
        "mean": statistics.fmean(values),
        "std": statistics.stdev(values) if len(values) > 1 else 0.0,
        "min": min(values),
        "max": max(values),
        "median": statistics.median_low(values),
    }


@st.composite
def batches(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor]:
    """Ragged batches in which cosines lie on both sides of the thresholds, empty rows and batches included."""
    lengths = draw(st.lists(st.integers(0, 9), min_size=0, max_size=7))
    width = draw(st.integers(1, 12))
    padding = draw(st.integers(0, 3))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    noise = draw(st.sampled_from([0.0, 0.2, 0.5, 2.0]))
    shape = (len(lengths), max(lengths, default=0) + padding, width)
    target = torch.randn(shape, generator=generator)
    spread = torch.rand(shape[:2] + (1,), generator=generator) * noise
    drafter = target + spread * torch.randn(shape, generator=generator)
    mask = torch.arange(shape[1])[None, :] < torch.tensor(lengths, dtype=torch.long)[:, None]
    if draw(st.booleans()):  # holes: a skipped position ends the run
        mask &= torch.rand(mask.shape, generator=generator) > 0.2
    return drafter, target, mask


@settings(max_examples=150, deadline=None)
@given(batches())
def test_equals_the_plain_loop(batch: tuple[Tensor, Tensor, Tensor]) -> None:
    drafter, target, mask = batch
    if not mask.any():
        with pytest.raises(ValueError, match="nothing to measure"):
            acceptance_metrics(drafter, target, mask)
        return
    thresholds = list(PERCENTS)
    cosine, _ = masked_cosine(drafter, target, mask)
    near = min((cosine[mask] - threshold).abs().min().item() for threshold in thresholds)
    if near < 1e-6:  # float32 may fall on the other side of a threshold
        return
    expected, columns = reference(drafter, target, mask, thresholds)
    figures = acceptance_metrics(drafter, target, mask, thresholds)
    for name, value in expected.items():
        assert figures[name] == pytest.approx(value, rel=1e-5, abs=2e-6), name

    table = per_position_table(drafter, target, mask, thresholds)
    assert [row["position"] for row in table] == sorted(columns)
    for row in table:
        column = columns[row["position"]]
        assert row["num_samples"] == len(column)
        assert row["mean"] == pytest.approx(statistics.fmean(column), abs=2e-6)
        for threshold, percent in PERCENTS.items():
            assert row[f"accept_{percent}"] == sum(value > threshold for value in column) / len(column)


@settings(max_examples=60, deadline=None)
@given(batches(), st.lists(st.integers(0, 7), max_size=4))
def test_streaming_gives_exactly_the_same(batch: tuple[Tensor, Tensor, Tensor], cuts: list[int]) -> None:
    """Cut at any sample, each part padded to its own length: every figure is equal to the last bit."""
    drafter, target, mask = batch
    if not mask.any():
        return
    drafter, target, mask = (t[:, : int(mask.any(dim=0).nonzero().max()) + 1] for t in (drafter, target, mask))
    edges = sorted({0, mask.shape[0], *(cut for cut in cuts if cut < mask.shape[0])})
    streamed = AcceptanceAccumulator()
    for a, b in pairwise(edges):
        used = int(mask[a:b].any(dim=0).nonzero().max()) + 1 if mask[a:b].any() else 0
        streamed.update(drafter[a:b, :used], target[a:b, :used], mask[a:b, :used])
    assert streamed.compute() == acceptance_metrics(drafter, target, mask)
    assert streamed.per_position() == per_position_table(drafter, target, mask)


def test_streaming_is_exact_at_the_width_of_a_7b_model() -> None:
    generator = torch.Generator().manual_seed(5)
    target = torch.randn(70, 30, 4096, generator=generator)
    drafter = target + torch.rand(70, 30, 1, generator=generator) * torch.randn(70, 30, 4096, generator=generator)
    mask = torch.arange(30)[None, :] < torch.randint(0, 31, (70, 1), generator=generator)
    streamed = AcceptanceAccumulator()
    for rows in (slice(0, 1), slice(1, 38), slice(38, 39), slice(39, 70)):
        streamed.update(drafter[rows], target[rows], mask[rows])
    assert streamed.compute() == acceptance_metrics(drafter, target, mask)


@settings(max_examples=40, deadline=None)
@given(batches(), st.sampled_from([torch.float32, torch.bfloat16, torch.float16]), st.integers(0, 7))
def test_ragged_samples_give_exactly_the_same(
    batch: tuple[Tensor, Tensor, Tensor], dtype: torch.dtype, cut: int
) -> None:
    drafter, target, mask = batch
    lengths = mask.sum(dim=1)
    if not mask.any():
        return
    mask = torch.arange(int(lengths.max()))[None, :] < lengths[:, None]
    drafter, target = (states[:, : mask.shape[1]].to(dtype) for states in (drafter, target))
    rows = [[row[:n] for row, n in zip(states, lengths.tolist())] for states in (drafter, target)]
    ragged, padded = AcceptanceAccumulator(), AcceptanceAccumulator()
    for part in (slice(0, cut), slice(cut, None)):
        ragged.update_ragged(rows[0][part], rows[1][part])
    padded.update(drafter, target, mask)
    assert ragged.compute() == padded.compute()
    assert ragged.per_position() == padded.per_position()
    exact = torch.nn.functional.cosine_similarity(drafter.double(), target.double(), dim=-1)
    assert torch.allclose(ragged.cosines()[0].double()[mask], exact[mask], rtol=0, atol=1e-6)


def test_ragged_cosines_of_bfloat16_at_the_width_of_a_7b_model() -> None:
    generator = torch.Generator().manual_seed(5)
    target = torch.randn(90, 4096, generator=generator) * torch.logspace(-12, 12, 90)[:, None]
    drafter = (target * (1 + torch.randn(90, 4096, generator=generator))).bfloat16()
    target = target.bfloat16()
    drafter[3] = 0  # a vector of zeros has cosine 0
    accumulator = AcceptanceAccumulator()
    accumulator.update_ragged([drafter], [target])
    exact = torch.nn.functional.cosine_similarity(drafter.double(), target.double(), dim=-1)
    (cosine,), _ = accumulator.cosines()
    assert cosine[3] == 0
    large = target.float().norm(dim=1) > 1e-7  # shorter ones count as zeros, as in torch
    assert large.sum() > 60
    assert torch.allclose(cosine.double()[large], exact[large], rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("side", [0, 1])
def test_ragged_samples_that_are_refused(value: float, side: int, dtype: torch.dtype) -> None:
    accumulator = AcceptanceAccumulator()
    accumulator.update_ragged([torch.ones(n, 2) for n in (3, 0, 1)], [torch.ones(n, 2) for n in (3, 0, 1)])
    states = [[torch.ones(4, 2, dtype=dtype) for _ in range(3)] for _ in range(2)]
    states[side][1][2, 0] = value
    with pytest.raises(
        ValueError, match=rf"{('drafter', 'target')[side]}_hidden is not finite at sample 4, position 2"
    ):
        accumulator.update_ragged(*states)
    with pytest.raises(ValueError, match=r"sample 3: drafter_hidden \[4, 2\] and target_hidden \[3, 2\]"):
        accumulator.update_ragged([torch.ones(4, 2)], [torch.ones(3, 2)])
    with pytest.raises(ValueError, match="from sample 3 on have width 5, those before it 2"):
        accumulator.update_ragged([torch.ones(4, 5)], [torch.ones(4, 5)])
    assert accumulator.num_samples == 3


@settings(max_examples=50, deadline=None)
@given(batches())
def test_what_is_outside_the_mask_is_never_read(batch: tuple[Tensor, Tensor, Tensor]) -> None:
    drafter, target, mask = batch
    spoiled = drafter.masked_fill(~mask[..., None], torch.nan)
    first, _ = masked_cosine(drafter, target, mask)
    second, _ = masked_cosine(spoiled, target.masked_fill(~mask[..., None], torch.inf), mask)
    assert torch.equal(first, second)


@given(st.lists(st.lists(st.booleans(), min_size=6, max_size=6), max_size=8))
def test_consecutive_accepts(rows: list[list[bool]]) -> None:
    accepted = torch.tensor(rows, dtype=torch.bool).reshape(-1, 6)
    expected = [(row + [False]).index(False) for row in rows]
    assert consecutive_accepts(accepted).tolist() == expected


def test_empty_rows_count_as_samples_that_accept_nothing() -> None:
    states = torch.ones(3, 4, 2)
    mask = torch.tensor([[1, 1, 1, 1], [0, 0, 0, 0], [1, 1, 0, 0]])
    figures = acceptance_metrics(states, states, mask)
    assert figures["accept_95"] == 1.0
    assert figures["consecutive_mean_95"] == 2.0
    assert figures["consecutive_min_95"] == figures["num_hidden_tokens_min"] == 0
    assert figures["sd_accept_rate_prefill_gamma"] == 1.0
    json.dumps(figures, allow_nan=False)  # every figure is a number


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("which", ["drafter_hidden", "target_hidden"])
def test_values_that_are_no_numbers_are_refused(value: float, which: str) -> None:
    states = {"drafter_hidden": torch.ones(5, 3, 2), "target_hidden": torch.ones(5, 3, 2)}
    states[which][3, 1, 0] = value
    accumulator = AcceptanceAccumulator()
    accumulator.update(torch.ones(10, 3, 2), torch.ones(10, 3, 2), torch.ones(10, 3))
    with pytest.raises(ValueError, match=rf"{which} is not finite at sample 13, position 1"):
        accumulator.update(**states, mask=torch.ones(5, 3))


def test_the_named_sample_is_right_in_a_later_block() -> None:
    """Large batches are read in blocks; the number must not be that within the block."""
    states = torch.ones(3000, 2, 1024)
    spoiled = states.clone()
    spoiled[2718, 1, 28] = torch.nan
    with pytest.raises(ValueError, match="sample 2718, position 1"):
        masked_cosine(states, spoiled, torch.ones(3000, 2))


@pytest.mark.parametrize(
    ("drafter", "target", "mask", "message"),
    [
        (torch.ones(2, 3, 4), torch.ones(2, 3, 5), torch.ones(2, 3), r"\[2, 3, 4\] and target_hidden \[2, 3, 5\]"),
        (torch.ones(2, 3, 4), torch.ones(2, 3, 4), torch.ones(2, 4), r"mask \[2, 4\]: expected .* \[2, 3\]"),
        (torch.ones(2, 3), torch.ones(2, 3), torch.ones(2), "expected equal shapes"),
        (torch.ones(1, 2, 4), torch.ones(1, 2, 4), torch.full((1, 2), 0.5), "only 0 and 1"),
    ],
)
def test_shapes_and_masks_that_do_not_fit(drafter: Tensor, target: Tensor, mask: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _checked_mask(drafter, target, mask)


def test_other_misuse() -> None:
    with pytest.raises(ValueError, match=r"thresholds.*1\.5"):
        AcceptanceAccumulator([1.5])
    accumulator = AcceptanceAccumulator()
    accumulator.update(torch.ones(2, 1, 4), torch.ones(2, 1, 4), torch.ones(2, 1))
    with pytest.raises(ValueError, match="from sample 2 on have width 8, those before it 4"):
        accumulator.update(torch.ones(2, 1, 8), torch.ones(2, 1, 8), torch.ones(2, 1))
    with pytest.raises(ValueError, match="nothing to measure"):
        AcceptanceAccumulator().compute()


def test_threshold_names_and_strictness() -> None:
    states = torch.ones(1, 1, 2)
    figures = acceptance_metrics(states, states, torch.ones(1, 1), thresholds=[0.925, 0.57, 1.0])
    assert figures["accept_92.5"] == figures["accept_57"] == 1.0
    assert figures["accept_100"] == 0.0  # cos > threshold, not >=


def test_half_precision_states_are_compared_in_float32() -> None:
    states = torch.randn(2, 3, 256, generator=torch.Generator().manual_seed(0)).bfloat16()
    cosine, _ = masked_cosine(states, states, torch.ones(2, 3))
    assert cosine.dtype == torch.float32
    assert torch.allclose(cosine, torch.ones(2, 3), atol=1e-6)


def test_thresholds_follow_the_data_where_the_standard_ones_say_nothing() -> None:
    cosines = torch.linspace(-0.5, 0.5, 1001)
    assert telling_thresholds(cosines) == (-0.4, -0.25, 0.0, 0.25, 0.4)  # above each 90, 75, 50, 25, 10 %
    assert telling_thresholds(torch.cat([cosines, torch.full((11,), 0.81)])) == (0.80, 0.85, 0.90, 0.95)
    assert telling_thresholds(torch.cat([cosines, torch.full((9,), 0.81)])) != (0.80, 0.85, 0.90, 0.95)
    assert telling_thresholds(torch.zeros(3)) == (0.0,)


def test_nothing_read_yet_has_no_cosines() -> None:
    cosine, mask = AcceptanceAccumulator().cosines()
    assert cosine.shape == mask.shape == (0, 0)
