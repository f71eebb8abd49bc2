"""Finding what is broken before it is cut: files of events, videos, sequences of DSEC, EvQA's folder."""

from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

from egptlib.scenes._check import Problem, check_folder
from egptlib.scenes._dsec import dsec_frames, find_sequences, is_sequence
from egptlib.scenes._evqa import is_evqa, read_evqa
from egptlib.scenes._frames import Frames, Hdf5Images
from egptlib.scenes._index import INDEX_NAME
from egptlib.scenes._recording import has_frames, open_frames
from egptlib.scenes._video import video_frame_count
from egptlib.scenes.events import EventFile

_VIDEOS = {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ts", ".mts", ".mpg", ".mpeg"}


def check_scenes(path: str | PathLike[str]) -> list[Problem]:
    """Read everything that scenes come from to its end, and return what is wrong.

    Args:
        path: a dataset folder (see `check_folder`), a recording or a video, a sequence of DSEC or a folder of them, or
            EvQA's folder.
    """
    path = Path(path)
    if path.is_file():
        return list(_check_file(path))
    if is_evqa(path):
        return list(_check_evqa(path))
    if not (path / INDEX_NAME).exists() and any(map(is_sequence, [path, *path.glob("*")])):
        return [problem for sequence in find_sequences([path]) for problem in _check_sequence(sequence)]
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


def _check_evqa(root: Path) -> Iterator[Problem]:
    questions = read_evqa(root)
    while True:
        try:
            question = next(questions, None)
        except ValueError as error:  # the rest cannot be told
            yield Problem("", str(error))
            return
        if question is None:
            return
        path = question.recording
        yield from _faults(question.name, path, partial(_read_events, path))
        yield from _faults(question.name, path, partial(_read_images, path))


def _read_events(path: Path) -> None:
    with EventFile(path) as events:
        if not sum(len(part["t"]) for part in events.chunks()):
            raise ValueError(f"{path}: holds no events")


def _read_frames(frames: Frames) -> None:
    with closing(frames):
        for index in range(len(frames.times)):
            frames.read(range(index, index + 1))


def _read_images(path: Path) -> None:
    _read_frames(Hdf5Images(path))


def _faults(sample: str, path: Path, read: Callable[[], Any]) -> Iterator[Problem]:
    try:
        read()
    except (OSError, ValueError) as error:
        yield Problem(sample, str(error) if str(path) in str(error) else f"{path}: {error}")
