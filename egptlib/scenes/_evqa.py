"""EvQA (Lou et al. 2025): a recording and a multiple-choice question each, cut into one scene each.

    questions/NAME.json               {"questions": [{dataset_name, question_id, file_path, question, choices, answer}]}
    h5_files/NAME/FILE_PATH           events/{xs,ys,ts,ps}; images/imageNNNNNNNNN with the attribute `timestamp` (us)

The layout is read from the README and the reader of the dataset's own repository.
"""

import json
from collections.abc import Iterator
from contextlib import ExitStack, closing
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

from egptlib.scenes._cutting import Clip
from egptlib.scenes._frames import Frames, Hdf5Images
from egptlib.scenes._index import relative_path
from egptlib.scenes.events import EventFile


def is_evqa(root: str | PathLike[str]) -> bool:
    """Whether a folder is laid out as EvQA."""
    return all((Path(root) / part).is_dir() for part in ("questions", "h5_files"))


def read_evqa(root: str | PathLike[str]) -> Iterator[Clip]:
    """Yield EvQA's questions, in the order of the files, each with its whole recording as one scene.

    A recording without images is set aside when it is cut, since the target would see nothing. Questions are the
    English ones.

    Args:
        root: the folder with `questions/` and `h5_files/`.

    Raises:
        FileNotFoundError: a recording is missing.
        ValueError: a file is not as described above.
    """
    root = Path(root)
    files = sorted((root / "questions").glob("*.json"))
    if not files:
        raise ValueError(f"{root}: holds no questions/*.json")
    for path in files:
        try:
            listed = json.loads(path.read_text(encoding="utf-8"))["questions"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f'{path}: expected JSON {{"questions": [...]}}: {error!r}') from error
        for number, item in enumerate(listed):
            yield _question(root, f"{path}: question {number}", item)


def _question(root: Path, where: str, item: Any) -> Clip:
    fields = ("dataset_name", "question_id", "file_path", "question", "choices", "answer")
    if not isinstance(item, dict) or not set(fields) <= item.keys():
        raise ValueError(f"{where}: expected the fields {', '.join(fields)}")
    folder, number, file, question, choices, answer = (item[field] for field in fields)
    path = root / "h5_files" / relative_path(where, "dataset_name", folder) / relative_path(where, "file_path", file)
    texts = [question, answer, *choices] if isinstance(choices, list) else [None]
    if not all(isinstance(text, str) and text.strip() for text in texts) or answer not in choices:
        raise ValueError(f"{where}: expected 'question', 'choices' and 'answer' as texts, the answer among the choices")
    entry = {"qa": [{"question": question, "answer": answer, "choices": choices}]}
    entry |= {"question_type": item["question_type"]} if "question_type" in item else {}
    return Clip(f"{folder}_{number}".replace("/", "_"), path, partial(_open, path), entry)


def _open(path: Path, stack: ExitStack) -> tuple[EventFile, Frames, tuple[int, int]]:
    events, frames = stack.enter_context(EventFile(path)), stack.enter_context(closing(Hdf5Images(path)))
    ends = [bounds[1] for bounds in (events.span(), frames.span()) if bounds]
    return events, frames, (0, max(ends, default=0) + 1)
