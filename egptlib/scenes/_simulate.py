"""Events from frames: every pixel remembers the log intensity at which it last fired (ESIM, Rebecq et al. 2018)."""

from collections.abc import Iterable

import cv2
import numba
import numpy as np
from numpy.typing import NDArray

Events = dict[str, NDArray]


def log_intensity(frame: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Turn a frame, uint8 [height, width] grey or [height, width, 3] RGB, into the log intensity an event pixel sees.

    Returns:
        float32 [height, width].
    """
    blur, dark = 0.7, 8.0  # pixels: rendered edges are not one wide; grey levels: dark pixels do not fire on noise
    grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) if frame.ndim == 3 else frame
    return cv2.log(cv2.GaussianBlur(grey.astype(np.float32), (0, 0), blur) + np.float32(dark))


class EventSimulator:
    """Per-pixel event generation between successive log-intensity images, deterministic for a seed.

    Between two images the log intensity of a pixel is taken as linear in time; each crossing of a multiple of
    the pixel's threshold above or below its reference fires one event at the crossing time, unless the pixel
    fired less than `refractory_us` ago (the reference moves all the same).

    Args:
        height, width: sensor size in pixels.
        threshold: mean contrast threshold in log intensity, positive and negative alike.
        threshold_spread: standard deviation of the threshold over pixels.
        refractory_us: dead time of a pixel in microseconds.
        seed: of the threshold pattern.

    Raises:
        ValueError: a threshold that is not positive.
    """

    def __init__(
        self,
        height: int,
        width: int,
        *,
        threshold: float = 0.3,
        threshold_spread: float = 0.03,
        refractory_us: float = 500.0,
        seed: int = 0,
    ) -> None:
        if threshold <= 0:
            raise ValueError(f"threshold must be positive, got {threshold}")
        rng = np.random.default_rng(seed)
        spread = threshold_spread * rng.standard_normal((2, height, width))
        self._thresholds = np.maximum(threshold / 6, threshold + spread).astype(np.float32)
        self._refractory = float(refractory_us)
        self._last_fired = np.full((height, width), -np.inf)
        self._reference: NDArray[np.float32] | None = None
        self._previous: NDArray[np.float32] | None = None
        self._time = 0.0

    def step(self, image: NDArray[np.float32], time_us: float) -> Events:
        """Advance to `image` at `time_us` and return the events since the last call, in time order.

        The first call only sets the references and returns no events.

        Args:
            image: float32 [height, width] log intensity.
            time_us: time of the image in microseconds, later than that of the call before.

        Returns:
            x, y uint16; t int64 microseconds; p uint8 (1 brighter, 0 darker).

        Raises:
            ValueError: wrong image size, or time that does not advance.
        """
        if image.shape != self._last_fired.shape:
            raise ValueError(f"image is {image.shape}, the simulator was made for {self._last_fired.shape}")
        if self._reference is None or self._previous is None:
            self._reference, self._previous, self._time = image.copy(), image, float(time_us)
            return _events(0)
        if time_us <= self._time:
            raise ValueError(f"time must advance: {time_us} us after {self._time} us")
        counts = _count(image, self._reference, self._thresholds)
        events = _events(int(counts.sum()))
        fired = _fire(
            self._previous,
            image,
            self._reference,
            self._last_fired,
            self._thresholds,
            (self._time, float(time_us), self._refractory),
            (events["x"], events["y"], events["t"], events["p"]),
        )
        self._previous, self._time = image, float(time_us)
        order = np.argsort(events["t"][:fired], kind="stable")
        return {name: values[:fired][order] for name, values in events.items()}


def simulate_events(frames: Iterable[NDArray[np.uint8]], timestamps_us: Iterable[float], **settings: float) -> Events:
    """Simulate the events of a whole clip.

    Args:
        frames: uint8 [height, width] or [height, width, 3] RGB, one after the other.
        timestamps_us: one time per frame in microseconds, increasing.
        settings: of `EventSimulator`.

    Returns:
        Events in time order, see `EventSimulator.step`.

    Raises:
        ValueError: no frames, or not as many times as frames.
    """
    simulator: EventSimulator | None = None
    parts = []
    for frame, time_us in zip(frames, timestamps_us, strict=True):
        if simulator is None:
            simulator = EventSimulator(*frame.shape[:2], **settings)  # type: ignore[arg-type]
        parts.append(simulator.step(log_intensity(frame), time_us))
    if not parts:
        raise ValueError("a clip without frames has no events")
    return {name: np.concatenate([part[name] for part in parts]) for name in ("x", "y", "t", "p")}


def _events(count: int) -> Events:
    return {
        "x": np.empty(count, np.uint16),
        "y": np.empty(count, np.uint16),
        "t": np.empty(count, np.int64),
        "p": np.empty(count, np.uint8),
    }


@numba.njit(cache=True)
def _count(image, reference, thresholds):  # type: ignore[no-untyped-def]
    """Upper bound of the events each row fires, so that the output is allocated once."""
    height, width = image.shape
    counts = np.zeros(height, np.int64)
    for y in range(height):
        for x in range(width):
            change = image[y, x] - reference[y, x]
            counts[y] += int(abs(change) / thresholds[0 if change > 0 else 1, y, x])
    return counts


@numba.njit(cache=True)
def _fire(before, after, reference, last_fired, thresholds, times, columns):  # type: ignore[no-untyped-def]
    """Write the events between two images into `columns` (x, y, t, p); return how many there are."""
    start, stop, refractory = times
    xs, ys, ts, ps = columns
    height, width = after.shape
    fired = 0
    for y in range(height):
        for x in range(width):
            change = after[y, x] - reference[y, x]
            positive = change > 0
            threshold = thresholds[0 if positive else 1, y, x]
            crossings = int(abs(change) / threshold)
            if crossings == 0:
                continue
            slope = after[y, x] - before[y, x]
            level = reference[y, x]
            for _ in range(crossings):
                level += threshold if positive else -threshold
                share = (level - before[y, x]) / slope if slope != 0 else 1.0
                time = start + min(max(share, 0.0), 1.0) * (stop - start)
                if time - last_fired[y, x] < refractory:
                    continue
                last_fired[y, x] = time
                xs[fired], ys[fired], ts[fired], ps[fired] = x, y, np.int64(time), 1 if positive else 0
                fired += 1
            reference[y, x] = level
    return fired
