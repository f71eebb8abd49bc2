"""Event streams: reading the users' `.npy` dicts without running arbitrary pickle, and DSEC's `.h5` files."""

import pickle
import re
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np
from numpy.lib import format as npy_format

from egptlib._paths import atomic_write

# x, y: uint16 pixel coordinates; t: int64 microseconds; p: uint8, 1 for a positive event, else 0. All [N].
Events = dict[str, np.ndarray]
_PLAIN_TYPE = re.compile(r"b1|[iu][1248]|f[248]|[US]\d+|[Mm]8")


def load_events(path: str | PathLike[str], start_us: int | None = None, stop_us: int | None = None) -> Events:
    """Read one event stream, optionally only the events with `start_us <= t < stop_us`.

    Args:
        path: a `.npy` file (a pickled dict, or a structured array, with x, y, t, p) or a `.h5` file in DSEC layout.
        start_us, stop_us: bounds in microseconds on the file's own clock (for `.h5`: `t_offset` included).

    Returns:
        x, y uint16; t int64 in microseconds; p uint8 in {0, 1}; each [N], in the order of the file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, holds something else, or its pickle names anything but plain numpy arrays.
    """
    path = Path(path)
    if path.suffix in (".h5", ".hdf5"):
        with EventFile(path) as file:
            return file.window(start_us, stop_us)
    if path.suffix != ".npy":
        raise ValueError(f"{path}: expected a .npy or .h5 event file")
    events = check_events(load_npy_dict(path), str(path))
    if start_us is None and stop_us is None:
        return events
    inside = np.ones(len(events["t"]), dtype=bool)  # not searchsorted: a .npy need not be sorted by time
    if start_us is not None:
        inside &= events["t"] >= start_us
    if stop_us is not None:
        inside &= events["t"] < stop_us
    return {name: values[inside] for name, values in events.items()}


def save_events(path: str | PathLike[str], events: Mapping[str, np.ndarray], **extra: Any) -> None:
    """Write events (and further plain entries) as the pickled-dict `.npy` that users hold, atomically.

    `extra` takes the other keys of such a file: time_start, time_end, duration_ms, image_timestamp, image_idx,
    image_indices_in_clip. `num_events` is filled in.
    """
    record = {**check_events(events, str(path)), **extra, "num_events": len(events["t"])}
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        np.save(file, np.array(record, dtype=object), allow_pickle=True)


def check_events(events: Mapping[str, Any], name: str) -> Events:
    """Return `events` as x, y uint16, t int64, p uint8 in {0, 1}; ValueError (starting with `name`) if they are not."""
    fields: Events = {}
    for key in ("x", "y", "t", "p"):
        if key not in events:
            raise ValueError(f"{name}: field {key!r} is missing; expected x, y, t, p")
        values = np.asarray(events[key])
        if values.ndim != 1 or values.dtype.kind not in ("biu" if key == "p" else "iu"):
            raise ValueError(f"{name}: field {key!r} is {values.dtype} {values.shape}; expected integers [N]")
        fields[key] = values
    if len({len(values) for values in fields.values()}) != 1:
        lengths = {key: len(values) for key, values in fields.items()}
        raise ValueError(f"{name}: the fields differ in length: {lengths}")
    for key in ("x", "y"):
        values = fields[key]
        if values.dtype != np.uint16:
            if len(values) and (values.min() < 0 or values.max() > 65535):
                raise ValueError(f"{name}: field {key!r} leaves 0..65535")
            fields[key] = values.astype(np.uint16)
    fields["t"] = fields["t"].astype(np.int64, copy=False)
    fields["p"] = (fields["p"] != 0).view(np.uint8)  # files hold 0/1, False/True or 0/255
    return fields


