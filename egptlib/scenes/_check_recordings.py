"""Finding what is broken before it is cut: files of events, videos, sequences of DSEC, folders of other datasets."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

from egptlib.scenes._check import Problem, check_folder, fault, links_out, read_recording
from egptlib.scenes._cutting import Clip
from egptlib.scenes._dsec import dsec_frames, find_sequences, is_sequence
from egptlib.scenes._eventbench import is_eventbench, read_eventbench
from egptlib.scenes._evqa import is_evqa, read_evqa
from egptlib.scenes._frames import Frames
from egptlib.scenes._index import INDEX_NAME
from egptlib.scenes._recording import has_frames, open_frames
from egptlib.scenes._talk2event import is_talk2event, read_talk2event
from egptlib.scenes._video import video_frame_count

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


_READERS: dict[Callable[..., bool], Callable[..., Iterator[Clip]]] = {
    is_evqa: read_evqa,
    is_talk2event: read_talk2event,
    is_eventbench: read_eventbench,
}


def published_reader(root: str | PathLike[str]) -> Callable[..., Iterator[Clip]] | None:
    """What reads a folder as the scenes that `cut_clips` takes; None where it has no published layout."""
    return next((read for is_laid_out, read in _READERS.items() if is_laid_out(root)), None)
