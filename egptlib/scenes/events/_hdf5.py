"""Event streams in HDF5, in the layouts of the public datasets.

    events/{x,y,t,p}             DSEC (with `t_offset`; Gehrig et al. 2021), RVT's preprocessed files (no table)
    events/{xs,ys,ts,ps}         E2VID's format, evlib
    prophesee/left/{x,y,t,p}     M3ED (Chaney et al. 2023)
    davis/left/events            MVSEC (Zhu et al. 2018): float64 [N, 4] of x, y, t in seconds, p -1/+1
    CD/events                    Metavision: records with x, y, p, t, compressed with ECF

The tables from milliseconds to rows that some have (`ms_to_idx`, `ms_map_idx`) are not read: they can contradict `t`,
and what `EventFile` finds out about `t` serves better.
"""

import re
from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401  registers blosc, zstd, lz4, ...
import numpy as np

from egptlib.scenes.events._ecf import decode_ecf
from egptlib.scenes.events._fields import ALIASES, find_fields, find_order, matrix_columns
from egptlib.scenes.events._source import ROWS_PER_BLOCK, Rows, Source

_PLACES = ("events", "prophesee/left", "davis/left/events", "CD/events", "", "prophesee/right", "davis/right/events")
_ECF = 0x8ECF

_Take = Callable[[slice, tuple[str, ...]], Mapping[str, np.ndarray]]


def open_hdf5(path: Path) -> Source:
    """Open the first known layout in the file.

    Only hard links and plain or compressed datasets are followed: whatever would read another file is refused.

    Raises:
        ValueError: no known layout, a field that stands outside this file, an unknown filter, or a damaged file.
    """
    file = open_hdf5_file(path)
    try:
        return _open(file, path)
    except BaseException as error:
        file.close()
        if isinstance(error, (OSError, KeyError, RuntimeError)):
            raise ValueError(f"{path}: damaged HDF5 file: {error}") from error
        raise


def _open(file: h5py.File, path: Path) -> Source:
    offset = find_hdf5_node(file, "t_offset", path)
    for place in _PLACES:
        node = find_hdf5_node(file, place, path)
        if isinstance(node, h5py.Group):
            found = {key: _find_alias(file, place, names, path) for key, names in ALIASES.items()}
            if None in found.values():
                continue
            fields = {key: check_hdf5_field(field, path) for key, field in found.items()}
            shapes = {key: field.shape for key, field in fields.items()}
            if len(set(shapes.values())) != 1 or len(shapes["t"]) != 1:
                raise ValueError(f"{path}: the fields differ in length: {shapes}; expected one number an event")
            count, take = shapes["t"][0], _columns(fields)
        elif isinstance(node, h5py.Dataset):
            check_hdf5_field(node, path, but=_ECF)
            count, take = len(node), _table(node, path)
        else:
            continue
        return Rows(
            f"HDF5 {node.name}",
            count,
            _naming(take, path, node.name),
            size=_size(file, place, path),
            t_offset=None if offset is None else np.asarray(check_hdf5_field(offset, path)[()]),
            close=file.close,
        )
    raise ValueError(
        f"{path}: holds no event stream in a known layout (events/x,y,t,p as DSEC has it; M3ED, MVSEC, ...)"
    )


def _columns(fields: Mapping[str, h5py.Dataset]) -> _Take:
    return lambda rows, names: {name: fields[name][rows] for name in names}


def _table(dataset: h5py.Dataset, path: Path) -> _Take:
    """Records with names, ECF-compressed or not, or [N, 4]."""
    if _ECF in _filters(dataset):
        return _ecf_columns(dataset)
    if dataset.dtype.names:
        fields = find_fields({name: name for name in dataset.dtype.names}, str(path))
        return lambda rows, names: {name: dataset.fields(fields[name])[rows] for name in names}
    if dataset.ndim != 2 or dataset.shape[1] != 4:
        raise ValueError(f"{path}: field {dataset.name!r} is {dataset.dtype} {dataset.shape}; expected [N, 4]")
    return matrix_columns(dataset, find_order(dataset[:ROWS_PER_BLOCK], f"{path}: {dataset.name}"))


