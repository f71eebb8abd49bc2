"""Reading a few frames of a clip, and writing one, with PyAV; never a whole clip in memory."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import count
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

import numpy as np

from egptlib._paths import atomic_write
from egptlib._whole import whole

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import InputContainer
    from av.video.stream import VideoStream

FrameSampling = Literal["even", "first"] | Callable[[int, float | None], Sequence[int] | np.ndarray]
"""Which frames of a clip are taken: evenly spaced, the first ones, or what a function of their number and rate says
(frames a second, None where unknown), such as a target's own (`Model.sampling`)."""

# x264 made the clips that the mini pair and every figure of streets come from; another encoder, other pixels.
_ENCODERS = ("libx264", "libvpx-vp9")


def frame_indices(total: int, n: int = 8, sampling: FrameSampling = "even", rate: float | None = None) -> list[int]:
    """Return which `n` of `total` frames are taken.

    "even" spaces them from the first to the last frame, rounded down (0 2 5 8 10 13 16 19 of 20), "first" takes the
    leading ones. Sampling is by index, also in clips of variable frame rate. A clip with fewer than `n` frames repeats
    some: evenly spaced indices repeat by themselves, "first" repeats the last frame. A function decides by itself how
    many it takes.
    """
    total, n = whole(total, "total"), whole(n, "n")
    if total < 1 or n < 1:
        raise ValueError(f"cannot take {n} of {total} frames")
    if sampling == "even":
        return [int(index) for index in np.linspace(0, total - 1, n).astype(int)]
    if sampling == "first":
        return [min(index, total - 1) for index in range(n)]
    if not callable(sampling):
        raise ValueError(f"unknown frame sampling {sampling!r}; expected 'even', 'first' or a function")
    told = sampling(total, rate)  # in floats too, where they are whole: np.linspace(...).round()
    whole_floats = (int(i) if isinstance(i, float | np.floating) and i.is_integer() else i for i in told)
    indices = [whole(index, "frame sampling") for index in whole_floats]
    if not indices or min(indices) < 0 or max(indices) >= total:
        raise ValueError(f"frame sampling: expected indices below {total}, found {indices}")
    return indices


def clip_length(path: str | PathLike[str]) -> tuple[int, float | None]:
    """How many frames a clip (or folder of PNG frames) shows by its index, and how many a second; None: unknown."""
    path = Path(path)
    if path.is_dir():
        from egptlib.scenes._images import frame_files

        return len(frame_files(path)), None
    with _open_video(path) as (_, stream):
        indexed = sum(entry.size > 0 and not entry.is_discard for entry in stream.index_entries) or stream.frames
        return indexed, float(stream.average_rate) if stream.average_rate else None


def read_frames(
    path: str | PathLike[str], n: int = 8, sampling: FrameSampling = "even"
) -> tuple[np.ndarray, list[int]]:
    """Read `n` frames of a video file, or of a folder of PNG frames.

    A video is decoded as a stream that keeps only the frames asked for. Its frames are those that a player shows: an
    edit list leaves some out, a display matrix turns them upright. How many there are is guessed from the file's
    index; when decoding finds another number (many containers have no index), a second pass is made with that.

    Returns:
        frames uint8 [n, H, W, 3] RGB, and their indices in the clip (see `frame_indices` for short clips).

    Raises:
        FileNotFoundError: there is no such file or folder.
        ValueError: it is damaged, holds no frame, or the picture's size changes on the way.
    """
    path = Path(path)
    if path.is_dir():
        return _read_frame_folder(path, n, sampling)
    if sampling == "first":  # needs no count, and stops early
        kept, total = _keep_frames(path, range(n), stop_early=True)
    else:
        guess, rate = clip_length(path)
        kept, total = _keep_frames(path, frame_indices(max(guess, 1), n, sampling, rate))
        if total != guess:
            kept, total = _keep_frames(path, frame_indices(total, n, sampling, rate))
        return _stacked(kept, frame_indices(total, n, sampling, rate))
    return _stacked(kept, frame_indices(total, n, sampling))


def _stacked(kept: dict[int, np.ndarray], indices: list[int]) -> tuple[np.ndarray, list[int]]:
    return np.stack([kept[index] for index in indices]), indices


