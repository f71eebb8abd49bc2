"""What the columns of a recording mean: polarity, unit of time, coordinates, order. All events pass here."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self

import numpy as np

TimeUnit = Literal["s", "ms", "us", "ns"]

FIELDS = ("x", "y", "t", "p")
# Names that a field goes by in files of other makers.
ALIASES = {
    "x": ("x", "xs"),
    "y": ("y", "ys"),
    "t": ("t", "ts", "timestamp", "timestamps", "time"),
    "p": ("p", "ps", "pol", "polarity", "polarities", "on"),
}

_US_PER_UNIT = {"s": (1_000_000, 1), "ms": (1000, 1), "us": (1, 1), "ns": (1, 1000)}
_MINUS_ONE = {-1, 2**8 - 1, 2**16 - 1, 2**32 - 1, 2**64 - 1}  # as it stands in the unsigned types too
POLARITIES = {0, 1} | _MINUS_ONE  # what a column without a name can be, to be one of polarities
_NANOSECONDS_FROM = 10**17  # as microseconds 3,170 years: only nanoseconds since 1970 are that many
_COARSE_US = 500  # steps of a clock that part events of one picture; it draws some 10 ms
_LONGEST_SECONDS = 10_000  # floats with a fraction that span more may be milli- or microseconds


class Events(dict[str, np.ndarray]):
    """A stream: x, y uint16 pixels; t int64 microseconds; p uint8, 1 for a positive event, else 0. All [N].

    Attributes:
        size: (height, width) of the sensor, None where the file does not say.
    """

    size: tuple[int, int] | None = None

    def take(self, rows: slice | np.ndarray) -> Self:
        """Return some of the events."""
        part = type(self)({name: values[rows] for name, values in self.items()})
        part.size = self.size
        return part

    def in_order(self) -> Self:
        """Return the events sorted by time, those of one time as they stand: a file may hold them otherwise."""
        t = self["t"]
        return self if np.all(t[1:] >= t[:-1]) else self.take(np.argsort(t, kind="stable"))

    @classmethod
    def join(cls, parts: list["Events"], size: tuple[int, int] | None) -> Self:
        """Return copies of `parts` one behind the other; no part makes an empty stream."""
        empty = {"x": np.uint16, "y": np.uint16, "t": np.int64, "p": np.uint8}
        joined = cls()
        for key, kind in empty.items():
            joined[key] = np.concatenate([np.empty(0, kind), *(events[key] for events in parts)])
        joined.size = size
        return joined


@dataclass(frozen=True)
class Meaning:
    """How raw `t` and `p` of one recording become microseconds and 0/1."""

    unit: TimeUnit = "us"
    positive: int = 1
    offset_us: int = 0

    def times(self, t: np.ndarray) -> np.ndarray:
        """Raw times [N] as int64 microseconds; `Survey` has made sure that they fit."""
        times, per = _US_PER_UNIT[self.unit]
        if t.dtype.kind == "f":
            whole = np.rint(t.astype(np.float64) * times / per).astype(np.int64)
        else:
            whole = t.astype(np.int64, copy=False)
            whole = whole * times // per if self.unit != "us" else whole
        return whole + self.offset_us if self.offset_us else whole

    def events(self, columns: Mapping[str, np.ndarray], name: str) -> Events:
        """Raw columns as a stream."""
        x, y = (pixels(columns[key], key, name) for key in ("x", "y"))
        return Events(x=x, y=y, t=self.times(columns["t"]), p=(columns["p"] == self.positive).view(np.uint8))


@dataclass
class Survey:
    """What the raw `t` and `p` of a whole recording show, block by block, since a part of it can mislead.

    A window of a -1/+1 recording may hold +1 alone, the first rows of float seconds whole numbers alone.
    """

    name: str
    low: int | float = 0
    high: int | float = 0
    is_whole: bool = True
    levels: set[int] = field(default_factory=set)
    _step: float = 0.0  # between neighbouring numbers of a float column at its largest
    _seen: bool = False

    def add(self, t: np.ndarray, p: np.ndarray) -> None:
        """Take in one block; ValueError for values that no recording has."""
        _require(t, "t", "iuf", self.name)
        self.levels |= polarity_levels(p, self.name)
        if not len(t):
            return
        low, high = t.min().item(), t.max().item()
        if not (np.isfinite(low) and np.isfinite(high)):
            raise ValueError(f"{self.name}: field 't' holds values that are not finite")
        if t.dtype.kind == "f":
            self._step = max(self._step, float(np.spacing(t.dtype.type(max(-low, high)))))
        self.is_whole &= t.dtype.kind != "f" or not np.any(t % 1)
        self.low, self.high = (min(self.low, low), max(self.high, high)) if self._seen else (low, high)
        self._seen = True

    def meaning(self, unit: TimeUnit | None = None, offset: np.ndarray | None = None) -> Meaning:
        """Tell units apart: floats with a fraction are seconds, whole numbers micro- or (since 1970) nanoseconds.

        Warns where short floats (float32 seconds at 12 hours: 3.9 ms) cannot tell times of one picture apart.

        Args:
            unit: says so instead.
            offset: a number to be added to every t, in the same unit or in microseconds.

        Raises:
            ValueError: the unit or the polarity cannot be told, or a time does not fit into int64 microseconds.
        """
        found = unit or self._unit()
        meaning = Meaning(found, positive_level(self.levels, self.name))
        if offset is not None:
            meaning = Meaning(found, meaning.positive, self._offset_us(offset, found))
        times, per = _US_PER_UNIT[found]
        for bound in (self.low, self.high):
            microseconds = int(bound) * times // per
            if any(abs(value) >= 2**63 - 1 for value in (bound, microseconds, microseconds + meaning.offset_us)):
                raise ValueError(f"{self.name}: field 't' holds {bound}, which is no time in {found}")
        if self.low < self.high and (step := self._step * times / per) > _COARSE_US:
            warnings.warn(
                f"{self.name}: field 't' has steps of {step:,.0f} us at {self.high:g} {found}: events within one have "
                "one time; write it as float64 or as whole microseconds",
                stacklevel=2,
            )
        return meaning

    def _unit(self) -> TimeUnit:
        if self.is_whole:
            return "ns" if max(abs(self.low), abs(self.high)) >= _NANOSECONDS_FROM else "us"
        if self.high - self.low > _LONGEST_SECONDS:
            raise ValueError(
                f"{self.name}: field 't' holds fractions over a span of {self.high - self.low:g}, long for seconds; "
                "time_unit= says the unit"
            )
        return "s"

    def _offset_us(self, offset: np.ndarray, unit: TimeUnit) -> int:
        if offset.size != 1 or offset.dtype.kind not in "iuf":
            raise ValueError(f"{self.name}: 't_offset' is {offset.dtype} {offset.shape}; expected one number")
        survey = Survey(f"{self.name} ('t_offset')")
        survey.add(offset.reshape(1), np.zeros(1, np.uint8))
        own = survey._unit()
        if own == "ns" != unit:
            raise ValueError(f"{self.name}: 't_offset' is in nanoseconds and 't' seems not to be; time_unit= says so")
        return int(survey.meaning(own).times(offset.reshape(1))[0])


def check_events(events: Mapping[str, Any], name: str, time_unit: TimeUnit | None = None) -> Events:
    """Return columns in memory as a stream; ValueError (starting with `name`) if they are none.

    The fields go by the names of `ALIASES`. Polarity is 0/1, -1/+1, or 0 and one other value; see `positive_level`.
    """
    found = find_fields(events, name)
    if masked := [key for key, values in found.items() if np.ma.is_masked(values)]:
        raise ValueError(f"{name}: field {masked[0]!r} has masked values; expected a number for each event")
    columns = {key: np.asarray(values) for key, values in found.items()}
    check_columns(columns, name)
    survey = Survey(name)
    survey.add(columns["t"], columns["p"])
    stream = survey.meaning(time_unit).events(columns, name)
    stream.size = sensor_size(events)
    return stream


def sensor_size(events: Mapping[str, Any]) -> tuple[int, int] | None:
    """Return (height, width) where a stream carries it; `size` of other containers is a number of values."""
    return events.size if isinstance(events, Events) else None


def check_columns(columns: Mapping[str, np.ndarray], name: str) -> None:
    """ValueError unless all columns are numbers [N], as many in each."""
    for key in FIELDS:
        _require(columns[key], key, "biuf" if key == "p" else "iuf", name)
    if len({len(values) for values in columns.values()}) != 1:
        lengths = {key: len(values) for key, values in columns.items()}
        raise ValueError(f"{name}: the fields differ in length: {lengths}")


def find_fields(found: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return x, y, t, p of a mapping (or records, or a data frame) in which they may go by other names."""
    fields = {}
    if isinstance(found, np.ndarray):
        found = {key: found[key] for key in found.dtype.names or ()}
    for key, aliases in ALIASES.items():
        known = [alias for alias in aliases if alias in found]
        if not known:
            raise ValueError(f"{name}: field {key!r} is missing; expected x, y, t, p")
        fields[key] = found[known[0]]
    return fields


