"""The event simulator against evlib's ESIM, an independent implementation of the same model."""

import numpy as np
import pytest

from egptlib.scenes import EventSimulator, simulate_events

HEIGHT, WIDTH = 40, 56


def log_images(count: int, seed: int) -> list[np.ndarray]:
    """Smooth patterns that drift and flicker: log intensities between -3 and 1."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    waves = rng.uniform(-0.6, 0.6, (6, 2)), rng.uniform(0, 6, 6), rng.uniform(-1.2, 1.2, 6)
    images = []
    for k in range(count):
        parts = [np.sin(fy * y + fx * x + phase + speed * k) for (fy, fx), phase, speed in zip(*waves)]
        images.append((-1 + 0.33 * np.sum(parts, axis=0)).astype(np.float32))
    return images


def counts(x: np.ndarray, y: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """Events of each polarity at each pixel, [2, HEIGHT, WIDTH]."""
    table = np.zeros((2, HEIGHT, WIDTH), dtype=int)
    np.add.at(table, (positive.astype(int), y.astype(int), x.astype(int)), 1)
    return table


@pytest.mark.filterwarnings("ignore")  # of evlib's own imports
@pytest.mark.parametrize("threshold", [0.15, 0.3])
def test_counts_agree_with_evlib(threshold: float) -> None:
    simulation = pytest.importorskip("evlib.simulation", reason="evlib, the oracle of the simulator, is not installed")
    config = simulation.ESIMConfig(
        positive_threshold=threshold, negative_threshold=threshold, refractory_period_ms=0.0, log_floor=1e-9,
        device="cpu", dtype="float64",
    )  # fmt: skip
    oracle = simulation.ESIMSimulator(config)
    ours = EventSimulator(HEIGHT, WIDTH, threshold=threshold, threshold_spread=0.0, refractory_us=0.0)
    total = differing = 0
    for k, image in enumerate(log_images(30, seed=1)):
        x, y, _, p = oracle.process_frame(255 * np.exp(image.astype(np.float64)), timestamp=0.01 * k + 1)
        events = ours.step(image, 1e4 * k)
        theirs, mine = counts(x, y, p > 0), counts(events["x"], events["y"], events["p"] > 0)
        total += int(theirs.sum())
        differing += int(np.abs(theirs - mine).sum())
    assert total > 20_000
    # a crossing exactly at a frame falls to either side of it in float32 and float64
    assert differing <= 0.002 * total


def test_events_lie_between_their_frames_in_order() -> None:
    simulator = EventSimulator(HEIGHT, WIDTH, refractory_us=0.0)
    for k, image in enumerate(log_images(8, seed=2)):
        t = simulator.step(image, 10_000 * k)["t"]
        assert (len(t) == 0) == (k == 0)
        assert np.all(np.diff(t) >= 0)
        assert np.all((t >= 10_000 * (k - 1)) & (t <= 10_000 * k))


def test_crossing_times_of_a_ramp() -> None:
    """A pixel that brightens linearly from 0 by 1 in a second fires at each multiple of its threshold."""
    simulator = EventSimulator(1, 1, threshold=0.24, threshold_spread=0.0, refractory_us=0.0)
    simulator.step(np.zeros((1, 1), np.float32), 0)
    first = simulator.step(np.full((1, 1), 0.5, np.float32), 500_000)
    second = simulator.step(np.full((1, 1), 1.0, np.float32), 1_000_000)
    np.testing.assert_allclose([*first["t"], *second["t"]], [240_000, 480_000, 720_000, 960_000], atol=2)
    assert first["p"].tolist() == [1, 1]


def test_refractory_period() -> None:
    simulator = EventSimulator(1, 1, threshold=0.1, threshold_spread=0.0, refractory_us=250_000)
    simulator.step(np.zeros((1, 1), np.float32), 0)
    t = simulator.step(np.full((1, 1), 1.05, np.float32), 1_050_000)["t"]
    assert np.all(np.diff(t) >= 250_000)
    assert len(t) == 4  # of crossings each 100 ms: 100, 400, 700, 1000 ms


def test_same_seed_same_events() -> None:
    frames = [np.exp(image + 5).clip(0, 255).astype(np.uint8) for image in log_images(6, seed=3)]
    times = [10_000 * k for k in range(6)]
    first, again = (simulate_events(frames, times, seed=4) for _ in range(2))
    other = simulate_events(frames, times, seed=5)
    assert len(first["t"]) > 500
    for key in "xytp":
        np.testing.assert_array_equal(first[key], again[key])
    assert len(other["t"]) != len(first["t"]) or not np.array_equal(other["x"], first["x"])


def test_wrong_input() -> None:
    simulator = EventSimulator(4, 4)
    simulator.step(np.zeros((4, 4), np.float32), 100)
    with pytest.raises(ValueError, match="time must advance"):
        simulator.step(np.zeros((4, 4), np.float32), 100)
    with pytest.raises(ValueError, match="image is"):
        simulator.step(np.zeros((5, 4), np.float32), 200)
    with pytest.raises(ValueError, match="threshold must be positive"):
        EventSimulator(4, 4, threshold=0)
    with pytest.raises(ValueError, match="without frames"):
        simulate_events([], [])