def video_frame_count(path: str | PathLike[str]) -> int:
    """Decode the whole clip, so that every frame is checked, and return how many it has (ValueError: damaged)."""
    return _keep_frames(Path(path), ())[1]


@dataclass(frozen=True)
class Picture:
    """One frame of a video, upright; pixels are converted when they are asked for.

    Attributes:
        path: the video.
        frame: PyAV's frame, as it is stored.
        turn: what makes it upright: exchange the axes, then mirror the rows, then the columns.
    """

    path: Path
    frame: "VideoFrame"
    turn: tuple[bool, bool, bool]

    @property
    def time_us(self) -> int:
        """Its time in the file in microseconds; ValueError where the file gives it none."""
        pts, base = self.frame.pts, self.frame.time_base
        if pts is None or base is None:
            raise ValueError(f"{self.path}: its frames carry no times")
        return round(pts * base * 1_000_000)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        height, width = self.frame.height, self.frame.width
        return (width, height) if self.turn[0] else (height, width)

    def to_ndarray(self, format: Literal["rgb24", "gray"] = "rgb24") -> np.ndarray:
        """Return uint8 [H, W, 3] RGB, or [H, W] for "gray"."""
        exchange, rows, columns = self.turn
        pixels = np.asarray(self.frame.to_ndarray(format=format, threads=1))  # by itself it starts some for each frame
        pixels = pixels.swapaxes(0, 1) if exchange else pixels
        return np.ascontiguousarray(pixels[:: -1 if rows else 1, :: -1 if columns else 1])


def iterate_video(path: str | PathLike[str]) -> Iterator[Picture]:
    """Yield the frames of a clip that a player shows, one by one.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it cannot be opened or decoded, ends before its index does, or the picture's size changes.
    """
    path, size = Path(path), None
    for number, frame in enumerate(_decode(path)):
        picture = Picture(path, frame, _upright(path, frame))
        size = size or picture.size
        if picture.size != size:
            raise ValueError(f"{path}: frame {number} is {picture.size}, those before it are {size} (height, width)")
        yield picture


def _decode(path: Path) -> Iterator["VideoFrame"]:
    import av

    with _open_video(path) as (container, stream):
        # An edit list leaves out packets, gaps in an AVI are counted as frames: the index knows, the header does not.
        promised, packets = sum(entry.size > 0 for entry in stream.index_entries) or stream.frames, 0
        try:
            for packet in container.demux(stream):
                packets += bool(packet.size)
                yield from packet.decode()
        except av.FFmpegError as error:
            raise ValueError(f"{path}: damaged video: {error.strerror} at frame {packets - 1}") from error
    if packets < promised:  # a file cut short otherwise ends like a complete one
        raise ValueError(f"{path}: damaged video: holds {packets} of {promised} frames")
    if packets == 0:
        raise ValueError(f"{path}: damaged video: holds no frame")


def _upright(path: Path, frame: "VideoFrame") -> tuple[bool, bool, bool]:
    """Read `Picture.turn` from the frame's display matrix (a b u, c d v, x y w; ISO/IEC 14496-12, 6.2.2)."""
    from av.sidedata.sidedata import SideDataContainer

    # `frame.side_data` would keep this and the frame alive by each other, until the garbage collector comes by: a clip
    # in memory, and in a forked process the end of threads that are not there, which waits for ever.
    matrix = SideDataContainer(frame).get("DISPLAYMATRIX")  # type: ignore[call-arg]  # of which its stub knows nothing
    if matrix is None:
        return False, False, False
    a, b, _, c, d = np.frombuffer(cast(bytes, matrix), dtype=np.int32)[:5].tolist()
    straight, quarter = (abs(a), abs(d)), (abs(b), abs(c))
    kept, lost = (straight, quarter) if sum(straight) >= sum(quarter) else (quarter, straight)
    if 50 * max(lost) > min(kept):  # more than about a degree
        raise ValueError(f"{path}: its display matrix ({a} {b}, {c} {d}) turns by no multiple of 90 degrees")
    return (False, d < 0, a < 0) if kept is straight else (True, b < 0, c < 0)


