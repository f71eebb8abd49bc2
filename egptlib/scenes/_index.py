"""The JSON of a dataset folder: one record a sample, missing keys derived, paths kept inside the folder."""

from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path, PurePosixPath
from typing import Any

from egptlib._paths import parse_json
from egptlib.scenes._questions import ask_choice, choice_text

INDEX_NAME = "EventGPT_Instruction_Subset.json"
_KNOWN = {"id", "event_data", "video_data", "mp4_data", "event_image", "event_image_1f", "conversations", "qa"}


@dataclass(frozen=True)
class Record:
    """One sample as the JSON describes it; the files need not exist.

    `answers[i]` and `choices[i]` belong to `questions[i]`; None where the JSON has a question but no answer, and empty
    where it gives no options.
    """

    id: str
    sequence: str
    event_path: Path
    image_paths: tuple[Path, ...]  # in equal event counts, see `event_images`
    image_1f_path: Path
    mp4_path: Path
    frames_path: Path  # folder of PNG frames
    questions: tuple[str, ...] = ()
    answers: tuple[str | None, ...] = ()
    choices: tuple[tuple[str, ...], ...] = ()
    extra: dict[str, Any] = field(default_factory=dict)  # keys of the entry not used above


def read_index(root: str | PathLike[str]) -> list[Record]:
    """Read the records of a dataset folder, in the order of its JSON.

    Raises:
        FileNotFoundError: no such folder, or no `EventGPT_Instruction_Subset.json` in it.
        ValueError: the JSON is damaged, or an entry is not as described in data/README.md.
    """
    entries = read_entries(root)
    return [parse_entry(Path(root), number, entry) for number, entry in enumerate(entries)]


def read_entries(root: str | PathLike[str]) -> list[Any]:
    """Read the JSON list of a dataset folder without looking at its entries (errors as in `read_index`)."""
    path = Path(root) / INDEX_NAME
    if not Path(root).is_dir():
        raise FileNotFoundError(f"{root}: no such dataset folder")
    if not path.is_file():
        raise FileNotFoundError(f"{root}: not a dataset folder: {INDEX_NAME} is missing")
    entries = parse_json(path.read_bytes(), path, nan=True)
    if not isinstance(entries, list):
        raise ValueError(f"{path}: expected a list of samples, found {type(entries).__name__}")
    return entries


def parse_entry(root: Path, number: int, entry: Any) -> Record:
    """Turn entry `number` of the JSON into a record; everything but "event_data" may be missing."""
    where = f"{root / INDEX_NAME}: entry {number}"
    if not isinstance(entry, dict):
        raise ValueError(f"{where}: expected an object, found {type(entry).__name__}")
    if "event_data" not in entry:
        raise ValueError(f"{where}: 'event_data' is missing (the other paths are derived from it)")
    event_data = relative_path(where, "event_data", entry["event_data"])
    stem = event_data.with_suffix("")
    views = _name_list(where, entry, "event_image", [f"{stem}_{view}.png" for view in range(5)])
    single = _name_list(where, entry, "event_image_1f", [f"{stem}_0.png"])
    if len(single) != 1:
        raise ValueError(f"{where}: 'event_image_1f' has {len(single)} names; expected one")
    mp4 = relative_path(where, "mp4_data", entry.get("mp4_data", f"{stem}.mp4"))
    video = relative_path(where, "video_data", entry.get("video_data", str(stem)))
    questions, answers, choices = parse_questions(where, entry)
    parent = event_data.parent.as_posix()
    return Record(
        id=str(entry.get("id", stem)),
        # an entry without a sequence folder (the published EventGPT data) stands for itself
        sequence=str(entry.get("sequence", stem.as_posix() if parent == "." else parent)),
        event_path=root / "event_npy" / event_data,
        image_paths=tuple(root / "event_image" / name for name in views),
        image_1f_path=root / "event_image_1f" / single[0],
        mp4_path=root / "mp4" / mp4,
        frames_path=root / "video" / video,
        questions=tuple(questions),
        answers=tuple(answers),
        choices=tuple(choices),
        extra={key: value for key, value in entry.items() if key not in _KNOWN},
    )


def relative_path(where: str, key: str, value: Any) -> PurePosixPath:
    """Check that a path of the JSON stays inside the folder it is relative to."""
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{where}: {key!r} is {value!r}; expected a relative path")
    path = PurePosixPath(value)
    if path.is_absolute() or ".." in path.parts or "\\" in value or ":" in path.parts[0] or "\0" in value:
        raise ValueError(f"{where}: {key!r} is {value!r}; only paths inside the dataset folder are opened")
    if not value.isprintable():  # a lone surrogate, a newline
        raise ValueError(f"{where}: {key!r} is {value!r}; expected text that can be a name")
    return path


def _name_list(where: str, entry: dict[str, Any], key: str, derived: list[str]) -> list[PurePosixPath]:
    names = entry.get(key, derived)
    if not isinstance(names, list) or not names:
        raise ValueError(f"{where}: {key!r} is {names!r}; expected a list of relative paths")
    return [relative_path(where, key, name) for name in names]


def parse_questions(where: str, entry: dict[str, Any]) -> tuple[list[str], list[str | None], list[tuple[str, ...]]]:
    """Collect questions, answers and options from "qa", else from "conversations"; empty turns do not count."""
    questions: list[str] = []
    answers: list[str | None] = []
    choices: list[tuple[str, ...]] = []
    try:
        for pair in entry.get("qa") or []:
            question, answer = pair["question"].strip(), pair["answer"].strip() if pair.get("answer") else None
            options = tuple(option.strip() for option in pair.get("choices") or ())
            if options:
                question, answer = _lettered(f"{where}: {question!r}", question, answer, options)
            questions.append(question)
            answers.append(answer)
            choices.append(options)
        for turn in () if questions else entry.get("conversations") or []:
            text = turn["value"].replace("<event>", "").strip()
            if turn["from"] == "human" and text:
                questions.append(text)
                answers.append(None)
                choices.append(())
            elif turn["from"] == "gpt" and text and questions:
                answers[-1] = text
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{where}: 'qa' must list {{question, answer}} and 'conversations' {{from, value}} (text): {error!r}"
        ) from error
    return questions, answers, choices


def _lettered(where: str, question: str, answer: str | None, options: tuple[str, ...]) -> tuple[str, str | None]:
    """Return a multiple-choice question and its answer as they are put to a model."""
    if not 2 <= len(set(options)) == len(options) <= 26 or not all(options):
        raise ValueError(f"{where}: 'choices' are {list(options)}; expected 2 to 26 different texts")
    if answer is None:
        return ask_choice(question, options), None
    if answer not in options:
        raise ValueError(f"{where}: 'answer' is {answer!r}, none of 'choices' {list(options)}")
    return ask_choice(question, options), choice_text(options.index(answer), answer)
