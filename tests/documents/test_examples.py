"""A worked example holds when the function gives what is written, to the digits written."""

from collections.abc import Callable

import pytest

from egptlib.documents._examples import Example, check_example, find_examples
from egptlib.documents._markdown import Markdown

Write = Callable[[str], Markdown]
CALL = "egptlib.metrics.consecutive_accepts([[True, True, False, True], [False, True, True, True]])"


def test_examples_are_found_in_fences_only(markdown: Write) -> None:
    document = markdown(f"{CALL} = [1, 2]\n\n```\nFirst a comment.\n{CALL} = [2, 0]\n```\n")
    assert find_examples(document) == [Example(CALL, "[2, 0]", 5)]


def test_a_true_example_passes_and_a_false_one_is_named() -> None:
    assert check_example(Example(CALL, "[2, 0]", 1)) is None
    problem = check_example(Example(CALL, "[2, 1]", 1))
    assert problem is not None and "the document says [2, 1], the function [2, 0]" in problem


@pytest.mark.parametrize(
    ("value", "holds"), [("0.7", True), ("0.67", True), ("0.667", True), ("0.66", False), ("0.6666", False)]
)
def test_a_number_agrees_to_the_digits_written(monkeypatch: pytest.MonkeyPatch, value: str, holds: bool) -> None:
    import egptlib.metrics as metrics

    monkeypatch.setattr(metrics, "two_thirds", lambda: 2 / 3, raising=False)
    monkeypatch.setattr(metrics, "__all__", [*metrics.__all__, "two_thirds"])
    assert (check_example(Example("egptlib.metrics.two_thirds()", value, 1)) is None) is holds


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("egptlib.metrics.no_such_function(1)", "not a public function"),
        ("egptlib.metrics.torch.save(1)", "not a public function"),
        ("egptlib.models.load_pair('mini')", "not a public function"),
        ("egptlib.metrics.consecutive_accepts(__import__('os').getcwd())", "malformed"),
        ("egptlib.metrics.consecutive_accepts(**{'accepted': 1})", "not allowed"),
        ("egptlib.metrics.consecutive_accepts(1, 2, 3)", "too many positional"),
    ],
)
def test_nothing_else_is_evaluated(call: str, message: str) -> None:
    problem = check_example(Example(call, "1", 1))
    assert problem is not None and message in problem
