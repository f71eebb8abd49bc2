"""What users give: whole numbers, and nothing that would be cut to one; numbers of an interval; lists of texts."""

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


def number(value: Any, name: str, interval: str) -> float:
    """Return a number in an interval such as "(0, 1]"; ValueError (starting with `name`) if it is none."""
    low, high = map(float, interval[1:-1].split(","))
    try:
        inside = low < value < high or (value == low and interval[0] == "[") or (value == high and interval[-1] == "]")
    except TypeError:
        inside = False
    if not inside:
        raise ValueError(f"{name}: expected a number in {interval}, found {value!r}")
    return float(value)


def check_fields(settings: object, kind: str, **expected: int | str | None) -> None:
    """Keep fields of a frozen dataclass as plain numbers.

    Args:
        kind: what an error's line begins with, before the name of a field.
        expected: by field, the least of whole numbers (None: any), or an interval as `number` takes it.
    """
    for name, each in expected.items():
        value, told = getattr(settings, name), f"{kind} {name}"
        plain = number(value, told, each) if isinstance(each, str) else whole(value, told, each)
        object.__setattr__(settings, name, plain)


def several(texts: Iterable[str], name: str) -> list[str]:
    """Return texts as a list; ValueError (starting with `name`) for one text alone, which is a list of its letters."""
    if isinstance(texts, str):
        raise ValueError(f"{name}: expected a list of texts, found one text: {texts[:80]!r}")
    return list(texts)
