"""DSEC's own folder layout: writing a sequence that way, and cutting sequences into the users' dataset folder."""

import json
import re
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from egptlib._paths import atomic_write, write_json
from egptlib.scenes._images import frame_files, read_frame, write_png
from egptlib.scenes._index import INDEX_NAME
from egptlib.scenes._rendering import event_images
from egptlib.scenes._video import write_video
from egptlib.scenes.events import EventFile, Events, check_events, save_events

_PARTS = ".cut"  # one JSON a finished sequence: what resuming looks at and the index is merged from
_EVENTS, _TIMES, _FRAMES = "events/left/events.h5", "images/timestamps.txt", "images/left/rectified"

# (sequence name, window start, window stop in microseconds) -> further keys of that window's JSON entry
Annotator = Callable[[str, int, int], dict[str, Any]]


def write_dsec_sequence(
    folder: str | PathLike[str],
    events: Mapping[str, np.ndarray],
    frames: Iterable[np.ndarray],
    timestamps_us: Sequence[int] | np.ndarray,
    *,
    metadata: dict[str, Any] | None = None,
    png_level: int = 1,
) -> Path:
    """Write a recording the way DSEC stores a sequence.

    `events/left/events.h5` (x, y, t, p, ms_to_idx, t_offset; blosc), `images/timestamps.txt` (microseconds, one a
    line) and `images/left/rectified/NNNNNN.png`. The events file is written last: a sequence that has it is complete.

    Args:
        folder: the sequence's folder; its name is the sequence's name.
        events: sorted by t, on the clock of `timestamps_us`; may be empty.
        frames: uint8 [H, W, 3] RGB, taken one by one.
        timestamps_us: one time a frame, increasing.
        metadata: written to `sequence.json`; `{"events": "simulated"}` labels every window cut from it.
        png_level: 1 compresses, 0 stores the pixels: for sequences that are removed once they are cut.

    Raises:
        ValueError: unsorted events or timestamps, events more than 71 minutes apart, or frames and timestamps
            differ in number.
    """
    folder = Path(folder)
    times = np.asarray(timestamps_us, dtype=np.int64)
    stream = check_events(events, str(folder))
    if len(times) == 0 or np.any(np.diff(times) <= 0):
        raise ValueError(f"{folder}: timestamps_us must be increasing and not empty")
    if np.any(np.diff(stream["t"]) < 0):
        raise ValueError(f"{folder}: events must be sorted by t")
    images = folder / _FRAMES
    images.mkdir(parents=True, exist_ok=True)
    written = 0
    for frame in frames:
        write_png(images / f"{written:06d}.png", frame, level=png_level)
        written += 1
    if written != len(times):
        raise ValueError(f"{folder}: {written} frames but {len(times)} timestamps")
    (folder / _TIMES).write_text("".join(f"{time}\n" for time in times.tolist()))
    if metadata:
        write_json(folder / "sequence.json", metadata)
    _write_events(folder / _EVENTS, stream, t_offset=int(min([times[0], *stream["t"][:1]])))
    return folder


def _write_events(path: Path, events: Events, t_offset: int) -> None:
    import h5py
    import hdf5plugin

    count = len(events["t"])
    t = events["t"] - t_offset
    if count and t[-1] > np.iinfo(np.uint32).max:
        raise ValueError(f"{path}: events span {t[-1] / 1e6:.0f} s; DSEC stores t in 32 bits")
    milliseconds = int(t[-1]) // 1000 + 2 if count else 1
    blosc = hdf5plugin.Blosc(cname="lz4", clevel=1, shuffle=hdf5plugin.Blosc.SHUFFLE)
    options = dict(chunks=(min(count, 1 << 18),), compression=blosc) if count else {}
    with atomic_write(path) as temporary, h5py.File(temporary, "w") as file:
        for name, values in (("x", events["x"]), ("y", events["y"]), ("t", t.astype(np.uint32)), ("p", events["p"])):
            file.create_dataset(f"events/{name}", data=values, **options)
        file["ms_to_idx"] = np.searchsorted(t, np.arange(milliseconds) * 1000, side="left").astype(np.uint64)
        file["t_offset"] = np.int64(t_offset)


