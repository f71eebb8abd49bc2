"""DSEC's own folder layout: writing a sequence that way, and cutting sequences into the users' dataset folder."""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from egptlib._paths import atomic_write, read_json, write_json
from egptlib._terminal import progress as show_progress
from egptlib.scenes._cutting import (
    Annotator,
    CutReport,
    cut_recording,
    cut_settings,
    finish_folder,
    is_cut,
    own_folder,
    windows,
)
from egptlib.scenes._frames import PngFrames
from egptlib.scenes._images import write_png
from egptlib.scenes.events import EventFile, Events, check_events

_EVENTS, _TIMES, _FRAMES = "events/left/events.h5", "images/timestamps.txt", "images/left/rectified"


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


def find_sequences(paths: Iterable[str | PathLike[str]]) -> list[Path]:
    """Return the DSEC sequences at `paths`, each a sequence or a folder of sequences; ValueError if one has none."""
    found: list[Path] = []
    for path in map(Path, paths):
        inside = [path] if is_sequence(path) else sorted(filter(is_sequence, path.glob("*")))
        if not inside:
            raise ValueError(f"{path}: no DSEC sequence here (expected SEQ/{_EVENTS} and SEQ/{_TIMES})")
        found += inside
    names = [path.resolve().name for path in found]
    if repeated := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"sequence names appear twice: {', '.join(sorted(repeated))}")
    return found


def is_sequence(path: Path) -> bool:
    """Whether a folder is laid out as a sequence of DSEC."""
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
        progress: show a bar.

    Raises:
        ValueError: a sequence is not in DSEC layout or damaged, or `out` was cut with other settings.
    """
    from joblib import Parallel, delayed

    found, out = find_sequences(sequences), own_folder(out)
    settings = cut_settings(window_us, views, keep_events)
    todo = [path for path in found if not is_cut(path.resolve().name, out, settings)]
    cut = partial(cut_sequence, out=out, window_us=window_us, views=views, keep_events=keep_events, annotate=annotate)
    done = Parallel(n_jobs=jobs, return_as="generator_unordered")(delayed(cut)(path) for path in todo)
    hidden = None if progress else True  # None: shown on a terminal only
    for _ in show_progress(done, total=len(todo), desc=f"cut {out.name}", unit="sequence", disable=hidden):
        pass
    return finish_folder(out, len(todo), len(found) - len(todo))


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
    sequence, out = Path(sequence), own_folder(out)
    settings = cut_settings(window_us, views, keep_events)
    frames, told = dsec_frames(sequence), sequence / "sequence.json"
    label = read_json(told).get("events", "recorded") if told.is_file() else "recorded"
    spans, name = windows(frames.times, window_us), sequence.resolve().name
    with EventFile(sequence / _EVENTS) as events:
        return cut_recording(name, events, frames, out, spans, settings, label=label, annotate=annotate)


def dsec_frames(sequence: Path) -> PngFrames:
    """Open the frames of a sequence with their times."""
    path = sequence / _TIMES
    try:
        times = np.array(path.read_text().split(), dtype=np.int64)
    except ValueError as error:
        raise ValueError(f"{path}: expected one time in microseconds a line: {error}") from error
    if len(times) == 0 or np.any(np.diff(times) <= 0):
        raise ValueError(f"{path}: expected increasing times in microseconds")
    return PngFrames(sequence / _FRAMES, times)
