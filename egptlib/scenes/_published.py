"""Datasets that are opened in the layout they are published in, each by what reads it."""

from collections.abc import Callable, Iterator
from os import PathLike

from egptlib.scenes._cutting import Clip
from egptlib.scenes._eventbench import is_eventbench, read_eventbench
from egptlib.scenes._evqa import is_evqa, read_evqa
from egptlib.scenes._talk2event import is_talk2event, read_talk2event

_READERS: dict[Callable[..., bool], Callable[..., Iterator[Clip]]] = {
    is_evqa: read_evqa,
    is_talk2event: read_talk2event,
    is_eventbench: read_eventbench,
}


def published_reader(root: str | PathLike[str]) -> Callable[..., Iterator[Clip]] | None:
    """What reads a folder as the scenes that `cut_clips` takes; None where it has no published layout."""
    return next((read for is_laid_out, read in _READERS.items() if is_laid_out(root)), None)
