"""Worked examples in the documents, evaluated with the library's own functions, so that text and code cannot part.

An example is a line of a fenced block:

    egptlib.metrics.NAME(0.8, gamma=5) = 3.69

The call is parsed, never executed as code: its name has to be public in `egptlib.metrics`, its arguments literals.
"""

import ast
import inspect
import math
import re
from dataclasses import dataclass
from typing import Any

from egptlib.documents._markdown import Markdown

_LINE = re.compile(r"^(?P<call>egptlib\..+\)) = (?P<value>\S.*?)\s*$")
_ROOM = "egptlib.metrics"


@dataclass(frozen=True)
class Example:
    """A call as written in a document and the value that stands behind it."""

    call: str
    value: str
    line: int


def find_examples(document: Markdown) -> list[Example]:
    """Every worked example of a document, in order."""
    return [
        Example(match["call"], match["value"], fence.line + 1 + offset)
        for fence in document.fences
        for offset, line in enumerate(fence.body.splitlines())
        if (match := _LINE.match(line))
    ]


def check_example(example: Example) -> str | None:
    """Evaluate an example; return what is wrong with it, or None.

    A number has to agree to half a unit of the last digit written; anything else has to be equal. Nested lists
    are given to the function as tensors, or all lists as arrays when it takes arrays; what it returns is compared
    as lists.
    """
    try:
        function, positional, named = _parse(example.call)
        written = ast.literal_eval(example.value)
    except (ValueError, SyntaxError) as error:
        return f"{example.call}: {error}"
    try:
        inspect.signature(function).bind(*positional, **named)
        result = function(*positional, **named)
    except (TypeError, ValueError) as error:
        return f"{example.call}: {error}"
    result = result.tolist() if hasattr(result, "tolist") else result
    if _agree(result, written, example.value):
        return None
    return f"{example.call}: the document says {example.value}, the function {result!r}"


def _parse(call: str) -> tuple[Any, list[Any], dict[str, Any]]:
    tree = ast.parse(call, mode="eval").body
    if not isinstance(tree, ast.Call):
        raise ValueError("expected a call")
    module, _, name = ast.unparse(tree.func).rpartition(".")
    import egptlib.metrics as room  # here, since it loads torch

    if module != _ROOM or name not in room.__all__:
        raise ValueError(f"{module}.{name} is not a public function of {_ROOM}")
    function = getattr(room, name)
    first = next(iter(inspect.signature(function).parameters.values()), None)
    as_numpy = first is not None and "ndarray" in str(first.annotation)  # `metrics` uses both kinds
    named = {}
    for keyword in tree.keywords:
        if keyword.arg is None:
            raise ValueError("** is not allowed in an example")
        named[keyword.arg] = _argument(keyword.value, as_numpy)
    return function, [_argument(node, as_numpy) for node in tree.args], named


def _argument(node: ast.expr, as_numpy: bool = False) -> Any:
    value = ast.literal_eval(node)
    if isinstance(value, list) and as_numpy:
        import numpy

        return numpy.array(value)
    if isinstance(value, list) and value and isinstance(value[0], list):
        import torch

        return torch.tensor(value)
    return value


def _agree(result: Any, written: Any, text: str) -> bool:
    if isinstance(written, list):
        parts = ast.parse(text, mode="eval").body
        assert isinstance(parts, ast.List)
        texts = [ast.get_source_segment(text, part) or "" for part in parts.elts]
        return (
            isinstance(result, list)
            and len(result) == len(written)
            and all(_agree(one, other, piece) for one, other, piece in zip(result, written, texts))
        )
    if isinstance(written, float) and isinstance(result, (int, float)):
        decimals = len(text.partition(".")[2])
        return math.isfinite(result) and abs(result - written) <= 0.5 * 10.0**-decimals + 1e-12
    return type(result) is type(written) and bool(result == written)
