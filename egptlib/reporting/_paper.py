r"""What a paper takes from runs: figures as PDF, tables as booktabs LaTeX, numbers as ``\newcommand``.

Folder::

    main.tex       shows every figure and table; compiles as it is (pdflatex main.tex)
    numbers.tex    \newcommand{\FeatureAcceptanceStreetsTokenMatch}{0.9114}, each below a comment that names its source
    sources.json   the same for a program: macro, figure or table -> run, file, name, value, git revision
    figures/       PDF at the width of one or two columns, fonts embedded
    tables/        one tabular each
"""

import itertools
import json
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from egptlib.figures import DOUBLE_COLUMN, SINGLE_COLUMN
from egptlib.reporting._export import Export, file_name
from egptlib.reporting._runs import newest_runs, read_settings, read_stars, read_status, readable_runs
from egptlib.reporting._sweep import differing
from egptlib.reporting._tables import in_words

if TYPE_CHECKING:
    from pandas import DataFrame, Series

_MAX_ROWS = 40
_MAX_CHARACTERS = 150  # of a table's longest line; longer ones hold answers, which no paper prints as a table
_ONE_COLUMN_CHARACTERS = 46
_DIGITS = ("Zero", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine")
_TEENS = ("Ten", "Eleven", "Twelve", "Thirteen", "Fourteen", "Fifteen", "Sixteen", "Seventeen", "Eighteen", "Nineteen")
_TENS = ("", "", "Twenty", "Thirty", "Forty", "Fifty", "Sixty", "Seventy", "Eighty", "Ninety")
_ESCAPES = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "_": r"\_", "%": r"\%",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", "–": "--", "—": "---", "’": "'", "×": r"$\times$", "±": r"$\pm$", "µ": r"$\mu$",
    "▁": r"\textvisiblespace{}", "≥": r"$\geq$", "≤": r"$\leq$", "→": r"$\to$", "·": r"$\cdot$", "\n": " ",
}  # fmt: skip


@dataclass
class _Contents:
    """What the runs give: LaTeX lines, and what `sources.json` says of each macro and file."""

    lines: list[str] = field(default_factory=list)
    floats: list[str] = field(default_factory=list)
    sources: dict[str, dict[str, Any]] = field(default_factory=dict)
    files: dict[str, str | Path] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)


def write_paper(
    root: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    starred: bool = False,
    tell: Callable[[str], None] = lambda line: None,
) -> tuple[Path, dict[str, int]]:
    """Write figures, tables and numbers of the finished runs below `root`; return ``main.tex`` and how many of each.

    Of finished runs of one notebook with equal parameters the newest is taken. Files of an earlier export are replaced,
    but for those that somebody has edited: these stay, with the new ones beside them (see `Export`).

    Args:
        root: folder with run folders.
        out: folder to write to.
        starred: only take starred runs.
        tell: called with a line about each run that is left out, and each file that somebody has edited.

    Raises:
        FileNotFoundError: `root` is no folder, or holds no run to take.
        FileExistsError: `out` holds files under these names that are not an earlier export's.
    """
    root, out = Path(root), Path(out)
    stars = read_stars(root)
    readable, damaged = readable_runs(root)
    runs = newest_runs([f for f in readable if (read_status(f) or {}).get("state") == "done"])
    runs = [f for f in runs if not starred or f.name in stars]
    for name, why in damaged.items():
        tell(f"{root / name}: left out: {why}")
    if not runs:
        raise FileNotFoundError(f"{root}: holds no {'starred' if starred else 'finished'} run")
    contents = _Contents(left_out=damaged)
    varying = _varying(runs)
    for folder, words, told in zip(runs, _names(runs, varying), varying):
        _add(contents, folder, words, told)
    intro = (
        "% Made by `egptlib paper`. Each number names the run and file it is from; sources.json says it to programs."
    )
    sources = {"sources": contents.sources, "left_out": contents.left_out}
    contents.files |= {
        "numbers.tex": "\n".join([intro, *contents.lines, ""]),
        "sources.json": json.dumps(sources, indent=2, ensure_ascii=True, allow_nan=False) + "\n",
        "main.tex": _main(contents.floats),
    }
    with Export(out, contents.files) as export:
        for name, content in contents.files.items():
            export.write(name, content)
    export.tell_kept(tell)
    kinds = {"figures": "figures/", "tables": "tables/", "numbers": "\\"}
    counts = {kind: sum(name.startswith(start) for name in contents.sources) for kind, start in kinds.items()}
    return out / "main.tex", {"runs": len(runs), **counts}


