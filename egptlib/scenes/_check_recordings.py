"""Finding what is broken before it is cut: files of events, videos, sequences of DSEC, folders of other datasets."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

from egptlib.scenes._check import Problem, check_folder, links_out
from egptlib.scenes._cutting import Clip
from egptlib.scenes._dsec import dsec_frames, find_sequences, is_sequence
from egptlib.scenes._eventbench import is_eventbench, read_eventbench
from egptlib.scenes._evqa import is_evqa, read_evqa
from egptlib.scenes._frames import Frames
from egptlib.scenes._index import INDEX_NAME
from egptlib.scenes._recording import has_frames, open_frames
from egptlib.scenes._talk2event import is_talk2event, read_talk2event
from egptlib.scenes._video import video_frame_count
from egptlib.scenes.events import EventFile

_VIDEOS = {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ts", ".mts", ".mpg", ".mpeg"}


def check_scenes(path: str | PathLike[str]) -> list[Problem]:
    """Read everything that scenes come from to its end, and return what is wrong; links out of a folder too.

    Args:
        path: a dataset folder (see `check_folder`), a recording or a video, a sequence of DSEC or a folder of them, or
            the folder of EvQA, Talk2Event or EventBench.
    """
    path = Path(path)
    if path.is_file():
        return list(_check_file(path))
    if read := published_reader(path):
        return [*links_out(path), *_check_clips(read(path))]
    if not (path / INDEX_NAME).exists() and any(map(is_sequence, [path, *path.glob("*")])):
        sequences = map(_check_sequence, find_sequences([path]))
        return [*links_out(path), *(problem for problems in sequences for problem in problems)]
    return check_folder(path)


def _check_file(path: Path) -> Iterator[Problem]:
    if path.suffix.lower() in _VIDEOS:
        yield from _faults("", path, lambda: video_frame_count(path))
        return
    yield from _faults("", path, lambda: _read_events(path))
    if has_frames(path):
        yield from _faults("", path, lambda: _read_frames(open_frames(path)))


def _check_sequence(sequence: Path) -> Iterator[Problem]:
    name = sequence.resolve().name
    yield from _faults(name, sequence, lambda: _read_events(sequence / "events/left/events.h5"))
    yield from _faults(name, sequence, lambda: _read_frames(dsec_frames(sequence)))


def _check_clips(clips: Iterator[Clip]) -> Iterator[Problem]:
    while True:
        try:
            clip = next(clips, None)
        except ValueError as error:  # what follows cannot be told
            yield Problem("", str(error))
            return
        if clip is None:
            return
        yield from _faults(clip.name, clip.path, partial(_read_clip, clip))


def _read_clip(clip: Clip) -> None:
    with ExitStack() as stack:
        events, frames, span = clip.open(stack)
        if not len(events.window(*span)["t"]):
            raise ValueError(f"{clip.path}: holds no events")
        _read_frames(frames)


def _read_events(path: Path) -> None:
    with EventFile(path) as events:
        if not sum(len(part["t"]) for part in events.chunks()):
            raise ValueError(f"{path}: holds no events")


def _read_frames(frames: Frames) -> None:
    with closing(frames):
        for index in range(len(frames.times)):
            frames.read(range(index, index + 1))


def _faults(sample: str, path: Path, read: Callable[[], Any]) -> Iterator[Problem]:
    try:
        read()
    except (OSError, ValueError) as error:
        yield Problem(sample, str(error) if str(path) in str(error) else f"{path}: {error}")


_READERS: dict[Callable[..., bool], Callable[..., Iterator[Clip]]] = {
    is_evqa: read_evqa,
    is_talk2event: read_talk2event,
    is_eventbench: read_eventbench,
}


def published_reader(root: str | PathLike[str]) -> Callable[..., Iterator[Clip]] | None:
    """What reads a folder as the scenes that `cut_clips` takes; None where it has no published layout."""
    return next((read for is_laid_out, read in _READERS.items() if is_laid_out(root)), None)