def load_npy_dict(path: str | PathLike[str]) -> dict[str, Any]:
    """Read a `.npy` that holds a dict (or a structured array) without running code it may carry.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, it is not a dict, or its pickle asks for a name that is not plain numpy.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            value = _read_npy(file)
    except OSError:
        raise
    except Exception as error:  # a hostile or torn pickle can raise anything
        raise ValueError(f"{path}: not a readable .npy event file: {error or type(error).__name__}") from error
    if isinstance(value, np.ndarray) and value.dtype.names:
        return {name: value[name] for name in value.dtype.names}
    if isinstance(value, np.ndarray) and value.dtype == object and value.size == 1:
        value = value.reshape(())[()]
    if not isinstance(value, dict):
        raise ValueError(f"{path}: holds {type(value).__name__}; expected a dict with x, y, t, p")
    return value


def _read_npy(file: BinaryIO) -> Any:
    version = npy_format.read_magic(file)
    read_header = npy_format.read_array_header_1_0 if version == (1, 0) else npy_format.read_array_header_2_0
    _, _, dtype = read_header(file)
    if dtype.hasobject:
        return _NumpyOnlyUnpickler(file).load()
    file.seek(0)
    return npy_format.read_array(file, allow_pickle=False)


class _NumpyOnlyUnpickler(pickle.Unpickler):
    """Knows four numpy names, and maps even those to stand-ins that check what they are given.

    numpy's own dtype trusts the flags in its pickled state, so a crafted file could make it read wild memory.
    """

    def find_class(self, module: str, name: str) -> Any:
        known = {
            ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
            ("numpy.core.multiarray", "scalar"): _scalar,
            ("numpy", "ndarray"): "numpy.ndarray",  # only ever an argument of _reconstruct, so not callable here
            ("numpy", "dtype"): _Dtype,
        }
        try:
            return known[module.replace("numpy._core.", "numpy.core."), name]
        except KeyError:
            raise ValueError(f"its pickle asks for {module}.{name}; only plain numpy arrays are read") from None


class _Dtype:
    """Stands in for numpy.dtype: number, text, time and object types, none with fields."""

    def __init__(self, code: str, *_: Any) -> None:
        self.code, self.swapped = code, False

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.swapped = state[1] == ">"

    def resolve(self) -> np.dtype[Any]:
        if self.code in ("O", "O8"):
            return np.dtype(object)
        if not _PLAIN_TYPE.fullmatch(self.code):
            raise ValueError(f"its pickle has a value of type {self.code!r}; expected plain numbers or text")
        return np.dtype(self.code).newbyteorder(">" if self.swapped else "<")


class _Array(np.ndarray):
    """An ndarray whose pickled state gets a dtype of our own making, so that numpy's checks of it hold."""

    def __setstate__(self, state: Any) -> None:
        version, shape, dtype, is_fortran, data = state
        super().__setstate__((version, shape, dtype.resolve(), is_fortran, data))


def _reconstruct(*_: Any) -> np.ndarray:
    return np.ndarray.__new__(_Array, (0,), np.int8)


def _scalar(dtype: _Dtype, data: bytes) -> Any:
    return np.frombuffer(data, dtype=dtype.resolve(), count=1)[0]


class EventFile:
    """A DSEC `events.h5` kept open, for reading many windows of it.

    Layout (Gehrig et al. 2021): `events/{x,y,t,p}`, t in microseconds after `t_offset`, sorted; `ms_to_idx[i]` is the
    index of the first event with `t >= 1000 i`; compressed with blosc.
    """

    def __init__(self, path: str | PathLike[str]) -> None:
        import h5py
        import hdf5plugin  # noqa: F401  registers the blosc filter

        self.path = Path(path)
        if not self.path.is_file():
            raise FileNotFoundError(f"{self.path}: no such file")
        try:
            self._file = h5py.File(self.path, "r")
            self._fields = {name: self._file[f"events/{name}"] for name in ("x", "y", "t", "p")}
            self._ms_to_idx = self._file["ms_to_idx"][()].astype(np.int64)
            self.t_offset = int(self._file["t_offset"][()])
        except (OSError, KeyError) as error:
            raise ValueError(
                f"{self.path}: not an event file in DSEC layout (events/x,y,t,p, ms_to_idx, t_offset): {error}"
            ) from error

    def __len__(self) -> int:
        return int(self._fields["t"].shape[0])

    def window(self, start_us: int | None = None, stop_us: int | None = None) -> Events:
        """Return the events with `start_us <= t < stop_us` (microseconds, `t_offset` included); None leaves it open.

        Raises:
            ValueError: the data cannot be decompressed or is inconsistent.
        """
        first, last = self._bracket(start_us, stop_us)
        try:
            t = self._fields["t"][first:last].astype(np.int64) + self.t_offset
            low = 0 if start_us is None else int(np.searchsorted(t, start_us, side="left"))
            high = len(t) if stop_us is None else int(np.searchsorted(t, stop_us, side="left"))
            high = max(low, high)
            raw = {name: self._fields[name][first + low : first + high] for name in ("x", "y", "p")}
        except OSError as error:
            raise ValueError(f"{self.path}: events {first} to {last} cannot be read: {error}") from error
        return check_events({**raw, "t": t[low:high]}, str(self.path))

    def _bracket(self, start_us: int | None, stop_us: int | None) -> tuple[int, int]:
        """Return event indices around the window from the millisecond table, so that little more than it is read."""
        first, last, table = 0, len(self), self._ms_to_idx
        if start_us is not None and len(table):
            first = int(table[np.clip((start_us - self.t_offset) // 1000, 0, len(table) - 1)])
        if stop_us is not None:
            end = -((self.t_offset - stop_us) // 1000)  # rounded up
            if end < len(table):
                last = int(table[max(end, 0)])
        return first, max(first, last)

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
