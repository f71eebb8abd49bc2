"""Event pictures against the golden ones and against a slow loop written from the published description."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from egptlib.scenes import Events, event_images, load_events

BLUE, RED, WHITE = (0, 0, 255), (255, 0, 0), (255, 255, 255)


def slow_images(events: dict, n: int) -> list[np.ndarray]:
    """The published renderer as a plain loop: last event wins, size from the part's own maxima."""
    total = len(events["x"])
    images = []
    for part in range(n):
        stop = total if part == n - 1 else (part + 1) * (total // n)
        x, y, p = (events[key][part * (total // n) : stop].tolist() for key in "xyp")
        image = np.full((max(y) + 1, max(x) + 1, 3), 255, dtype=np.uint8)
        for column, row, polarity in zip(x, y, p):
            image[row, column] = RED if polarity else BLUE
        images.append(image)
    return images


def assert_same(got: list[np.ndarray], expected: list[np.ndarray]) -> None:
    assert len(got) == len(expected)
    for ours, theirs in zip(got, expected):
        assert ours.dtype == np.uint8
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(("folder", "n"), [("eventgpt_5f", 5), ("eventgpt_1f", 1)])
def test_golden(shared: Path, folder: str, n: int) -> None:
    golden = np.load(shared / "golden" / folder / "event_images.npz")
    events = load_events(shared / "golden" / folder / "events.npy")
    assert_same(event_images(events, n), [golden[f"image_{view}"] for view in range(n)])


@pytest.mark.parametrize("name", ["eventgpt_sample1.npy", "dsec_interlaken_00_d/000089.npy"])
@pytest.mark.parametrize("n", [1, 5])
def test_samples_equal_the_slow_loop(shared: Path, name: str, n: int) -> None:
    events = load_events(shared / "samples" / name)
    assert_same(event_images(events, n), slow_images(events, n))


@st.composite
def streams(draw: st.DrawFn) -> dict:
    """Few pixels and many events, so that most pixels are hit repeatedly."""
    count = draw(st.integers(5, 200))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    height, width = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    return {
        "x": rng.integers(0, width, count).astype(np.uint16),
        "y": rng.integers(0, height, count).astype(np.uint16),
        "t": np.arange(count),
        "p": rng.integers(0, 2, count).astype(np.uint8),
    }


@given(streams(), st.integers(1, 5))
def test_any_stream_equals_the_slow_loop(events: dict, n: int) -> None:
    assert_same(event_images(events, n), slow_images(events, n))


@given(streams())
def test_polarity_order_paints_positive_then_negative(events: dict) -> None:
    reordered = {
        key: np.concatenate([values[events["p"] == 1], values[events["p"] == 0]]) for key, values in events.items()
    }
    assert_same(event_images(events, 1, order="polarity"), slow_images(reordered, 1))


def test_fixed_size_pads_with_white() -> None:
    events = {"x": np.array([1]), "y": np.array([2]), "t": np.array([0]), "p": np.array([1])}
    (image,) = event_images(events, size=(4, 5))
    expected = np.full((4, 5, 3), 255)
    expected[2, 1] = RED
    np.testing.assert_array_equal(image, expected)
    with pytest.raises(ValueError, match=r"reach 3x2 pixels, outside size 2x5"):
        event_images(events, size=(2, 5))


@pytest.mark.parametrize(("count", "n"), [(0, 1), (4, 5), (3, 0)])
def test_too_few_events_are_refused(count: int, n: int) -> None:
    events = {key: np.zeros(count, dtype=np.uint16) for key in "xytp"}
    with pytest.raises(ValueError, match=f"cannot draw {n} event images from {count} events"):
        event_images(events, n)


def test_unknown_order_is_refused() -> None:
    events = {key: np.zeros(3, dtype=np.uint16) for key in "xytp"}
    with pytest.raises(ValueError, match="unknown rendering order 'first'"):
        event_images(events, order="first")  # type: ignore[arg-type]


def with_garbage(count: int, garbage: int, size: tuple[int, int] = (480, 640)) -> tuple[dict, dict]:
    """Events, and the same with garbage among them."""
    rng = np.random.default_rng(5)
    clean = {"x": rng.integers(0, size[1], count), "y": rng.integers(0, size[0], count), "p": rng.integers(0, 2, count)}
    places = rng.integers(0, count, garbage)
    bad = {"x": 65535, "y": 65535, "p": 1}
    return clean, {key: np.insert(values, places, bad[key]) for key, values in clean.items()}


@pytest.mark.parametrize(("count", "garbage"), [(50_000, 1), (50_000, 40), (200, 1)])
@pytest.mark.parametrize("n", [1, 5])
@pytest.mark.parametrize("size", [None, (480, 640)])
def test_garbage_events_change_no_picture(count: int, garbage: int, n: int, size: tuple[int, int] | None) -> None:
    clean, dirty = with_garbage(count, garbage)
    with pytest.warns(
        UserWarning, match=rf"{garbage} of {count + garbage} events are left out: they reach 65536x65536"
    ):
        images = event_images(dirty, n, size=size)
    assert_same(images, event_images(clean, n, size=size))


def test_garbage_is_bounded_by_the_size_that_the_events_carry() -> None:
    clean, dirty = with_garbage(5000, 2, (200, 300))
    dirty = {key: np.where(values == 65535, 400, values) for key, values in dirty.items()}  # a plausible place
    sized = Events(dirty)
    sized.size = 200, 300
    with pytest.warns(UserWarning, match="outside size 200x300"):
        assert_same(event_images(sized), event_images(clean))


def test_much_garbage_and_too_large_a_picture_are_refused() -> None:
    _, dirty = with_garbage(1000, 50)
    with pytest.raises(ValueError, match="reach 65536x65536 pixels, more than sensors have"):
        event_images(dirty)
    with pytest.raises(ValueError, match="reach 65536x65536 pixels, outside size 480x640"):
        event_images(dirty, size=(480, 640))


def test_a_large_sensor_is_no_garbage() -> None:
    clean, _ = with_garbage(20_000, 1, (1500, 2000))
    assert_same(event_images(clean), slow_images(clean, 1))