def polarity_levels(p: np.ndarray, name: str) -> set[int]:
    """Return the values in `p`, three at most: more than two are no polarity."""
    _require(p, "p", "biuf", name)
    if not len(p):
        return set()
    low, high = p.min(), p.max()
    levels = {float(low), float(high)} if p.dtype.kind == "f" else {int(low), int(high)}
    if p.dtype.kind == "f" or int(high) - int(low) > 1:
        levels |= {value.item() for value in p[(p != low) & (p != high)][:1]}
    if not all(level == level and level % 1 == 0 for level in levels):
        raise ValueError(f"{name}: field 'p' holds {sorted(levels)}; expected whole numbers")
    return {int(level) for level in levels}


def positive_level(levels: set[int], name: str) -> int:
    """Return which of the values that occur in a whole recording is the positive polarity.

    Of -1 and +1 (evlib, MVSEC; -1 may have become 255, 65535 or 4294967295 in an unsigned type) +1 is; of 0 and
    another value (1, 255, -1) the other one.

    Raises:
        ValueError: the values do not tell, as {1, 2} or -1 alone.
    """
    if levels <= {0, 1} or (len(levels) == 2 and 1 in levels and levels & _MINUS_ONE):
        return 1
    if len(levels) == 2 and 0 in levels:
        return next(iter(levels - {0}))
    values = ", ".join(map(str, sorted(levels)))
    raise ValueError(f"{name}: field 'p' holds {values}, which does not tell the polarity; expected 0/1 or -1/+1")