@dataclass(frozen=True)
class CutReport:
    """What `cut_dsec` did; `samples` counts the whole folder.

    `set_aside` names windows without frames, or with fewer events than pictures to draw.
    """

    folder: Path
    samples: int
    sequences_cut: int
    sequences_skipped: int
    set_aside: tuple[str, ...]


def parse_window(text: str) -> int:
    """Return "1s", "500ms", "250000us" as microseconds; ValueError for anything else."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|ms|us)", text.strip())
    window_us = round(float(match[1]) * {"s": 1_000_000, "ms": 1000, "us": 1}[match[2]]) if match else 0
    if window_us < 2:
        raise ValueError(f"window {text!r} is not a duration such as 1s or 500ms")
    return window_us


def find_sequences(paths: Iterable[str | PathLike[str]]) -> list[Path]:
    """Return the DSEC sequences at `paths`, each a sequence or a folder of sequences; ValueError if one has none."""
    found: list[Path] = []
    for path in map(Path, paths):
        inside = [path] if _is_sequence(path) else sorted(filter(_is_sequence, path.glob("*")))
        if not inside:
            raise ValueError(f"{path}: no DSEC sequence here (expected SEQ/{_EVENTS} and SEQ/{_TIMES})")
        found += inside
    names = [path.resolve().name for path in found]
    if repeated := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"sequence names appear twice: {', '.join(sorted(repeated))}")
    return found


def _is_sequence(path: Path) -> bool:
    return (path / _EVENTS).is_file() and (path / _TIMES).is_file()


def cut_dsec(
    sequences: Iterable[str | PathLike[str]],
    out: str | PathLike[str],
    *,
    window_us: int = 1_000_000,
    views: Sequence[int] = (5, 1),
    keep_events: bool = False,
    annotate: Annotator | None = None,
    jobs: int = 1,
    progress: bool = True,
) -> CutReport:
    """Cut DSEC sequences into overlapping windows, as the dataset folder that `open_scenes` opens.

    Windows start at the first image time and overlap by half; one counts when it ends no later than the last image
    time plus one frame period. A window's events are exactly those with t in [start, stop), raw (no rectification).
    Windows without frames, or with fewer events than pictures to draw, are set aside. `out` can be extended: a
    sequence already there is skipped, and the index, written last, lists them all.

    Args:
        sequences: folders in DSEC layout, or folders of such folders.
        out: the dataset folder; its name becomes the entries' "split".
        window_us: length of a window in microseconds.
        views: event pictures a window: 5 writes `event_image/`, 1 writes `event_image_1f/`.
        keep_events: also write `event_npy/` (about 175 MB for one second of DSEC).
        annotate: gives further keys of a window's entry, for example "qa".
        jobs: processes, one sequence each.

    Raises:
        ValueError: a sequence is not in DSEC layout or damaged, or `out` was cut with other settings.
    """
    from joblib import Parallel, delayed
    from tqdm import tqdm

    found, out = find_sequences(sequences), _own_folder(out)
    is_done = partial(is_cut, out=out, window_us=window_us, views=views, keep_events=keep_events)
    todo = [path for path in found if not is_done(path.resolve().name)]
    cut = partial(cut_sequence, out=out, window_us=window_us, views=views, keep_events=keep_events, annotate=annotate)
    done = Parallel(n_jobs=jobs, return_as="generator_unordered")(delayed(cut)(path) for path in todo)
    hidden = None if progress else True  # None: shown on a terminal only
    for _ in tqdm(done, total=len(todo), desc=f"cut {out.name}", unit="sequence", disable=hidden):
        pass
    samples = write_index(out)
    aside = tuple(name for part in _parts(out) for name in part["set_aside"])
    return CutReport(out, samples, len(todo), len(found) - len(todo), aside)


def cut_sequence(
    sequence: str | PathLike[str],
    out: str | PathLike[str],
    *,
    window_us: int = 1_000_000,
    views: Sequence[int] = (5, 1),
    keep_events: bool = False,
    annotate: Annotator | None = None,
) -> int:
    """Cut one sequence into `out` (see `cut_dsec`) and return its number of samples; call `write_index` at the end."""
    sequence, out = Path(sequence), _own_folder(out)
    name = sequence.resolve().name
    settings = _settings(window_us, views, keep_events)
    for folder in ("event_image", "event_image_1f", "mp4", "event_npy"):
        shutil.rmtree(out / folder / name, ignore_errors=True)  # what an interrupted cut left
    times = _read_timestamps(sequence / _TIMES)
    frames = _FrameReader(sequence / _FRAMES, len(times))
    label = _sequence_metadata(sequence).get("events", "recorded")
    samples, set_aside = [], []
    with EventFile(sequence / _EVENTS) as file:
        for number, (start, stop) in enumerate(windows(times, window_us)):
            stem = f"{name}/{number:06d}"
            events, indices = file.window(start, stop), _frames_inside(times, start, stop)
            if len(events["t"]) < max(views, default=0) or not indices:
                set_aside.append(stem)
                continue
            _write_pictures(out, stem, events, views)
            _write_clip(out / "mp4" / f"{stem}.mp4", frames.read(indices), times[indices])
            if keep_events:
                save_events(out / "event_npy" / f"{stem}.npy", events, **_npy_extras(start, stop, times, indices))
            entry = _entry(out.name, stem, views) | {"sequence": name, "events": label}
            entry |= {"event_order": "last", "start_us": start, "stop_us": stop, "num_events": len(events["t"])}
            samples.append(entry | (annotate(name, start, stop) if annotate else {}))
    write_json(out / _PARTS / f"{name}.json", {"settings": settings, "samples": samples, "set_aside": set_aside})
    return len(samples)


def windows(times: np.ndarray, window_us: int) -> list[tuple[int, int]]:
    """Return the full windows [start, stop) of a recording with these image times, overlapping by half."""
    if len(times) < 2:
        return []
    end = int(times[-1]) + round(float(np.median(np.diff(times))))
    starts = range(int(times[0]), end - window_us + 1, window_us // 2)
    return [(start, start + window_us) for start in starts]


def is_cut(
    name: str, out: str | PathLike[str], *, window_us: int, views: Sequence[int] = (5, 1), keep_events: bool = False
) -> bool:
    """Tell whether sequence `name` is complete in `out`; ValueError when it was cut with other settings."""
    path = Path(out) / _PARTS / f"{name}.json"
    if not path.is_file():
        return False
    before, now = json.loads(path.read_text())["settings"], _settings(window_us, views, keep_events)
    if before != now:
        raise ValueError(f"{out}: sequence {name} was cut with {before}, not {now}; choose another folder")
    return True


def write_index(out: str | PathLike[str]) -> int:
    """Write the dataset's JSON from the sequences cut so far, sorted by event path; return the number of samples."""
    out = _own_folder(out)
    samples = [sample for part in _parts(out) for sample in part["samples"]]
    write_json(out / INDEX_NAME, sorted(samples, key=lambda sample: sample["event_data"]))
    return len(samples)


