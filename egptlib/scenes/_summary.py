"""What a recording holds, in one pass and bounded memory: people look before they run."""

from collections import Counter
from dataclasses import dataclass
from os import PathLike

import numpy as np

from egptlib.scenes._rendering import event_images
from egptlib.scenes.events import EventFile, TimeUnit

_BIN_US = 50_000


@dataclass(frozen=True)
class EventSummary:
    """A recording in a few figures and one picture.

    Attributes:
        format: of the file.
        size: (height, width) of the sensor as the file says, else None.
        reach: (height, width) that the events themselves need.
        num_events, num_positive: counts.
        span_us: least and greatest t.
        is_sorted: whether t never goes back.
        busiest_us: where the 50 ms with the most events begin.
        busiest_events: how many these are.
        picture: uint8 [H, W, 3] RGB of these 50 ms.
    """

    format: str
    size: tuple[int, int] | None
    reach: tuple[int, int]
    num_events: int
    num_positive: int
    span_us: tuple[int, int]
    is_sorted: bool
    busiest_us: int
    busiest_events: int
    picture: np.ndarray

    def __str__(self) -> str:
        first, last = self.span_us
        seconds = (last - first) / 1e6
        rate = f"{self.num_events / seconds:,.0f} a second" if seconds else "all at one time"
        known = f"{self.size[1]}x{self.size[0]} in the file, " if self.size else ""
        return "\n".join(
            [
                f"format    {self.format}",
                f"size      {known}events reach {self.reach[1]}x{self.reach[0]}",
                f"time      {seconds:.6f} s, from {first:,} to {last:,} us{'' if self.is_sorted else ', not sorted'}",
                f"events    {self.num_events:,}: {rate}, {self.busiest_events:,} in the busiest 50 ms",
                f"polarity  {100 * self.num_positive / self.num_events:.1f} % positive",
            ]
        )


def summarize_events(path: str | PathLike[str], time_unit: TimeUnit | None = None) -> EventSummary:
    """Read a recording once (arguments and errors as of `load_events`); ValueError also where it holds no events."""
    bins: Counter[int] = Counter()
    total = positive = width = height = 0
    last, is_sorted = None, True
    with EventFile(path, time_unit=time_unit) as file:
        for events in file.chunks():
            t = events["t"]
            total += len(t)
            positive += int(np.count_nonzero(events["p"]))
            height, width = max(height, int(events["y"].max()) + 1), max(width, int(events["x"].max()) + 1)
            is_sorted &= bool(np.all(t[1:] >= t[:-1])) and (last is None or int(t[0]) >= last)
            last = int(t[-1])
            numbers, counts = np.unique(t // _BIN_US, return_counts=True)
            bins.update(dict(zip(numbers.tolist(), counts.tolist())))
        span = file.span()
        if span is None:
            raise ValueError(f"{path}: holds no events")
        busiest, most = max(bins.items(), key=lambda item: (item[1], -item[0]))
        (picture,) = event_images(file.window(busiest * _BIN_US, (busiest + 1) * _BIN_US).in_order())
        return EventSummary(
            format=file.format,
            size=file.size,
            reach=(height, width),
            num_events=total,
            num_positive=positive,
            span_us=span,
            is_sorted=is_sorted,
            busiest_us=busiest * _BIN_US,
            busiest_events=most,
            picture=picture,
        )