def is_positive(p: np.ndarray, name: str) -> np.ndarray:
    """Return bool [N] for the polarities of a whole stream in memory."""
    return p == positive_level(polarity_levels(p, name), name)


def pixels(values: np.ndarray, key: str, name: str) -> np.ndarray:
    """Return coordinates [N] as uint16; ValueError where that would change one."""
    if values.dtype == np.uint16:
        return values
    _require(values, key, "iuf", name)
    if len(values) and not (values.min() >= 0 and values.max() <= 65535):  # also where one is NaN
        raise ValueError(f"{name}: field {key!r} leaves 0..65535")
    whole = values.astype(np.uint16)
    if values.dtype.kind == "f" and np.any(whole != values):
        raise ValueError(f"{name}: field {key!r} holds fractions of a pixel; expected integers")
    return whole


def _require(values: np.ndarray, key: str, kinds: str, name: str) -> None:
    if values.ndim != 1 or values.dtype.kind not in kinds:
        raise ValueError(f"{name}: field {key!r} is {values.dtype} {values.shape}; expected integers [N]")


# evlib, the Event Camera Dataset's text; MVSEC; Metavision's CSV
_ORDERS = ("txyp", "xytp", "xypt")


def find_order(sample: np.ndarray, name: str) -> dict[str, int]:
    """Return the column of x, y, t, p, told by what only that order makes of the first rows [N, 4].

    Raises:
        ValueError: none of the known orders fits, or several do.
    """
    if not np.isfinite(sample).all():
        raise ValueError(f"{name}: holds numbers that are not finite")
    fitting = [order for order in _ORDERS if _fits({key: sample[:, i] for i, key in enumerate(order)})]
    if len(fitting) != 1:
        found = " and ".join(fitting) or "none"
        raise ValueError(
            f"{name}: four columns without names; of the orders {', '.join(_ORDERS)} {found} would fit. Expected named "
            "fields x, y, t, p, or columns that tell"
        )
    return {key: i for i, key in enumerate(fitting[0])}


def _fits(columns: dict[str, np.ndarray]) -> bool:
    """Pixels are small whole numbers, polarity has two values, time does not run backwards."""
    try:
        levels = polarity_levels(columns["p"], "")
    except ValueError:
        return False
    if len(levels) > 2 or not levels <= POLARITIES:
        return False
    pixels = all(np.all((v >= 0) & (v <= 65535) & (v % 1 == 0)) for v in (columns["x"], columns["y"]))
    return bool(pixels and np.all(columns["t"][1:] >= columns["t"][:-1]))


def matrix_columns(matrix: Any, order: dict[str, int]) -> Callable[[slice, tuple[str, ...]], dict[str, np.ndarray]]:
    """Return how to take named columns of some rows of `matrix` (an array, or a dataset on disk)."""

    def take(rows: slice, names: tuple[str, ...]) -> dict[str, np.ndarray]:
        block = np.asarray(matrix[rows])
        return {name: block[:, order[name]] for name in names}

    return take
