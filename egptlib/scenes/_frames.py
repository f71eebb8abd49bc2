"""Frames with their times, one class a place they come from; never more of them in memory than a window needs."""

from collections.abc import Callable, Iterator
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from egptlib.scenes._images import frame_files, natural, read_frame
from egptlib.scenes._video import iterate_video


class Frames:
    """A recording's frames, read window by window; those of the last window are kept, since half of them come again.

    Attributes:
        path: the file or folder they are in.
        times: int64 [N] microseconds, increasing.
    """

    def __init__(self, path: str | PathLike[str], times: np.ndarray) -> None:
        self.path, self.times = Path(path), np.asarray(times, dtype=np.int64)
        if np.any(np.diff(self.times) <= 0):
            raise ValueError(f"{path}: the times of its frames must be increasing")
        self._kept: dict[int, np.ndarray] = {}
        self._shape: tuple[int, ...] = ()

    def read(self, indices: range) -> list[np.ndarray]:
        """Return these frames, uint8 [H, W, 3] RGB; ValueError when one is damaged or of another size."""
        self._kept = {i: self._kept[i] if i in self._kept else self._checked(i) for i in indices}
        return list(self._kept.values())

    def span(self) -> tuple[int, int] | None:
        """Time of the first and of the last frame in microseconds, None without frames."""
        return (int(self.times[0]), int(self.times[-1])) if len(self.times) else None

    def close(self) -> None:
        """Let go of the file."""

    def _load(self, index: int) -> np.ndarray:
        raise NotImplementedError

    def _checked(self, index: int) -> np.ndarray:
        frame = self._load(index)
        self._shape = self._shape or frame.shape
        if frame.shape != self._shape:
            raise ValueError(f"{self._name(index)}: is {frame.shape}, the frames before it are {self._shape}")
        return frame

    def _name(self, index: int) -> str:
        return f"{self.path}: frame {index}"


class PngFrames(Frames):
    """The PNG files of a folder, in the order of their numbers, or those named."""

    def __init__(self, path: Path, times: np.ndarray, files: list[Path] | None = None) -> None:
        self._files = frame_files(path) if files is None else files
        if len(self._files) != len(times):
            raise ValueError(f"{path}: {len(self._files)} PNG frames but {len(times)} timestamps")
        super().__init__(path, times)

    def _load(self, index: int) -> np.ndarray:
        return read_frame(self._files[index])

    def _name(self, index: int) -> str:
        return str(self._files[index])


class StreamedFrames(Frames):
    """Frames that can only be read one after the other: once for the times, and once more as windows are read."""

    def __init__(self, path: str | PathLike[str], offset_us: int = 0) -> None:
        self.path = Path(path)
        super().__init__(path, np.array([time + offset_us for time, _ in self._iterate()], dtype=np.int64))
        self._ahead: Iterator[tuple[int, Callable[[], np.ndarray]]] = iter(())
        self._next = len(self.times)

    def _iterate(self) -> Iterator[tuple[int, Callable[[], np.ndarray]]]:
        """Yield the time of each frame in microseconds, and a call that gives its pixels."""
        raise NotImplementedError

    def _load(self, index: int) -> np.ndarray:
        if index < self._next:  # the first one, or a step back
            self._ahead, self._next = self._iterate(), 0
        for _, pixels in self._ahead:
            self._next += 1
            if self._next > index:
                return pixels()
        raise ValueError(f"{self._name(index)} is no longer there")


class VideoFrames(StreamedFrames):
    """The frames of a video that a player shows."""

    def _iterate(self) -> Iterator[tuple[int, Callable[[], np.ndarray]]]:
        return ((picture.time_us, picture.to_ndarray) for picture in iterate_video(self.path))


class Aedat4Frames(StreamedFrames):
    """The frames of an AEDAT4 recording (DAVIS cameras), of its first stream of frames."""

    def _iterate(self) -> Iterator[tuple[int, Callable[[], np.ndarray]]]:
        import aedat

        first = None
        try:
            for packet in aedat.Decoder(str(self.path)):
                if "frame" in packet and first in (None, packet["stream_id"]):
                    first, frame = packet["stream_id"], packet["frame"]
                    yield int(frame["t"]), partial(_eight_bits, frame["pixels"])
        except (RuntimeError, OSError) as error:
            raise ValueError(f"{self.path}: damaged AEDAT4 file: {error}") from error