def _own_folder(out: str | PathLike[str]) -> Path:
    """Return `out` as a path; ValueError when it is a dataset folder that was made elsewhere."""
    out = Path(out)
    if (out / INDEX_NAME).is_file() and not (out / _PARTS).is_dir():
        raise ValueError(f"{out}: holds a dataset that was not made by cut-dsec; choose another folder")
    return out


def _parts(out: Path) -> Iterator[dict[str, Any]]:
    for path in sorted((out / _PARTS).glob("*.json")):
        yield json.loads(path.read_text())


def _settings(window_us: int, views: Sequence[int], keep_events: bool) -> dict[str, Any]:
    if not set(views) <= {1, 5}:
        raise ValueError(f"views {list(views)}: a dataset folder has places for 1 and 5 event pictures only")
    return {"window_us": window_us, "views": sorted(views), "keep_events": keep_events}


def _read_timestamps(path: Path) -> np.ndarray:
    try:
        times = np.array(path.read_text().split(), dtype=np.int64)
    except ValueError as error:
        raise ValueError(f"{path}: expected one time in microseconds a line: {error}") from error
    if len(times) == 0 or np.any(np.diff(times) <= 0):
        raise ValueError(f"{path}: expected increasing times in microseconds")
    return times


def _sequence_metadata(sequence: Path) -> dict[str, Any]:
    path = sequence / "sequence.json"
    return json.loads(path.read_text()) if path.is_file() else {}


