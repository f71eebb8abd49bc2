"""Finding every broken sample of a dataset folder, and what is broken before it is cut: recordings of all datasets."""

import os
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

from egptlib._terminal import progress as show_progress
from egptlib.scenes._cutting import Clip
from egptlib.scenes._dsec import dsec_frames, find_sequences, is_sequence
from egptlib.scenes._frames import Frames
from egptlib.scenes._images import frame_files, read_image
from egptlib.scenes._index import INDEX_NAME, Record, parse_entry, read_entries
from egptlib.scenes._recording import has_frames, open_frames, published_reader
from egptlib.scenes._video import video_frame_count
from egptlib.scenes.events import EventFile


@dataclass(frozen=True)
class Problem:
    """One fault: the sample's id ("" for the index as a whole) and what is wrong, file included."""

    sample: str
    message: str

    def __str__(self) -> str:
        return f"{self.sample}: {self.message}" if self.sample else self.message


def check_folder(folder: str | PathLike[str], progress: bool = True) -> list[Problem]:
    """Read every file of a dataset folder and return what is wrong, in the order of the index.

    A sample needs a source of event pictures (`event_image/`, `event_image_1f/` or `event_npy/`) and one of frames
    (`mp4/` or `video/`). Every file that exists is read to its end. Where the folder has `event_image/`,
    `event_image_1f/` or `mp4/` at all, every sample must be in it; `event_npy/` and `video/` may hold some
    sequences only. A link that leads out of the folder is told: a copy of the folder would lack what it leads to, and
    somebody else's could lead anywhere.
    """
    root = Path(folder)
    try:
        entries = read_entries(root)
    except (OSError, ValueError) as error:
        return [Problem("", str(error))]
    if not entries:
        return [Problem("", f"{root / INDEX_NAME}: lists no samples")]

    def check(numbered: tuple[int, Any]) -> list[Problem]:
        number, entry = numbered
        try:
            record = parse_entry(root, number, entry)
        except ValueError as error:
            named = entry.get("id") or entry.get("event_data") if isinstance(entry, dict) else None
            return [Problem(str(named or f"entry {number}"), str(error))]
        return [Problem(record.id, message) for message in _check_sample(root, record)]

    ids = Counter(str(entry["id"]) for entry in entries if isinstance(entry, dict) and "id" in entry)
    repeated = (Problem(id, f"{root / INDEX_NAME}: {n} entries have this id") for id, n in ids.items() if n > 1)
    problems = [*links_out(root), *repeated]
    with ThreadPoolExecutor(2) as pool:
        found = pool.map(check, enumerate(entries))
        hidden = None if progress else True  # None: shown on a terminal only
        for faults in show_progress(
            found, total=len(entries), desc=f"check {root.name}", unit="sample", disable=hidden
        ):
            problems += faults
    return problems


def links_out(root: Path) -> Iterator[Problem]:
    """Every link below a folder that leads out of it."""
    inside = root.resolve()
    for folder, folders, files in os.walk(root):
        for path in (Path(folder, name) for name in sorted(folders + files)):
            if path.is_symlink() and not (leads_to := Path(os.path.realpath(path))).is_relative_to(inside):
                yield Problem("", f"{path}: a link that leads out of the folder, to {leads_to}")


def _check_sample(root: Path, record: Record) -> Iterator[str]:
    for text in (record.id, *record.questions, *record.answers, *sum(record.choices, ())):
        try:
            (text or "").encode()
        except UnicodeEncodeError as error:
            yield f"{root / INDEX_NAME}: {text!r} is no valid Unicode ({error.reason})"
    frames = frame_files(record.frames_path)
    sources = [*record.image_paths, record.image_1f_path, record.event_path]
    if not any(path.is_file() for path in sources):
        yield f"no event pictures and no events; looked for {', '.join(map(str, sources))}"
    if not (record.mp4_path.is_file() or frames):
        yield f"no video; looked for {record.mp4_path} and {record.frames_path}/*.png"

    whole_parts = {part: (root / part).is_dir() for part in ("event_image", "event_image_1f", "mp4")}
    for path in record.image_paths:
        yield from fault(read_image, path, required=whole_parts["event_image"])
    yield from fault(read_image, record.image_1f_path, required=whole_parts["event_image_1f"])
    yield from fault(read_recording, record.event_path, required=record.event_path.parent.is_dir())
    yield from fault(video_frame_count, record.mp4_path, required=whole_parts["mp4"] and bool(frames))
    if record.mp4_path.is_file() and not frames and record.frames_path.parent.is_dir():
        yield f"{record.frames_path}: holds no PNG frame"
    sizes: set[tuple[int, ...]] = set()
    for path in frames:
        yield from fault(lambda path: sizes.add(read_image(path).shape[:2]), path)
    if len(sizes) > 1:
        yield f"{record.frames_path}: the frames differ in size (height, width): {sorted(sizes)}"


def read_recording(path: Path) -> None:
    """Read all events of a recording; ValueError where there are none."""
    with EventFile(path) as events:
        if not sum(len(part["t"]) for part in events.chunks()):
            raise ValueError(f"{path}: holds no events")


def fault(read: Callable[[Path], Any], path: Path, required: bool = True) -> Iterator[str]:
    """Yield the error that reading `path` gives, if it gives one; a file that is not required may be missing."""
    if not (required or path.is_file()):
        return
    try:
        read(path)
    except (OSError, ValueError) as error:
        yield str(error) if str(path) in str(error) else f"{path}: {error}"


_VIDEOS = {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ts", ".mts", ".mpg", ".mpeg"}


def check_scenes(path: str | PathLike[str]) -> list[Problem]:
    """Read everything that scenes come from to its end, and return what is wrong; links out of a folder too.

    Args:
        path: a dataset folder (see `check_folder`), a recording or a video, a sequence of DSEC or a folder of them, or
            the folder of EvQA, Talk2Event or EventBench.
    """
    path = Path(path)
    if path.is_file():
        if path.suffix.lower() in _VIDEOS:
            return _problems("", path, video_frame_count)
        frames = _problems("", path, lambda path: _read_frames(open_frames(path))) if has_frames(path) else []
        return _problems("", path, read_recording) + frames
    if read := published_reader(path):
        return [*links_out(path), *_check_clips(read(path))]
    if not (path / INDEX_NAME).exists() and any(map(is_sequence, [path, *path.glob("*")])):
        problems = [*links_out(path)]
        for sequence in find_sequences([path]):
            name = sequence.resolve().name
            problems += _problems(name, sequence, lambda sequence: read_recording(sequence / "events/left/events.h5"))
            problems += _problems(name, sequence, lambda sequence: _read_frames(dsec_frames(sequence)))
        return problems
    return check_folder(path)


def _check_clips(clips: Iterator[Clip]) -> Iterator[Problem]:
    try:
        for clip in clips:
            yield from _problems(clip.name, clip.path, partial(_read_clip, clip))
    except ValueError as error:  # what follows cannot be told
        yield Problem("", str(error))


def _read_clip(clip: Clip, path: Path) -> None:
    with ExitStack() as stack:
        events, frames, span = clip.open(stack)
        if not len(events.window(*span)["t"]):
            raise ValueError(f"{path}: holds no events")
        _read_frames(frames)


def _read_frames(frames: Frames) -> None:
    with closing(frames):
        for index in range(len(frames.times)):
            frames.read(range(index, index + 1))


def _problems(sample: str, path: Path, read: Callable[[Path], Any]) -> list[Problem]:
    return [Problem(sample, message) for message in fault(read, path)]
