"""What users give: whole numbers of Python, numpy or torch, and nothing that would be cut to one; lists of texts."""

from collections.abc import Iterable
from operator import index
from typing import Any


def whole(value: Any, name: str, least: int | None = None) -> int:
    """Return a whole number; ValueError (starting with `name`) if it is none, or below `least`."""
    try:
        number = index(value)
    except TypeError:
        raise ValueError(f"{name}: expected a whole number, found {value!r}") from None
    if least is not None and number < least:
        raise ValueError(f"{name}: expected at least {least}, found {number}")
    return number


def whole_numbers(values: Iterable[Any], name: str) -> list[int]:
    """Return whole numbers, a list, an array or a tensor of them, as a list; ValueError (starting with `name`) else."""
    values = values.tolist() if hasattr(values, "tolist") else values  # in a message: on one line
    try:
        return list(map(index, values))
    except TypeError:
        raise ValueError(f"{name}: expected a list of whole numbers, found {str(values)[:80]}") from None


def several(texts: Iterable[str], name: str) -> list[str]:
    """Return texts as a list; ValueError (starting with `name`) for one text alone, which is a list of its letters."""
    if isinstance(texts, str):
        raise ValueError(f"{name}: expected a list of texts, found one text: {texts[:80]!r}")
    return list(texts)
