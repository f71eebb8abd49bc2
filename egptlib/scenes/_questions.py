"""The ten questions asked of a scene that brings none, and reading a question list."""

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from string import ascii_uppercase

from egptlib._paths import parse_json

# In the style of the questions asked most often about DSEC in the EventGPT instruction data.
QUESTIONS: tuple[str, ...] = (
    "What are the key elements in this scene?",
    "Can you elaborate on the elements of the scene provided?",
    "What is this scene about?",
    "What is the layout of the road in the scene?",
    "What type of vehicles are present in the scene and how are they positioned?",
    "What is the main activity happening in this scene?",
    "Are there any pedestrians visible in the scene?",
    "Are there any vehicles visible in the scene?",
    "How many vehicles are visible in the scene and what are their positions?",
    "What structures are visible in the background and how are they arranged?",
)


def load_questions(path: str | PathLike[str]) -> tuple[str, ...]:
    """Read the first ten questions of a list that has the most frequent first.

    Args:
        path: JSON `[{"question": ..., "count": ...}]`, or text lines `count<TAB>question`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds no questions, or an entry is not in one of these forms.
    """
    path, questions = Path(path), []
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file of questions")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not a UTF-8 text file") from error
    if text.lstrip().startswith(("[", "{")):
        entries = parse_json(text, path, nan=True)
        for number, entry in enumerate(entries if isinstance(entries, list) else [entries]):
            question = entry.get("question") if isinstance(entry, dict) else None
            if not isinstance(question, str) or not question.strip():
                raise ValueError(f'{path}: entry {number} is not {{"question": text, "count": number}}')
            questions.append(question.strip())
    else:
        for number, line in enumerate(text.splitlines(), start=1):
            count, tab, question = line.partition("\t")
            if line.strip() and not (tab and count.strip().isdigit() and question.strip()):
                raise ValueError(f"{path}: line {number} is not count<TAB>question")
            questions += [question.strip()] if line.strip() else []
    if not questions:
        raise ValueError(f"{path}: holds no questions")
    return tuple(questions[:10])


def question_tuple(questions: Sequence[str] | str | PathLike[str] | None) -> tuple[str, ...] | None:
    """Return questions given as texts, or as a file of them, as texts; ValueError if they are not."""
    if questions is None:
        return None
    asked = load_questions(questions) if isinstance(questions, str | PathLike) else tuple(questions)
    if not asked or not all(isinstance(question, str) and question.strip() for question in asked):
        raise ValueError(f"questions {asked!r}: expected texts")
    return asked


def ask_choice(question: str, choices: Sequence[str]) -> str:
    """Return a multiple-choice question as it is put to a model, with lettered options (EvQA's reader words it so)."""
    return "\n".join([question, *map(choice_text, range(len(choices)), choices), "Only give the best option."])


def choice_text(index: int, choice: str) -> str:
    """Return option `index` with its letter: "(B) a car"."""
    return f"({ascii_uppercase[index]}) {choice}"
