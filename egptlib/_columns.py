"""Tables as they are printed."""

from collections.abc import Sequence


def columns(rows: Sequence[Sequence[str]], left: int = 1, rule: bool = False) -> list[str]:
    """Aligned lines: the first `left` columns to the left, figures to the right; `rule` underlines the first row."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    shown = [rows[0], ["-" * width for width in widths], *rows[1:]] if rule else rows
    return [
        "  ".join(
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in shown
    ]
