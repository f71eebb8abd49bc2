"""Which reader a file needs, told by its first bytes; the suffix counts only where they say nothing."""

import re
from pathlib import Path

from egptlib.scenes.events._source import Source

_REFUSED = {
    b"#!AER-DAT2": "AEDAT 2 of jAER is not read; jAER's or DV's export (dv-gui, to AEDAT 4) converts it",
    b"#!AER-DAT3": "AEDAT 3 is not read; DV (dv-gui, to AEDAT 4) converts it",
    b"#ROSBAG": "a ROS bag is not read; rpg_dvs_ros, or the package rosbags, gives its events as text: t x y p",
    b"SQLite format 3": "a ROS 2 bag is not read; the package rosbags gives its messages",
    b"\x1f\x8b": "compressed with gzip; gunzip unpacks it",
}


def open_source(path: Path) -> Source:
    """Open a recording of any known format.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is none of them, or damaged.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    with path.open("rb") as file:
        head = file.read(4096)
    suffix = path.suffix.lower()
    if _is_hdf5(path, head) or suffix in (".h5", ".hdf5"):
        from egptlib.scenes.events._hdf5 import open_hdf5

        return open_hdf5(path)
    if head.startswith(b"\x93NUMPY") or suffix == ".npy":
        from egptlib.scenes.events._npy import open_npy

        return open_npy(path)
    if head.startswith(b"% "):
        from egptlib.scenes.events._prophesee import open_prophesee

        return open_prophesee(path)
    if head.startswith(b"PK\x03\x04") or suffix == ".npz":
        from egptlib.scenes.events._npz import open_npz

        return open_npz(path)
    if head.startswith(b"#!AER-DAT4"):
        from egptlib.scenes.events._aedat import open_aedat4

        return open_aedat4(path)
    for magic, words in _REFUSED.items():
        if head.startswith(magic):
            raise ValueError(f"{path}: {words}")
    if head and not re.search(rb"[^\t\n\r -~\x80-\xff]", head):
        from egptlib.scenes.events._text import open_text

        return open_text(path)
    raise ValueError(f"{path}: not a recording of events in a known format (data/README.md lists them)")


def _is_hdf5(path: Path, head: bytes) -> bool:
    """HDF5's signature stands at 0, or behind a user block at 512, 1024, 2048, ..."""
    signature = b"\x89HDF\r\n\x1a\n"
    return any(head[place : place + 8] == signature for place in (0, 512, 1024, 2048))
