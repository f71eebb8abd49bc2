"""The sensor's clock: data comes by its timestamps, and never before."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from egptlib.scenes import Scene, SensorClock, event_images


class Hands:
    """A clock that moves when somebody sleeps."""

    def __init__(self) -> None:
        self.time, self.sleeps = 100.0, list[float]()

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.time += seconds


def make_scene(count: int = 4000, seed: int = 0, **changes: Any) -> Scene:
    """A window of a second at 20 frames a second, eight of them taken."""
    random = np.random.default_rng(seed)
    events = {
        "x": random.integers(0, 30, count),
        "y": random.integers(0, 20, count),
        "t": np.sort(random.integers(7_000_000, 8_000_000, count)),
        "p": random.integers(0, 2, count),
    }
    frames = random.integers(0, 256, (20, 20, 30, 3), dtype=np.uint8)
    scene = Scene.from_events(events, frames, "what moves", event_views=5)
    metadata = {"clip": (20, 20.0), "start_us": 7_000_000, "stop_us": 8_000_000}
    return replace(scene, **{"metadata": metadata, **changes})


def clock_of(scene: Scene, speed: float = 1.0) -> tuple[SensorClock, Hands]:
    hands = Hands()
    return SensorClock(scene, speed, hands.now, hands.sleep), hands


def test_frames_come_by_their_place_in_the_clip() -> None:
    clock, hands = clock_of(make_scene(), speed=2.0)
    np.testing.assert_allclose(clock.frame_times, [0, 0.1, 0.25, 0.4, 0.5, 0.65, 0.8, 0.95])
    clock.wait(0.8)
    assert hands.sleeps == [pytest.approx(0.4)] and clock.time() == pytest.approx(0.8)
    clock.wait(0.7)
    assert len(hands.sleeps) == 1
    assert clock.stamp(clock.length) == pytest.approx(100.475)
    assert clock.scene.stream is not None
    np.testing.assert_allclose(clock.event_times, clock.scene.stream["t"] / 1e6 - 7)


def test_without_a_rate_the_clip_lasts_as_long_as_the_events() -> None:
    scene = make_scene(metadata={"clip": (20, None)})
    assert scene.stream is not None
    span = (scene.stream["t"][-1] - scene.stream["t"][0]) / 1e6
    np.testing.assert_allclose(clock_of(scene)[0].frame_times[-1], 19 / 20 * span)


@pytest.mark.parametrize("share", [0.3, 0.6, 1.0])
def test_a_window_is_drawn_from_the_events_before_and_no_others(share: float) -> None:
    """Later events and frames may be anything."""
    scene = make_scene()
    assert scene.stream is not None
    until = share * 0.95
    later = scene.stream["t"] >= 7_000_000 + round(1e6 * until)
    poisoned = {key: np.where(later, 65_535 if key in "xy" else values, values) for key, values in scene.stream.items()}
    frames = scene.frames.copy()
    frames[clock_of(scene)[0].frame_times > until] = 0
    other = make_scene(stream=type(scene.stream)(poisoned), frames=frames, event_images=scene.event_images)
    expected = event_images({key: values[~later] for key, values in scene.stream.items()}, 5)
    for each in (scene, other):
        clock, _ = clock_of(each)
        clock.wait(until)
        window = clock.window(until)
        for image, own in zip(window.event_images, expected, strict=True):
            np.testing.assert_array_equal(image, own)
        assert window.stream is not None and len(window.stream["t"]) == (~later).sum()
        assert window.event_path is None
        np.testing.assert_array_equal(window.frames, scene.frames[: len(window.frames)])
        assert len(window.frames) == (clock.frame_times <= until).sum()


def test_events_in_another_order_are_put_in_order() -> None:
    scene = make_scene()
    assert scene.stream is not None
    turned = {key: values[::-1] for key, values in scene.stream.items()}
    clock, _ = clock_of(make_scene(stream=type(scene.stream)(turned)))
    clock.wait(0.5)
    times = clock.window(0.5).stream["t"]  # type: ignore[index]
    np.testing.assert_array_equal(times, scene.stream["t"][scene.stream["t"] < 7_500_000])


def test_nothing_is_handed_out_before_its_time() -> None:
    clock, _ = clock_of(make_scene())
    clock.wait(0.5)
    assert len(clock.frame(4).frames) == 1 and not clock.frame(4).event_images
    with pytest.raises(ValueError, match=r"scene scene: frame 5 is not there yet, at 0.500 s"):
        clock.frame(5)
    with pytest.raises(ValueError, match=r"seen until 0.501 s is not there yet"):
        clock.window(0.501)


def test_scenes_without_times_are_refused() -> None:
    with pytest.raises(ValueError, match="frames a second"):
        SensorClock(make_scene(stream=None, metadata={"clip": (20, None)}))
    with pytest.raises(ValueError, match="order of time"):
        SensorClock(make_scene(frame_indices=(3, 2)))
    with pytest.raises(ValueError, match="speed"):
        SensorClock(make_scene(), speed=0)
    clock, _ = clock_of(make_scene(stream=None))
    with pytest.raises(ValueError, match="expected raw events"):
        clock.window(0.0)
