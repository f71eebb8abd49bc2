"""Event streams to pictures, as EventGPT's published renderer draws them."""

import warnings
from collections.abc import Mapping
from typing import Literal

import numpy as np

from egptlib._whole import whole
from egptlib.scenes.events import is_positive, pixels, sensor_size

RenderingOrder = Literal["last", "polarity"]

# Codes of the canvas: 0 and 1 are the polarities, 2 is the untouched background.
_NEGATIVE, _POSITIVE, _BACKGROUND = 0, 1, 2

_WIDEST_SENSOR = 1280  # pixels: up to here the published rule, max + 1, is taken as it is
_LARGEST_PICTURE = 1 << 26  # pixels


def event_images(
    events: Mapping[str, np.ndarray], n: int = 1, order: RenderingOrder = "last", size: tuple[int, int] | None = None
) -> list[np.ndarray]:
    """Draw a stream as `n` pictures, each of an equal count of events: blue negative, red positive, on white.

    The stream is cut by event count, `total // n` events each, the last part takes the rest. With `order="last"` the
    last of several events on one pixel wins, as in EventGPT (Liu et al. 2025). `order="polarity"` paints all positive
    events and then all negative ones, as in the PNGs of the earlier datasets.

    A glitch on the wire can put an event far outside the sensor. Up to one event in a thousand that lies outside
    `size`, outside the sensor's size where the events carry it (`Events.size`), or, where nothing says the size,
    far beyond the 99.9th percentile and any sensor, is left out with a warning.

    Args:
        events: x, y, p [N] (t is not read; the order in the arrays is the order in time). p as `load_events` takes it.
        n: number of pictures.
        order: which event wins a pixel that several hit.
        size: (height, width) of every picture; None makes each `max(y) + 1` by `max(x) + 1` of ITS part, as published.

    Returns:
        n arrays, uint8 [height, width, 3], RGB.

    Raises:
        ValueError: n < 1, fewer events than n, an unknown order, a polarity that does not tell, more events outside
            than that, or a picture of more than 67 million pixels.

    Example:
        >>> import numpy as np
        >>> events = {"x": np.array([0, 3]), "y": np.array([0, 1]), "t": np.array([5, 9]), "p": np.array([1, 0])}
        >>> (picture,) = event_images(events, size=(2, 4))
        >>> picture.shape, picture[0, 0].tolist(), picture[1, 3].tolist()  # positive is red, negative blue
        ((2, 4, 3), [255, 0, 0], [0, 0, 255])
    """
    n = whole(n, "n")
    if size is not None:
        size = whole(size[0], "size"), whole(size[1], "size")
    x, y = (pixels(np.asarray(events[key]), key, "events") for key in ("x", "y"))
    positive = is_positive(np.asarray(events["p"]), "events")
    inside = _inside_the_sensor(x, y, size or sensor_size(events))
    if inside is not None:
        x, y, positive = x[inside], y[inside], positive[inside]
    total = len(x)
    if n < 1 or total < n:
        raise ValueError(f"cannot draw {n} event images from {total} events: each needs at least one event")
    if order not in ("last", "polarity"):
        raise ValueError(f"unknown rendering order {order!r}; expected 'last' or 'polarity'")
    count = total // n
    bounds = [*range(0, n * count, count), total]
    parts = [slice(bounds[i], bounds[i + 1]) for i in range(n)]
    return [_draw(x[part], y[part], positive[part], order, size) for part in parts]


def _inside_the_sensor(x: np.ndarray, y: np.ndarray, bound: tuple[int, int] | None) -> np.ndarray | None:
    """Return which events to draw, None for all: without the few that no sensor has sent."""
    total = len(x)
    if not total:
        return None
    few = max(total // 1000, 1) if total >= 100 else 0
    needed = int(y.max()) + 1, int(x.max()) + 1
    if bound is None:
        bound = _plausible(y, needed[0], few), _plausible(x, needed[1], few)
        if bound[0] * bound[1] > _LARGEST_PICTURE:
            raise ValueError(f"events reach {needed[0]}x{needed[1]} pixels, more than sensors have; size= bounds them")
    if needed[0] <= bound[0] and needed[1] <= bound[1]:
        return None
    inside = (y < bound[0]) & (x < bound[1])
    outside = total - int(np.count_nonzero(inside))
    reach = f"reach {needed[0]}x{needed[1]} pixels, outside size {bound[0]}x{bound[1]}"
    if outside > 2 * few:
        raise ValueError(f"events {reach}")
    warnings.warn(f"{outside} of {total} events are left out: they {reach}", stacklevel=3)
    return inside


def _plausible(values: np.ndarray, most: int, few: int) -> int:
    """Return how far the picture reaches: `most`, or without the `few` outermost where these are far from the rest."""
    if most <= _WIDEST_SENSOR:
        return most
    place = len(values) - 1 - few
    rest = int(np.partition(values, place)[place]) + 1
    return rest if most > 1.25 * rest else most


def _draw(x: np.ndarray, y: np.ndarray, positive: np.ndarray, order: str, size: tuple[int, int] | None) -> np.ndarray:
    import cv2

    height, width = size or (int(y.max()) + 1, int(x.max()) + 1)

    canvas = np.full(height * width, _BACKGROUND, dtype=np.uint8)
    pixel = y.astype(np.intp)
    pixel *= width
    pixel += x
    if order == "last":
        canvas[pixel] = positive  # of repeated indices numpy keeps the last value
    else:
        canvas[pixel[positive]] = _POSITIVE
        canvas[pixel[~positive]] = _NEGATIVE

    codes = canvas.reshape(height, width)
    # red is off only where negative, blue only where positive, green wherever an event fell
    channels = (codes != _NEGATIVE, codes == _BACKGROUND, codes != _POSITIVE)
    image = np.asarray(cv2.merge([channel.view(np.uint8) for channel in channels]))
    image *= 255
    return image
