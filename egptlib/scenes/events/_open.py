"""Which reader a file needs, told by its first bytes; the suffix counts only where they say nothing."""

from pathlib import Path

from egptlib.scenes.events._source import Source


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
    raise ValueError(f"{path}: not a recording of events in a known format (data/README.md lists them)")


def _is_hdf5(path: Path, head: bytes) -> bool:
    """HDF5's signature stands at 0, or behind a user block at 512, 1024, 2048, ..."""
    signature = b"\x89HDF\r\n\x1a\n"
    return any(head[place : place + 8] == signature for place in (0, 512, 1024, 2048))
