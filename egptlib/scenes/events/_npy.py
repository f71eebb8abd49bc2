"""Event streams in numpy's files and archives: read without running the code that a pickle may carry, and written."""

import pickle
import re
import tempfile
import threading
import zipfile
from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy_format

from egptlib._paths import atomic_write
from egptlib.scenes.events._fields import (
    ALIASES,
    FIELDS,
    check_columns,
    check_events,
    find_fields,
    find_order,
    matrix_columns,
)
from egptlib.scenes.events._source import ROWS_PER_BLOCK, Rows, Source

# NumPy parses headers with `ast`, which in CPython 3.11 counts its depth for all threads together: with two at work a
# sound file now and then ended in "AST constructor recursion depth mismatch" (gh-106905).
_PARSING = threading.Lock()
_PLAIN_TYPE = re.compile(r"b1|[iu][1248]|f[248]|[US]\d+|[Mm]8")


def save_events(path: str | PathLike[str], events: Mapping[str, np.ndarray], **extra: Any) -> None:
    """Write events (and further plain entries) as the pickled-dict `.npy` that users hold, atomically.

    `extra` takes the other keys of such a file: time_start, time_end, duration_ms, image_timestamp, image_idx,
    image_indices_in_clip. `num_events` is filled in.
    """
    record = {**check_events(events, str(path)), **extra, "num_events": len(events["t"])}
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        np.save(file, np.array(record, dtype=object), allow_pickle=True)


def open_npy(path: Path) -> Source:
    """Open a dict with x, y, t, p, a structured array, or an array [N, 4]; arrays are read from disk block by block.

    Raises:
        ValueError: it is damaged, it is none of these, or its pickle asks for a name that is not plain numpy.
    """
    try:
        with path.open("rb") as file:
            value = read_npy(file, path)
    except OSError:
        raise
    except Exception as error:  # a hostile or torn pickle can raise anything
        raise ValueError(f"{path}: not a readable .npy event file: {error or type(error).__name__}") from error
    return rows_of(value, "NumPy", path)


def read_npy(file: IO[bytes], path: Path | None = None) -> Any:
    """Read one array, or what it pickles, without running code it may carry; where `path` is given, map plain data."""
    shape, dtype = read_header(file)
    if dtype.hasobject:
        return _NumpyOnlyUnpickler(file).load()
    if path is not None and 0 not in shape:  # an empty file cannot be mapped
        return map_npy(path)
    file.seek(0)
    with _PARSING:
        return npy_format.read_array(file, allow_pickle=False)


