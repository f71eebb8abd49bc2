"""Working copies of the notebooks, for JupyterLab: what is tried there changes neither the checkout nor what runs do.

A copy that nobody has edited follows the committed notebook; an edited one stays as it is until it is reset. What
counts is what the cells say: outputs are no edit.
"""

import difflib
import itertools
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from egptlib._paths import atomic_write, project_root, read_json, write_json
from egptlib.reporting._notebooks import cell_sources, cells_digest, find_notebooks, notebook_folder

_KNOWN = ".copied.json"  # digest of each copy as it was made


def copies_folder() -> Path:
    """Where the working copies are: `lab/` of the checkout, or of the working folder."""
    return (project_root() or Path.cwd()) / "lab"


def refresh_copies(folder: Path) -> list[str]:
    """Copy each notebook, and the start page, that is not there or was not edited; return the names of those edited.

    Raises:
        ValueError: a file in the folder is damaged, or no notebook.
    """
    if not (start := notebook_folder() / "README.md").is_file():
        raise FileNotFoundError(f"{start}: no start page; run from a checkout")
    folder.mkdir(parents=True, exist_ok=True)
    known = _read_known(folder)
    _copy(start, folder / start.name)
    edited = []
    for notebook in find_notebooks():
        copy, digest = folder / notebook.name, cells_digest(notebook)
        is_ours = not copy.is_file() or cells_digest(copy) in (digest, known.get(notebook.name))
        if not is_ours:
            edited.append(notebook.stem)
            continue
        if not copy.is_file() or cells_digest(copy) != digest:
            _copy(notebook, copy)
        known[notebook.name] = digest
    write_json(folder / _KNOWN, known)
    return edited


def reset_copies(folder: Path, names: Sequence[str] = ()) -> list[Path]:
    """Take fresh copies of notebooks, all when none is named; return where the edited ones are now."""
    notebooks, known, aside = find_notebooks(names), _read_known(folder), []
    folder.mkdir(parents=True, exist_ok=True)
    for notebook in notebooks:
        copy = folder / notebook.name
        if copy.is_file() and cells_digest(copy) != cells_digest(notebook):
            (folder / "old").mkdir(exist_ok=True)
            free = (folder / "old" / f"{notebook.stem}-{n}.ipynb" for n in itertools.count(1))
            aside.append(next(path for path in free if not path.exists()))
            copy.rename(aside[-1])
        _copy(notebook, copy)
        known[notebook.name] = cells_digest(notebook)
    write_json(folder / _KNOWN, known)
    return aside


def compare_copies(folder: Path) -> str:
    """Return what the edited copies say otherwise than the committed notebooks, as a unified diff of their cells."""
    lines = list[str]()
    for notebook in find_notebooks():
        if (copy := folder / notebook.name).is_file():
            names = (str(notebook), str(copy))
            lines += difflib.unified_diff([*_lines(notebook)], [*_lines(copy)], *names, lineterm="")
    return "\n".join(lines)


def _lines(notebook: Path) -> Iterator[str]:
    for number, source in enumerate(cell_sources(notebook), 1):
        yield f"# cell {number}"
        yield from source.splitlines()


def _read_known(folder: Path) -> dict[str, str]:
    return read_json(folder / _KNOWN) if (folder / _KNOWN).is_file() else {}


def _copy(source: Path, target: Path) -> None:
    with atomic_write(target) as temporary:
        shutil.copyfile(source, temporary)
