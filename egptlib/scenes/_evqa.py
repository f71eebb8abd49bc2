"""EvQA (Lou et al. 2025): a recording and a multiple-choice question each, cut into one scene each.

    questions/NAME.json               {"questions": [{dataset_name, question_id, file_path, question, choices, answer}]}
    h5_files/NAME/FILE_PATH           events/{xs,ys,ts,ps}; images/imageNNNNNNNNN with the attribute `timestamp` (us)

The layout is read from the README and the reader of the dataset's own repository.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from egptlib.scenes._cutting import CutReport, always, cut_recording, cut_settings, finish_folder, is_cut, own_folder
from egptlib.scenes._frames import Hdf5Images
from egptlib.scenes.events import EventFile


class EvqaQuestion(NamedTuple):
    """One question: the name of its scene, its recording, and what the dataset folder says about it."""

    name: str
    recording: Path
    entry: dict[str, Any]


def is_evqa(root: str | PathLike[str]) -> bool:
    """Whether a folder is laid out as EvQA."""
    return all((Path(root) / part).is_dir() for part in ("questions", "h5_files"))


def make_evqa(
    root: str | PathLike[str],
    out: str | PathLike[str],
    *,
    views: Sequence[int] = (5, 1),
    keep_events: bool = False,
    progress: bool = True,
) -> CutReport:
    """Make a dataset folder of EvQA's questions, each with its whole recording as one scene.

    A recording without images is set aside by name, since the target would see nothing. Questions are the English ones.

    Args:
        root: the folder with `questions/` and `h5_files/`.
        out, views, keep_events: as of `make_scenes`.

    Raises:
        FileNotFoundError: a recording is missing.
        ValueError: a file is not as described above, or `out` was cut with other settings.
    """
    out, cut, skipped = own_folder(out), 0, 0
    hidden = None if progress else True  # None: shown on a terminal only
    for question in tqdm(read_evqa(root), desc=f"cut {out.name}", unit="question", disable=hidden):
        with ExitStack() as stack:
            events = stack.enter_context(EventFile(question.recording))
            settings = cut_settings(0, views, keep_events)
            settings |= {"recording": [question.recording.name, question.recording.stat().st_size], **question.entry}
            if is_cut(question.name, out, settings):
                skipped += 1
                continue
            frames = stack.enter_context(closing(Hdf5Images(question.recording)))
            last = [bounds[1] for bounds in (events.span(), frames.span()) if bounds]
            spans = [(0, max(last, default=0) + 1)]
            annotate = always(question.entry)
            cut_recording(question.name, events, frames, out, spans, settings, annotate=annotate)
            cut += 1
    return finish_folder(out, cut, skipped)


def read_evqa(root: str | PathLike[str]) -> Iterator[EvqaQuestion]:
    """Yield the questions, in the order of the files; errors as of `make_evqa`."""
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


def _question(root: Path, where: str, item: Any) -> EvqaQuestion:
    fields = ("dataset_name", "question_id", "file_path", "question", "choices", "answer")
    if not isinstance(item, dict) or not set(fields) <= item.keys():
        raise ValueError(f"{where}: expected the fields {', '.join(fields)}")
    folder, number, file, question, choices, answer = (item[field] for field in fields)
    name = f"{folder}_{number}"
    recording = (root / "h5_files" / str(folder) / str(file)).resolve()
    if not recording.is_relative_to((root / "h5_files").resolve()) or "/" in name:
        raise ValueError(f"{where}: 'file_path' {file!r} of {name!r} leaves h5_files/")
    texts = [question, answer, *choices] if isinstance(choices, list) else [None]
    if not all(isinstance(text, str) and text.strip() for text in texts) or answer not in choices:
        raise ValueError(f"{where}: expected 'question', 'choices' and 'answer' as texts, the answer among the choices")
    kind = {"question_type": item["question_type"]} if "question_type" in item else {}
    return EvqaQuestion(name, recording, {"qa": [{"question": question, "answer": answer, "choices": choices}], **kind})