def _add(contents: _Contents, folder: Path, words: Sequence[str], varying: Mapping[str, str]) -> None:
    """Add the numbers, figures and tables of one run."""
    slug = re.sub(r"[^a-z0-9]+", "-", " ".join(words).lower())
    revision = read_settings(folder / "environment.json").get("revision")
    origin = {"run": folder.name, "revision": revision}
    contents.lines += ["", f"% {escape(folder.name)}, git revision {escape(str(revision or 'unknown'))}"]
    for file, name, value, text in _numbers(folder):
        macro = _macro([*words, *re.split(r"[^A-Za-z0-9.]+", name)], contents.sources)
        contents.sources[macro] = {**origin, "file": file, "name": name, "value": value}
        source = escape(f"{file}: {name} = {value}")
        contents.lines.append(f"\\newcommand{{{macro}}}{{{text}}} % {source}")
    for pdf in _own_files(folder / "figures", "*.pdf"):
        target = f"figures/{file_name(f'{slug}-{pdf.stem}')}.pdf"
        try:
            body = _figure_body(pdf, target)
        except Exception as error:  # pypdf raises many kinds on a damaged file
            contents.left_out[f"{folder.name}/figures/{pdf.name}"] = f"not readable as PDF: {error}"
            continue
        contents.files[target] = pdf
        contents.sources[target] = {**origin, "file": f"figures/{pdf.name}"}
        contents.floats.append(_float("figure", body, _caption(pdf.stem, folder, varying)))
    for table in _own_files(folder, "*.csv"):
        rows, why_not = _read_table(table)
        if rows is None:
            contents.left_out[f"{folder.name}/{table.name}"] = why_not
            continue
        target = f"tables/{file_name(f'{slug}-{table.stem}')}.tex"
        contents.files[target] = f"% {escape(f'{folder.name}/{table.name}')}\n{_tabular(rows)}"
        contents.sources[target] = {**origin, "file": table.name}
        wide = _characters(rows) > _ONE_COLUMN_CHARACTERS
        contents.floats.append(_float("table", (_fit(target), wide), _caption(table.stem, folder, varying)))


def _own_files(folder: Path, pattern: str) -> list[Path]:
    """Return files of a folder but for those of an appendix; a link may lead anywhere, and is not the run's."""
    paths = [path for path in sorted(folder.glob(pattern)) if path.is_file() and not path.is_symlink()]
    return [path for path in paths if not path.name.startswith("appendix_")]  # no result of the run's


def escape(text: str) -> str:
    """Return text for LaTeX, in a paragraph or behind ``%``; a letter that T1 fonts lack becomes its code, ``U+4F60``.

    Everything that a run says goes through here: what comes out is one line, and holds no command of the run's.
    """
    return "".join(_ESCAPES.get(c, c if " " <= c <= "~" or "\xa1" <= c <= "\xff" else f"U+{ord(c):04X}") for c in text)


def _base(folder: Path) -> tuple[str, str]:
    """Last word of the notebook's name, and the dataset."""
    notebook = str((read_status(folder) or {}).get("notebook", ""))
    dataset = read_settings(folder / "params.json").get("dataset", "")
    return notebook.rsplit("_", 1)[-1], Path(str(dataset)).name


def _varying(runs: Sequence[Path]) -> list[dict[str, str]]:
    """Return, of each run, the parameters that differ between those of its notebook and dataset."""
    parameters, bases = [read_settings(folder / "params.json") for folder in runs], [_base(folder) for folder in runs]
    found = []
    for given, base in zip(parameters, bases):
        names = differing([other for other, of_other in zip(parameters, bases) if of_other == base])
        found.append({name: Path(str(given.get(name))).name for name in names if name != "dataset"})
    return found