def read_header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and dtype of an array; the file stands behind its header then."""
    version = npy_format.read_magic(file)
    read = npy_format.read_array_header_1_0 if version == (1, 0) else npy_format.read_array_header_2_0
    with _PARSING:
        shape, _, dtype = read(file)
    return shape, dtype


def map_npy(path: str | PathLike[str]) -> Any:
    """An array of plain data, mapped from its file."""
    with _PARSING:
        return np.load(path, mmap_mode="r", allow_pickle=False)


def rows_of(value: Any, format: str, path: Path, close: Callable[[], None] | None = None) -> Source:
    """Return the stream in a dict of columns, a structured array or an array [N, 4]; ValueError when it is none."""
    if isinstance(value, np.ndarray) and value.dtype == object and value.size == 1:
        value = value.reshape(())[()]
    if isinstance(value, np.ndarray) and value.ndim == 2 and value.shape[1] == 4 and value.dtype.kind in "iuf":
        order = find_order(value[:ROWS_PER_BLOCK], str(path))
        return Rows(f"{format} [N, 4]", len(value), matrix_columns(value, order), close=close)
    if isinstance(value, np.ndarray) and value.dtype.names:
        value = {name: value[name] for name in value.dtype.names}
    if not isinstance(value, Mapping):
        what = f"{value.dtype} {value.shape}" if isinstance(value, np.ndarray) else type(value).__name__
        raise ValueError(f"{path}: holds {what}; expected a dict with x, y, t, p")
    fields = {key: np.asarray(values) for key, values in find_fields(value, str(path)).items()}
    check_columns(fields, str(path))

    def take(rows: slice, names: tuple[str, ...]) -> dict[str, np.ndarray]:
        return {name: fields[name][rows] for name in names}

    return Rows(format, len(fields["t"]), take, close=close)


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
    """Stands in for numpy.dtype: number, text, time and object types, and records of numbers."""

    def __init__(self, code: str, *_: Any) -> None:
        self.code, self.swapped = code, False
        self.fields: dict[str, Any] = {}

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.swapped, self.fields, self.size = (
            state[1] == ">",
            {name: state[4][name] for name in state[3] or ()},
            state[5],
        )

    def resolve(self) -> np.dtype[Any]:
        if self.fields:
            formats, offsets = (
                [field[0].resolve() for field in self.fields.values()],
                [f[1] for f in self.fields.values()],
            )
            record = np.dtype({"names": [*self.fields], "formats": formats, "offsets": offsets, "itemsize": self.size})
            if record.hasobject:
                raise ValueError("its pickle has records of objects; expected plain numbers or text")
            return record
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


_NONE = np.dtype(np.uint8)  # has no fields
_TABLES = ("event_data", "events", "event_bins", "arr_0")


def open_npz(path: Path) -> Source:
    """Open the columns or the one table of events in an archive.

    Plain arrays are unpacked beside each other into a temporary folder and read from there, so that a long recording
    does not have to fit into memory; arrays of objects go through the restricted reader of `.npy`. EventBench's
    `event_bins`, a list of streams one after the other, is joined.

    Raises:
        ValueError: the archive is damaged, holds no events, or its pickle asks for more than plain numpy arrays.
    """
    folder = tempfile.TemporaryDirectory(prefix="egptlib-npz-")
    try:
        with zipfile.ZipFile(path) as archive:
            names = {Path(name).stem: name for name in archive.namelist() if name.endswith(".npy")}
            if all(any(alias in names for alias in ALIASES[key]) for key in FIELDS):
                wanted = [next(alias for alias in ALIASES[key] if alias in names) for key in FIELDS]
                value: Any = {key: _read(archive, names[name], folder.name) for key, name in zip(FIELDS, wanted)}
            else:
                table = next((name for name in _TABLES if name in names), None)
                if table is None:
                    found = ", ".join(sorted(names)) or "nothing"
                    raise ValueError(f"holds {found}; expected x, y, t, p or {' or '.join(_TABLES)}")
                value = _joined(_read(archive, names[table], folder.name))
        return rows_of(value, "NumPy archive", path, folder.cleanup)
    except Exception as error:  # a hostile or torn file can raise anything
        folder.cleanup()
        if isinstance(error, ValueError) and str(error).startswith(str(path)):
            raise
        raise ValueError(f"{path}: not a readable .npz event file: {error or type(error).__name__}") from error


def _read(archive: zipfile.ZipFile, name: str, folder: str) -> np.ndarray:
    with archive.open(name) as member:
        shape, dtype = read_header(member)
    if dtype.hasobject or 0 in shape:
        with archive.open(name) as member:
            return read_npy(member)
    mapped: np.ndarray = map_npy(archive.extract(name, folder))
    return mapped


def _joined(value: Any) -> Any:
    """Return an array of several dicts or structured arrays as one dict of their columns, one after the other.

    Streams of the same length have become one structured array [streams, length].
    """
    if isinstance(value, np.ndarray) and value.dtype.names:
        return value.ravel()
    if not (isinstance(value, np.ndarray) and value.dtype == object and value.size > 1):
        return value
    parts = value.ravel().tolist()
    names = [
        list(part) if isinstance(part, dict) else list(getattr(part, "dtype", _NONE).names or ()) for part in parts
    ]
    if not all(names):
        raise ValueError("its array of objects holds something else than tables with x, y, t, p")
    return {key: np.concatenate([np.asarray(part[key]) for part in parts]) for key in names[0]}
