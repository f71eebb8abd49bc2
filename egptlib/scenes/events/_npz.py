"""Event streams in numpy's archives: columns x, y, t, p; `event_data` (N-ImageNet); EventBench's `event_bins`."""

import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from egptlib.scenes.events._fields import ALIASES, FIELDS
from egptlib.scenes.events._npy import map_npy, read_header, read_npy, rows_of
from egptlib.scenes.events._source import Source

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