def _ecf_columns(dataset: h5py.Dataset) -> _Take:
    def take(rows: slice, names: tuple[str, ...]) -> dict[str, np.ndarray]:
        (wide,) = dataset.chunks
        first = rows.start - rows.start % wide
        parts = [decode_ecf(dataset.id.read_direct_chunk((place,))[1]) for place in range(first, rows.stop, wide)]
        if any(len(part["t"]) != wide for part in parts[:-1]):
            raise OSError("a chunk holds another number of events than it should")
        part = slice(rows.start - first, rows.stop - first)
        return {name: np.concatenate([columns[name] for columns in parts])[part] for name in names}

    return take


def _naming(take: _Take, path: Path, name: str) -> _Take:
    def named(rows: slice, names: tuple[str, ...]) -> Mapping[str, np.ndarray]:
        try:
            return take(rows, names)
        except (OSError, ValueError) as error:
            raise ValueError(f"{path}: events {rows.start} to {rows.stop} of {name} cannot be read: {error}") from error

    return named


def _size(file: h5py.File, place: str, path: Path) -> tuple[int, int] | None:
    """(height, width) where RVT, M3ED or Metavision write it."""
    height, width = (find_hdf5_node(file, f"{place}/{name}", path) for name in ("height", "width"))
    if height is not None and width is not None:
        return int(check_hdf5_field(height, path)[()]), int(check_hdf5_field(width, path)[()])
    resolution = find_hdf5_node(file, f"{place}/calib/resolution", path)
    if resolution is not None:
        columns, rows = check_hdf5_field(resolution, path)[()].tolist()
        return int(rows), int(columns)
    if match := re.fullmatch(r"(\d+)x(\d+)", str(file.attrs.get("geometry", ""))):
        return int(match[2]), int(match[1])
    return None


def _find_alias(file: h5py.File, place: str, names: tuple[str, ...], path: Path) -> Any:
    nodes = (find_hdf5_node(file, f"{place}/{name}", path) for name in names)
    return next((node for node in nodes if isinstance(node, h5py.Dataset)), None)


def open_hdf5_file(path: str | PathLike[str]) -> h5py.File:
    """Open a file for reading; ValueError where it is none of HDF5's."""
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise ValueError(f"{path}: not a readable HDF5 file: {error}") from error


def find_hdf5_node(file: h5py.File, place: str, path: Path) -> Any:
    """Return what is at `place` over hard links alone, or None."""
    node: Any = file
    for part in filter(None, place.split("/")):
        if not isinstance(node, h5py.Group) or not node.id.links.exists(part.encode()):
            return None
        if node.id.links.get_info(part.encode()).type != h5py.h5l.TYPE_HARD:
            raise ValueError(
                f"{path}: field {place!r} is a soft or external link; only data in the file itself are read"
            )
        node = node[part]
    return node


def check_hdf5_field(dataset: Any, path: Path, but: int | None = None) -> h5py.Dataset:
    """Return `dataset` if all its data are in this file and can be decompressed (or with `but`); else ValueError."""
    name = getattr(dataset, "name", None)
    if not isinstance(dataset, h5py.Dataset):
        raise ValueError(f"{path}: field {name!r} is no dataset")
    if dataset.is_virtual or dataset.external:
        raise ValueError(f"{path}: field {name!r} stands in another file (virtual or external); only this file is read")
    for code in _filters(dataset):
        if code != but and not h5py.h5z.filter_avail(code):
            raise ValueError(f"{path}: field {name!r} is compressed with HDF5 filter {code}, which is not installed")
    return dataset


def _filters(dataset: h5py.Dataset) -> list[int]:
    properties = dataset.id.get_create_plist()
    return [properties.get_filter(number)[0] for number in range(properties.get_nfilters())]