def _frames_inside(times: np.ndarray, start: int, stop: int) -> range:
    """Return the indices of the frames of [start, stop).

    The bounds are moved by a tenth of a frame period, so that a jitter of microseconds in the image clock does not
    give 19 frames in one window and 21 in the next.
    """
    slack = float(np.median(np.diff(times))) / 10
    first, last = np.searchsorted(times, [start - slack, stop - slack], side="left")
    return range(int(first), int(last))


class _FrameReader:
    """The frames of a sequence; keeps those of the last window, since half of them come again."""

    def __init__(self, folder: Path, expected: int) -> None:
        self._files = frame_files(folder)
        self._kept: dict[int, np.ndarray] = {}
        self._shape: tuple[int, ...] = ()
        if len(self._files) != expected:
            raise ValueError(f"{folder}: {len(self._files)} PNG frames but {expected} timestamps")

    def read(self, indices: range) -> list[np.ndarray]:
        self._kept = {i: self._kept[i] if i in self._kept else self._read(self._files[i]) for i in indices}
        return list(self._kept.values())

    def _read(self, path: Path) -> np.ndarray:
        frame = read_frame(path)
        self._shape = self._shape or frame.shape
        if frame.shape != self._shape:
            raise ValueError(f"{path}: is {frame.shape}, the frames before it are {self._shape}")
        return frame


def _write_pictures(out: Path, stem: str, events: Events, views: Sequence[int]) -> None:
    for n in views:
        for number, image in enumerate(event_images(events, n)):
            path = out / ("event_image_1f" if n == 1 else "event_image") / f"{stem}_{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_png(path, image, flat=True)


def _write_clip(path: Path, frames: list[np.ndarray], times: np.ndarray) -> None:
    """Write a window's clip: at a whole frame rate where the frames are evenly spaced, else at their own times."""
    gaps = np.diff(times)
    period = float(np.median(gaps)) if len(gaps) else 50_000.0
    even = bool(np.all(np.abs(gaps - period) < 0.1 * period))
    fps = max(1, round(1e6 / period))
    height, width = (side & ~1 for side in frames[0].shape[:2])  # H.264 has no odd sides: the last row or column goes
    frames = [frame[:height, :width] for frame in frames]
    write_video(path, frames, fps=fps, timestamps_us=None if even else times)


def _npy_extras(start: int, stop: int, times: np.ndarray, indices: range) -> dict[str, Any]:
    return {
        "time_start": start,
        "time_end": stop,
        "duration_ms": (stop - start) / 1000,
        "image_timestamp": int(times[indices[0]]),
        "image_idx": indices[0],
        "image_indices_in_clip": list(indices),
    }


def _entry(split: str, stem: str, views: Sequence[int]) -> dict[str, Any]:
    """Return the keys that every entry of the users' JSON has."""
    entry: dict[str, Any] = {
        "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"egptlib/{split}/{stem}")),
        "split": split,
        "event_data": f"{stem}.npy",
        "video_data": stem,
        "mp4_data": f"{stem}.mp4",
    }
    if 5 in views:
        entry["event_image"] = [f"{stem}_{number}.png" for number in range(5)]
    if 1 in views:
        entry["event_image_1f"] = [f"{stem}_0.png"]
    entry["conversations"] = [{"from": "human", "value": ""}, {"from": "gpt", "value": ""}]
    return entry