def write_video(
    path: str | PathLike[str],
    frames: Iterable[np.ndarray],
    fps: float | Fraction = 20,
    timestamps_us: Sequence[int] | np.ndarray | None = None,
    crf: int = 23,
    preset: str = "ultrafast",
) -> None:
    """Encode uint8 [H, W, 3] RGB frames as H.264 (yuv420p), atomically, taking them one by one.

    Args:
        fps: frame rate of the file, used for the frame times unless `timestamps_us` is given.
        timestamps_us: one time per frame in microseconds, increasing, for clips of variable frame rate.
        crf, preset: x264's quality (lower is better) and speed; the default preset is the cheapest in CPU time. A PyAV
            built without it writes VP9 at that quality.

    Raises:
        ValueError: no frames, an odd height or width (H.264 4:2:0 has none), or frames of different sizes.
    """
    import av
    import cv2

    path, size = Path(path), None
    rate = Fraction(fps).limit_denominator(1001)
    time_base = 1 / rate if timestamps_us is None else Fraction(1, 1_000_000)
    times = count() if timestamps_us is None else iter(np.asarray(timestamps_us, dtype=np.int64).tolist())
    start: int | None = None
    with atomic_write(path) as temporary, av.open(str(temporary), "w") as container:
        encoder = next((name for name in _ENCODERS if name in av.codecs_available), _ENCODERS[0])
        stream = cast(av.VideoStream, container.add_stream(encoder, rate=rate))
        for frame in frames:
            if size is None:
                size = frame.shape
                if frame.ndim != 3 or size[2] != 3 or size[0] % 2 or size[1] % 2:
                    raise ValueError(f"{path}: frames are {size}; expected [H, W, 3] with even H and W")
                stream.height, stream.width = size[:2]
                stream.pix_fmt = "yuv420p"
                vp9 = {"crf": str(crf), "deadline": "realtime", "cpu-used": "8"}
                options = {"crf": str(crf), "preset": preset} if encoder == "libx264" else vp9
                stream.options = dict[str, object](options)
                stream.codec_context.thread_count = 1  # clips are cut in parallel processes
                stream.codec_context.time_base = time_base
            if frame.shape != size:
                raise ValueError(f"{path}: a frame is {frame.shape}, the first one was {size}")
            # OpenCV converts several times faster than libswscale, with the same BT.601 limited range
            yuv = np.asarray(cv2.cvtColor(frame, cv2.COLOR_RGB2YUV_I420), dtype=np.uint8)
            picture = av.VideoFrame.from_ndarray(yuv, format="yuv420p")
            time = next(times)
            start = time if start is None else start
            picture.pts, picture.time_base = time - start, time_base
            container.mux(stream.encode(picture))
        if size is None:
            raise ValueError(f"{path}: no frames to write")
        container.mux(stream.encode())


def _keep_frames(path: Path, wanted: Iterable[int], stop_early: bool = False) -> tuple[dict[int, np.ndarray], int]:
    """Decode a clip; return the wanted frames by index, and how many frames were decoded."""
    remaining, kept, total = set(wanted), {}, 0
    for frame in iterate_video(path):
        if total in remaining:
            kept[total] = frame.to_ndarray()
            remaining.discard(total)
        total += 1
        if stop_early and not remaining:
            break
    return kept, total


@contextmanager
def _open_video(path: Path) -> Iterator[tuple["InputContainer", "VideoStream"]]:
    import av

    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such video")
    try:
        container = av.open(str(path))
    except av.FFmpegError as error:
        raise ValueError(f"{path}: damaged video: {error.strerror}") from error
    with container:
        if not container.streams.video:
            raise ValueError(f"{path}: holds no video stream")
        stream = container.streams.video[0]
        # without it FFmpeg paints over damaged parts and says nothing
        stream.codec_context.options = {"err_detect": "explode"}
        yield container, stream


def _read_frame_folder(folder: Path, n: int, sampling: FrameSampling) -> tuple[np.ndarray, list[int]]:
    from egptlib.scenes._images import frame_files, read_image

    files = frame_files(folder)
    if not files:
        raise ValueError(f"{folder}: holds no PNG frame")
    indices = frame_indices(len(files), n, sampling)
    kept = {index: read_image(files[index]) for index in set(indices)}
    if len({frame.shape for frame in kept.values()}) > 1:
        sizes = sorted({frame.shape[:2] for frame in kept.values()})
        raise ValueError(f"{folder}: the frames differ in size (height, width): {sizes}")
    return np.stack([kept[index] for index in indices]), indices