def _names(runs: Sequence[Path], varying: Sequence[Mapping[str, str]]) -> list[list[str]]:
    """Return words that tell the runs apart: notebook, dataset, and the parameters that differ between namesakes."""
    names: list[list[str]] = []
    for folder, told in zip(runs, varying):
        parts = (*_base(folder), *itertools.chain.from_iterable(told.items()))
        name = [word for part in parts for word in part.replace("_", " ").split()]
        numbered = ([*name, *map(str, number)] for number in itertools.chain([()], zip(itertools.count(2))))
        names.append(next(candidate for candidate in numbered if candidate not in names))
    return names


def _macro(words: Sequence[str], taken: Mapping[str, Any]) -> str:
    """Return a command name: letters only, numbers in words, a letter more where it is taken."""
    spelled = "".join(re.sub(r"\d+", _in_words, word[:1].upper() + word[1:]).replace(".", "Point") for word in words)
    name = "\\" + (re.sub(r"[^A-Za-z]", "", spelled) or "Number")
    endings = itertools.chain([""], (chr(65 + n % 26) * (1 + n // 26) for n in itertools.count()))
    return next(candidate for ending in endings if (candidate := name + ending) not in taken)


def _in_words(number: re.Match[str]) -> str:
    """Digits as a person says them: `Ninety` for 90, `EightyFive` for 85, longer ones one by one."""
    text = number[0]
    if len(text) != 2 or text[0] == "0":
        return "".join(_DIGITS[int(digit)] for digit in text)
    if text[0] == "1":
        return _TEENS[int(text[1])]
    return _TENS[int(text[0])] + (_DIGITS[int(text[1])] if text[1] != "0" else "")


def _numbers(folder: Path) -> Iterator[tuple[str, str, Any, str]]:
    """Yield file, name, value and LaTeX text of each number, and of the headline's texts such as ``91.1%``."""
    for file in ("metrics.json", "headline.json"):
        for name, value in read_settings(folder / file).items():
            kinds = int | float | str if file == "headline.json" else int | float
            if isinstance(value, bool) or not isinstance(value, kinds) or value in (math.inf, -math.inf):
                continue
            yield file, name, value, value_text(value)


def value_text(value: float | str) -> str:
    """Return a value for LaTeX: whole numbers in full, others with four digits."""
    if isinstance(value, str):
        return escape(value)
    if isinstance(value, int) or (value.is_integer() and abs(value) < 1e6):
        return f"{int(value):,}".replace(",", "{,}")
    if value != 0 and not 1e-4 <= abs(value) < 1e6:
        exponent = math.floor(math.log10(abs(value)))
        return f"$ {value / 10**exponent:.3f} \\times 10^{{{exponent}}} $".replace("$ ", "$").replace(" $", "$")
    text = f"{value:.4g}"
    return text if not text.startswith("-") else f"${text}$"


def _read_table(path: Path) -> "tuple[DataFrame | None, str]":
    """Return a table, or None and why it is no table for a paper."""
    import pandas as pd

    try:
        frame = pd.read_csv(path)
    except (ValueError, OSError) as error:
        return None, f"not readable as CSV: {error}"
    if not 0 < len(frame) <= _MAX_ROWS:
        return None, f"{len(frame)} rows; at most {_MAX_ROWS} are taken"
    if (width := _characters(frame)) > _MAX_CHARACTERS:
        return None, f"{width} characters wide; at most {_MAX_CHARACTERS} are taken"
    return frame, ""


def _characters(frame: "DataFrame") -> int:
    """Width of the table when typed: the longest entry of each column, and a gap."""
    return sum(max(len(str(name)), *(len(_cell(v)) for v in frame[name])) + 2 for name in frame.columns)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return "–" if math.isnan(value) else f"{value:.4g}"
    return str(value)


def _tabular(frame: "DataFrame") -> str:
    numeric = [frame[name].dtype.kind in "iuf" for name in frame.columns]
    frame = frame.astype(object).assign(
        **{name: _digits(frame[name]) for name in frame if frame[name].dtype.kind == "f"}
    )
    styler = frame.style.hide(axis="index")
    styler = styler.format(lambda value: escape(_cell(value))).format_index(
        lambda name: escape(in_words(str(name))), axis=1
    )
    return str(styler.to_latex(hrules=True, column_format="".join("r" if number else "l" for number in numeric)))


def _digits(column: "Series") -> "Series":
    """Floats as text with the same decimals in all rows, so that they stand below one another; each by itself where
    they are of too many sizes."""
    sizes = [abs(value) for value in column if value and math.isfinite(value)]
    if not sizes or max(sizes) / min(sizes) > 1e4 or not 1e-4 < max(sizes) < 1e6:
        return column
    whole = all(float(value).is_integer() for value in column if math.isfinite(value))
    decimals = 0 if whole else min(4, max(0, 3 - math.floor(math.log10(max(sizes)))))
    return column.map(lambda value: f"{value:.{decimals}f}" if math.isfinite(value) else value).astype(object)


def _figure_body(pdf: Path, target: str) -> tuple[str, bool]:
    """Return the command that places a figure at its own size, and whether it takes both columns."""
    from pypdf import PdfReader

    wide = float(PdfReader(pdf).pages[0].mediabox.width) / 72 > (SINGLE_COLUMN + DOUBLE_COLUMN) / 2
    return f"\\includegraphics[width=\\linewidth]{{{target}}}", wide


def _fit(target: str) -> str:
    """Place a table at its size, or smaller where it would not fit."""
    shrunk = "\\resizebox{\\linewidth}{!}{\\usebox0}"
    return f"\\sbox0{{\\input{{{target}}}}}\\ifdim\\wd0>\\linewidth{shrunk}\\else\\usebox0\\fi"


def _float(kind: str, body: tuple[str, bool], caption: str) -> str:
    content, wide = body
    name = kind + "*" * wide
    above = [f"\\caption{{{escape(caption)}}}"]
    parts = [*above, content] if kind == "table" else [content, *above]
    return "\n".join([f"\\begin{{{name}}}[t]\\centering\\footnotesize", *parts, f"\\end{{{name}}}"])


def _caption(name: str, folder: Path, varying: Mapping[str, str]) -> str:
    """What a figure or table is, of which notebook, data and varied parameters, and the run it is from."""
    notebook = str((read_status(folder) or {}).get("notebook", "")).lstrip("0123456789_")
    words = f"{notebook}: {name}".removeprefix(": ").replace("_", " ").replace("-", " ")
    given = read_settings(folder / "params.json")
    dataset, pair = (Path(str(given.get(key, ""))).stem for key in ("dataset", "pair"))
    where = f" on {dataset}" * bool(dataset) + f", pair {pair}" * bool(pair)
    where += "".join(f", {in_words(name)} {value}" for name, value in varying.items() if name != "pair")
    return f"{words[:1].upper()}{words[1:]}{where}. Run {folder.name}."


def _main(floats: Sequence[str]) -> str:
    return "\n".join(
        [
            r"\documentclass[10pt,twocolumn]{article}",
            rf"\usepackage[textwidth={DOUBLE_COLUMN}in,columnsep={DOUBLE_COLUMN - 2 * SINGLE_COLUMN:.2f}in,"
            r"textheight=9in]{geometry}",
            r"\usepackage[T1]{fontenc}",
            r"\usepackage[utf8]{inputenc}",
            r"\usepackage{booktabs,graphicx}",
            r"\input{numbers}",
            # Pages may be filled with figures to the last line.
            r"\renewcommand{\dbltopfraction}{.95}\renewcommand{\topfraction}{.95}\renewcommand{\textfraction}{.02}",
            r"\setlength{\belowcaptionskip}{4pt}",  # a table's caption stands above it
            r"\setcounter{topnumber}{9}\setcounter{dbltopnumber}{9}\setcounter{totalnumber}{9}",
            r"\begin{document}",
            r"\title{Figures, tables and numbers}\author{made by \texttt{egptlib paper}}\date{}\maketitle",
            r"Numbers are commands, defined in \texttt{numbers.tex}; what each is from stands beside it there. "
            r"A caption names the run its figure or table is from.",
            # LaTeX keeps few figures waiting: all are placed after every twelve.
            *(text + "\n\\clearpage" * (n % 12 == 0) for n, text in enumerate(floats, 1)),
            r"\end{document}",
            "",
        ]
    )
