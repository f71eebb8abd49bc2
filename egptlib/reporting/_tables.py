"""How a data frame's HTML reads: text to the left, numbers to the right, long names broken where they may be."""

import html
import itertools
import math
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pandas import DataFrame

_CELL = re.compile(r"<(t[dh])>(.*?)</t[dh]>", re.DOTALL)
_NUMBER = re.compile(r"[-+–]?[\d.,]*(e[-+]\d+)?%?")
_LEFT = ' style="text-align: left"'  # for JupyterLab, which has no style of ours
_NO_WRAP = 24  # characters that a column of text takes without a break


def show_table(frame: "DataFrame", digits: int | None = None) -> None:
    """Show a table in the notebook, without its index and with all of its text.

    Args:
        frame: the table; what is missing becomes a dash.
        digits: significant digits of each number, where a column holds figures of many sizes; default: as many
            decimals in all rows of a column as its numbers need.
    """
    import pandas as pd
    from IPython.display import HTML, display

    if digits is not None:
        frame = frame.map(lambda value: _rounded(value, digits))
    # `na_rep` leaves None alone, and pandas' own missing value, which is `<NA>`
    for name, column in frame.items():
        if column.isna().any() and (column.dtype == object or pd.api.types.is_extension_array_dtype(column.dtype)):
            frame = frame.assign(**{str(name): column.astype(object).mask(column.isna(), "–")})
    with pd.option_context("display.max_colwidth", None):
        display(HTML(align(frame.to_html(index=False, border=0, na_rep="–"))))


def _rounded(value: Any, digits: int) -> Any:
    """Return a float as text of so many digits, whole numbers in full; anything else as it is."""
    if not isinstance(value, float) or math.isnan(value):
        return value
    return f"{value:.0f}" if value.is_integer() else f"{value:.{digits}g}"


def align(text: str) -> str:
    """Set the text columns of every data frame in HTML to the left; see `_aligned`."""
    return re.sub(r'<table[^>]*class="dataframe".*?</table>', _aligned, text, flags=re.DOTALL)


def _aligned(table: re.Match[str]) -> str:
    """Set columns of text to the left, head included, and let long names in heads break at underscores.

    A column is one of text when one of its cells holds no number.
    """
    rows = [_CELL.findall(row) for row in table[0].split("</tr>")]
    columns = zip(*(row for row in rows if row and all(kind == "td" for kind, _ in row)))
    texts = [[html.unescape(text) for _, text in column] for column in columns]
    kinds = [
        "" if all(_NUMBER.fullmatch(text) for text in column)
        else f' class="text short"{_LEFT}' if max(map(len, column)) <= _NO_WRAP
        else f' class="text"{_LEFT}'
        for column in texts
    ]  # fmt: skip
    if len({len(row) for row in rows if row}) > 1 or not kinds:  # cells that span others, or no rows
        return table[0]
    position = itertools.count()

    def mark(cell: re.Match[str]) -> str:
        kind, text = cell.groups()
        shown = text.replace("_", "_<wbr>") if kind == "th" else text
        return f"<{kind}{kinds[next(position) % len(kinds)]}>{shown}</{kind}>"

    return _CELL.sub(mark, table[0])
