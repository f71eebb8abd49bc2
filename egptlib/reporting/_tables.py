"""How a table reads: names in words with their unit, text to the left, numbers to the right."""

import html
import itertools
import math
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pandas import DataFrame

_CELL = re.compile(r"<(t[dh])>(.*?)</t[dh]>", re.DOTALL)
_HEAD = re.compile(r"(<th\b[^>]*>)(.*?)(?=</th>)", re.DOTALL)
_NUMBER = re.compile(r"[-+–]?[\d.,]*(e[-+]\d+)?%?")
_LEFT = ' style="text-align: left"'  # for JupyterLab, which has no style of ours
_NO_WRAP = 24  # characters that a column of text takes without a break
_UNITS = {"ms": "ms", "s": "s", "seconds": "s", "percent": "%", "mb": "MB", "mib": "MiB", "us": "µs"}  # as last word


def in_words(name: str) -> str:
    """Return a field's name as a table shows it: words, the unit behind them in brackets, thresholds as numbers.

    >>> in_words("mean_prefill_ms"), in_words("tokens_per_pass"), in_words("accept_85")
    ('mean prefill (ms)', 'tokens per pass', 'accept at 0.85')
    """
    name = re.sub(r"\b((?:accept|consecutive_[a-z]+)_)(\d\d)\b", r"\1at_0.\2", name)
    if "_" in name:
        name = name.replace("_", " ").strip().removeprefix("num ").replace("cos sim", "cosine")
    words = name.split(" ")
    if len(words) > 1 and (unit := _UNITS.get(words[-1].lower())):
        words[-1] = f"({unit})"
    return " ".join(words)


def show_table(frame: "DataFrame", digits: int | None = None) -> None:
    """Show a table in the notebook, without its index and with all of its text.

    Args:
        frame: the table; what is missing becomes a dash, names of columns become words (`in_words`).
        digits: significant digits of each number, where a column holds figures of many sizes; default: as many
            decimals in all rows of a column as its numbers need; none where all are whole.
    """
    import pandas as pd
    from IPython.display import HTML, display

    frame = frame.copy() if digits is None else frame.map(lambda value: _rounded(value, digits))
    for name, column in frame.items():
        if column.dtype.kind == "f" and (column.dropna() % 1 == 0).all():
            whole = column.map(lambda value: f"{value + 0.0:.0f}", na_action="ignore")  # never -0
            frame[name] = column = whole.astype(object)
        # `na_rep` leaves None alone, and pandas' own missing value, which is `<NA>`
        if column.isna().any() and (column.dtype == object or pd.api.types.is_extension_array_dtype(column.dtype)):
            frame[name] = column.astype(object).mask(column.isna(), "–")
    with pd.option_context("display.max_colwidth", None):
        display(HTML(align(frame.to_html(index=False, border=0, na_rep="–"))))


def _rounded(value: Any, digits: int) -> Any:
    """Return a float as text of so many digits, whole numbers in full; anything else as it is."""
    if not isinstance(value, float) or math.isnan(value):
        return value
    return f"{value:.0f}" if value.is_integer() else f"{value:.{digits}g}"


def align(text: str) -> str:
    """Set the text columns of every data frame in HTML to the left, and its head in words; see `_aligned`."""
    return re.sub(r'<table[^>]*class="dataframe".*?</table>', _aligned, text, flags=re.DOTALL)


def _aligned(table: re.Match[str]) -> str:
    """Set columns of text to the left, head included, and the head's names in words.

    A column is one of text when one of its cells holds no number.
    """
    text = _HEAD.sub(lambda head: head[1] + in_words(head[2].replace("<wbr>", "")), table[0])
    rows = [_CELL.findall(row) for row in text.split("</tr>")]
    columns = zip(*(row for row in rows if row and all(kind == "td" for kind, _ in row)))
    texts = [[html.unescape(text) for _, text in column] for column in columns]
    kinds = [
        "" if all(_NUMBER.fullmatch(text) for text in column)
        else f' class="text short"{_LEFT}' if max(map(len, column)) <= _NO_WRAP
        else f' class="text"{_LEFT}'
        for column in texts
    ]  # fmt: skip
    if len({len(row) for row in rows if row}) > 1 or not kinds:  # cells that span others, or no rows
        return text
    position = itertools.count()

    def mark(cell: re.Match[str]) -> str:
        kind, content = cell.groups()
        return f"<{kind}{kinds[next(position) % len(kinds)]}>{content}</{kind}>"

    return _CELL.sub(mark, text)
