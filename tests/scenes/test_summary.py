"""`show-events`: the figures of a recording against numpy over all of it, and the picture of its busiest 50 ms."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from egptlib.cli import app
from egptlib.scenes import event_images, summarize_events
from tests.scenes.conftest import random_events
from tests.scenes.events.encoders import evt3, long_recording

HEADER = "% evt 3.0\n% format EVT3;height=480;width=640\n% end\n"


def test_figures_and_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("egptlib.scenes.events._prophesee.BYTES_PER_BLOCK", 1 << 10)
    events = long_recording()
    (tmp_path / "a.raw").write_bytes(evt3(events, HEADER))
    summary = summarize_events(tmp_path / "a.raw")
    t = events["t"]
    numbers, counts = np.unique(t // 50_000, return_counts=True)
    busiest = int(numbers[np.argmax(counts)])
    inside = t // 50_000 == busiest
    assert (summary.num_events, summary.num_positive) == (4000, int(events["p"].sum()))
    assert (summary.span_us, summary.size, summary.is_sorted) == ((int(t[0]), int(t[-1])), (480, 640), True)
    assert summary.reach == (int(events["y"].max()) + 1, int(events["x"].max()) + 1)
    assert (summary.busiest_us, summary.busiest_events) == (busiest * 50_000, int(inside.sum()))
    expected = event_images({key: values[inside] for key, values in events.items()})[0]
    np.testing.assert_array_equal(summary.picture, expected)
    ordered = random_events(4000)
    ordered["x"], ordered["y"] = ordered["x"] % 40, ordered["y"] % 30  # several events a pixel: the last one counts
    ordered["t"] = np.sort(np.random.default_rng(1).choice(40_000, 4000, replace=False))
    mixed = np.random.default_rng(2).permutation(4000)
    for name, rows in (("ordered", slice(None)), ("mixed", mixed)):
        np.savez(tmp_path / f"{name}.npz", **{key: values[rows] for key, values in ordered.items()})
    first, second = (summarize_events(tmp_path / f"{name}.npz").picture for name in ("ordered", "mixed"))
    np.testing.assert_array_equal(first, second)


def test_the_verb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    events = random_events(500)
    events["t"][:2] = events["t"][1::-1] + 1
    np.savez(tmp_path / "rec.npz", **events)
    result = CliRunner().invoke(app, ["show-events", "rec.npz"])
    assert result.exit_code == 0
    for words in ("NumPy archive", "events reach 32x24", "500: ", "not sorted", "% positive", "rec.events.png"):
        assert words in result.output
    assert np.asarray(Image.open("rec.events.png")).shape == summarize_events("rec.npz").picture.shape
    np.savez(tmp_path / "none.npz", **random_events(0))
    with pytest.raises(ValueError, match=r"none\.npz: holds no events"):
        summarize_events(tmp_path / "none.npz")
