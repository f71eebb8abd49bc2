"""Event streams to pictures, as EventGPT's published renderer draws them."""

from collections.abc import Mapping
from typing import Literal

import numpy as np

RenderingOrder = Literal["last", "polarity"]

# Codes of the canvas: 0 and 1 are the polarities, 2 is the untouched background.
_NEGATIVE, _POSITIVE, _BACKGROUND = 0, 1, 2


def event_images(
    events: Mapping[str, np.ndarray], n: int = 1, order: RenderingOrder = "last", size: tuple[int, int] | None = None
) -> list[np.ndarray]:
    """Draw a stream as `n` pictures, each of an equal count of events: blue negative, red positive, on white.

    The stream is cut by event count, `total // n` events each, the last part takes the rest. With `order="last"` the
    last of several events on one pixel wins, as in EventGPT (Liu et al. 2025). `order="polarity"` paints all positive
    events and then all negative ones, as in the PNGs of the earlier datasets.

    Args:
        events: x, y, p [N] (t is not read; the order in the arrays is the order in time).
        n: number of pictures.
        order: which event wins a pixel that several hit.
        size: (height, width) of every picture; None makes each `max(y) + 1` by `max(x) + 1` of ITS part, as published.

    Returns:
        n arrays, uint8 [height, width, 3], RGB.

    Raises:
        ValueError: n < 1, fewer events than n, an unknown order, or an event outside `size`.

    Example:
        >>> import numpy as np
        >>> events = {"x": np.array([0, 3]), "y": np.array([0, 1]), "t": np.array([5, 9]), "p": np.array([1, 0])}
        >>> (picture,) = event_images(events, size=(2, 4))
        >>> picture.shape, picture[0, 0].tolist(), picture[1, 3].tolist()  # positive is red, negative blue
        ((2, 4, 3), [255, 0, 0], [0, 0, 255])
    """
    total = len(events["x"])
    if n < 1 or total < n:
        raise ValueError(f"cannot draw {n} event images from {total} events: each needs at least one event")
    if order not in ("last", "polarity"):
        raise ValueError(f"unknown rendering order {order!r}; expected 'last' or 'polarity'")
    count = total // n
    bounds = [*range(0, n * count, count), total]
    return [_draw(events, slice(bounds[i], bounds[i + 1]), order, size) for i in range(n)]


def _draw(events: Mapping[str, np.ndarray], part: slice, order: str, size: tuple[int, int] | None) -> np.ndarray:
    import cv2

    x, y, positive = events["x"][part], events["y"][part], events["p"][part] != 0
    needed = int(y.max()) + 1, int(x.max()) + 1
    height, width = size or needed
    if needed[0] > height or needed[1] > width:
        raise ValueError(f"events reach {needed[0]}x{needed[1]} pixels, outside size {height}x{width}")

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