class _InHdf5(Frames):
    """Frames in an HDF5 file that stays open; `_data` gives the dataset, or the part of one, of each."""

    _file: Any
    _data: Any

    def _load(self, index: int) -> np.ndarray:
        try:
            frame = np.asarray(self._data[index])
        except OSError as error:
            raise ValueError(f"{self._name(index)} cannot be read: {error}") from error
        return _grey(frame) if frame.ndim == 2 or frame.shape[2] == 1 else np.ascontiguousarray(frame[..., ::-1])

    def close(self) -> None:
        self._file.close()


class Hdf5Frames(_InHdf5):
    """Frames in one dataset [N, H, W] or [N, H, W, 1 or 3] of an HDF5 file, and their times in another.

    `ovc/rgb` or `ovc/left` of M3ED, times in microseconds; `davis/left/image_raw` of MVSEC, in seconds. M3ED's colours
    are in OpenCV's order, blue first.
    """

    _PLACES = (
        ("ovc/rgb/data", "ovc/ts", 1),
        ("ovc/left/data", "ovc/ts", 1),
        ("davis/left/image_raw", "davis/left/image_raw_ts", 1_000_000),
    )

    def __init__(self, path: str | PathLike[str], offset_us: int = 0) -> None:
        from egptlib.scenes.events._hdf5 import check_hdf5_field, open_hdf5_file

        self._file = open_hdf5_file(path)
        found = self._find(self._file, Path(path))
        if found is None:
            raise ValueError(f"{path}: holds no frames in a known layout (M3ED: ovc, MVSEC: davis/left/image_raw)")
        data, times, per_unit = found
        self._data = check_hdf5_field(data, Path(path))
        seconds = check_hdf5_field(times, Path(path))[()]
        is_picture = self._data.ndim == 3 or (self._data.ndim == 4 and self._data.shape[3] in (1, 3))
        if not is_picture or self._data.dtype != np.uint8 or len(self._data) != len(seconds):
            raise ValueError(
                f"{path}: {data.name} is {self._data.dtype} {self._data.shape} with {len(seconds)} times; "
                "expected uint8 [N, H, W] or [N, H, W, 1 or 3] with N times"
            )
        if not np.all(np.isfinite(seconds)):
            raise ValueError(f"{path}: {times.name} holds times that are not finite")
        super().__init__(path, np.rint(seconds * per_unit).astype(np.int64) + offset_us)

    @classmethod
    def are_in(cls, path: str | PathLike[str]) -> bool:
        """Whether an HDF5 file holds frames in a known layout."""
        from egptlib.scenes.events._hdf5 import open_hdf5_file

        with open_hdf5_file(path) as file:
            return cls._find(file, Path(path)) is not None

    @classmethod
    def _find(cls, file: Any, path: Path) -> tuple[Any, Any, int] | None:
        from egptlib.scenes.events._hdf5 import find_hdf5_node

        for place, clock, per_unit in cls._PLACES:
            data, times = (find_hdf5_node(file, name, path) for name in (place, clock))
            if data is not None and times is not None:
                return data, times, per_unit
        return None


class Hdf5Images(_InHdf5):
    """Grey frames [H, W], each a dataset `images/NAME` with its time as attribute `timestamp` (EvQA); often none."""

    def __init__(self, path: str | PathLike[str]) -> None:
        from egptlib.scenes.events._hdf5 import check_hdf5_field, find_hdf5_node, open_hdf5_file

        self._file = open_hdf5_file(path)
        group = find_hdf5_node(self._file, "images", Path(path))
        names = sorted(group or (), key=natural)
        nodes = [find_hdf5_node(self._file, f"images/{name}", Path(path)) for name in names]
        self._data = [check_hdf5_field(node, Path(path)) for node in nodes]
        for image in self._data:
            if image.dtype != np.uint8 or image.ndim != 2 or "timestamp" not in image.attrs:
                raise ValueError(
                    f"{path}: {image.name} is {image.dtype} {image.shape}; expected uint8 [H, W] with a 'timestamp'"
                )
        super().__init__(path, np.array([int(image.attrs["timestamp"]) for image in self._data], dtype=np.int64))


def _eight_bits(pixels: np.ndarray) -> np.ndarray:
    """The upper eight bits of grey, RGB or RGBA."""
    frame = (pixels >> 8).astype(np.uint8) if pixels.dtype == np.uint16 else pixels
    return _grey(frame) if frame.ndim == 2 else np.ascontiguousarray(frame[..., :3])


def _grey(frame: np.ndarray) -> np.ndarray:
    return np.repeat(frame.reshape(*frame.shape[:2], 1), 3, axis=2)
