"""Notebooks and their parameters, which are checked before a kernel starts."""

import ast
import hashlib
import json
import re
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import egptlib
from egptlib._paths import find_path, project_root, read_json

BUILT_IN_DATASETS = ("streets", "mini", "clips")
# Parameters that name a file or folder where they are not empty.
_PATHS = ("assistant", "states", "free_states", "recorded", "token_folds")
# Parameters that name several, with commas between them, or adapters that come with a pair ("mini-E3", "midi-E3S").
_ADAPTERS = ("adapter", "head", "heads", "trained")


@dataclass(frozen=True)
class Job:
    """One notebook with all of its parameters (without ``out``, which is the run's own folder).

    Where it is `alone` it runs after the others, one by one, with all cores: its times count.
    """

    notebook: Path
    parameters: Mapping[str, Any]
    alone: bool = False

    @property
    def name(self) -> str:
        """Name of the run folder: notebook, dataset, and a hash over everything the result depends on."""
        pair = str(self.parameters.get("pair", ""))
        told = Path(pair).read_text(encoding="utf-8") if pair.endswith(".toml") else ""  # it may say other things now
        content = json.dumps(
            [dict(self.parameters), told, cell_sources(self.notebook), _library_digest()], sort_keys=True, default=str
        )
        dataset = re.sub(r"[^A-Za-z0-9_.-]+", "_", Path(str(self.parameters.get("dataset", ""))).name)
        digest = hashlib.sha256(content.encode()).hexdigest()[:10]
        return "-".join(part for part in (self.notebook.stem, dataset, digest) if part)


def find_notebooks(names: Sequence[str] = (), folder: Path | None = None) -> list[Path]:
    """Return notebooks by path, name or number (``04`` or ``4``); all numbered ones when no name is given.

    Raises:
        FileNotFoundError: there is no such notebook; the message lists those there are.
    """
    root = folder or notebook_folder()
    numbered = sorted(root.glob("[0-9][0-9]_*.ipynb"))
    if not names:
        if not numbered:
            raise FileNotFoundError(f"{root}: no notebooks found; name them by path, or run from a checkout")
        return numbered
    return [_find(name, numbered, root) for name in names]


def notebook_folder() -> Path:
    """Return where the numbered notebooks are: in the checkout, or where the wheel put them."""
    if checkout := project_root():
        return checkout / "notebooks"
    installed = [file for file in metadata.files("egptlib") or () if file.match("notebooks/0*.ipynb")]
    return Path(str(installed[0].locate())).resolve().parent if installed else Path.cwd() / "notebooks"


def notebook_parameters(notebook: Path) -> dict[str, Any]:
    """Return the parameters a notebook declares with their defaults, from its cell tagged ``parameters``.

    Raises:
        ValueError: the file is no notebook, has no such cell, or a default is not a constant.
    """
    cells = [c for c in _cells(notebook) if "parameters" in c["tags"]]
    if len(cells) != 1:
        raise ValueError(f"{notebook}: expected one cell tagged 'parameters', found {len(cells)}")
    try:
        statements = ast.parse(cells[0]["source"]).body
    except (SyntaxError, ValueError, RecursionError) as error:
        raise ValueError(f"{notebook}: parameters cell: expected NAME = CONSTANT, found no Python: {error}") from error
    parameters = {}
    for statement in statements:
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                parameters[name] = _constant(value, name, notebook)
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
                parameters[name] = _constant(value, name, notebook)
            case _:
                line = ast.unparse(statement).splitlines()[0]
                raise ValueError(f"{notebook}: parameters cell: expected NAME = CONSTANT, found {line!r}")
    return parameters


def plan(
    notebooks: Sequence[Path],
    given: Mapping[str, Any] | None = None,
    optional: Mapping[str, Any] | None = None,
) -> list[Job]:
    """Resolve the parameters of each notebook.

    Args:
        notebooks: what to run.
        given: parameters at least one notebook must know; those that do receive them. Text is
            converted to the type of the notebook's default.
        optional: parameters that a notebook may lack.

    Raises:
        ValueError: a parameter no notebook knows, a value of the wrong type, or one that a run's folder cannot hold
            (NaN, infinity, a date).
        FileNotFoundError: ``dataset`` is neither a built-in name nor a folder, or ``pair`` or one of the other
            parameters that name a path a file that is not there.
    """
    given, optional = dict(given or {}), dict(optional or {})
    declared = {notebook: notebook_parameters(notebook) for notebook in notebooks}
    known = sorted({name for parameters in declared.values() for name in parameters} - {"out"})
    for name in given:
        if name not in known:
            where = ", ".join(notebook.stem for notebook in notebooks)
            raise ValueError(f"unknown parameter {name!r}: {where} know{'s'[: len(notebooks) == 1]} {', '.join(known)}")
    jobs = []
    for notebook, defaults in declared.items():
        chosen = {k: v for k, v in (optional | given).items() if k in defaults}
        parameters = {k: convert(k, chosen[k], v) if k in chosen else v for k, v in defaults.items() if k != "out"}
        if "dataset" in parameters:
            parameters["dataset"] = _dataset(parameters["dataset"])
        if str(parameters.get("pair", "")).endswith(".toml"):
            parameters["pair"] = _pair_file(parameters["pair"])
        for name in (*_PATHS, *_ADAPTERS):  # as with the dataset: kernels run elsewhere, and seconds later
            if value := str(parameters.get(name) or ""):
                parts = [value] if name in _PATHS else [part.strip() for part in value.split(",")]
                missing = f"no such file or folder, which parameter {name!r} names"
                shipped = ("mini-", "midi-") if name in _ADAPTERS else "\0"
                kept = [part if part.startswith(shipped) else str(find_path(part, missing)) for part in parts]
                parameters[name] = ", ".join(kept)
        for name, value in parameters.items():
            require_json(f"parameter {name!r}", value)
        jobs.append(Job(notebook, parameters))
    return jobs


def convert(name: str, value: Any, default: Any) -> Any:
    """Return `value` with the type of `default`; text such as ``"true"`` or ``"1e-3"`` is read as that type.

    Raises:
        ValueError: `value` cannot be one; the message names the parameter and the type.
    """
    kind = type(default)
    if default is None or (isinstance(value, kind) and not (isinstance(value, bool) and kind is int)):
        return value
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, str):
        word = value.strip()
        try:
            if kind is bool and word.lower() in ("true", "1", "yes", "false", "0", "no"):
                return word.lower() in ("true", "1", "yes")
            if kind in (int, float):
                return kind(word)
            if kind in (list, tuple, dict) and isinstance(parsed := ast.literal_eval(word), kind):
                return parsed
        except (ValueError, SyntaxError):
            pass  # reported below, as any other wrong value
    raise ValueError(f"parameter {name!r}: expected {kind.__name__} (default {default!r}), got {reprlib.repr(value)}")


def require_json(name: str, value: Any) -> None:
    """Raise ValueError, which begins with `name`, where a run's ``params.json`` cannot hold a value."""
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        found = reprlib.repr(value)
        raise ValueError(f"{name}: expected what JSON can hold, no NaN or date; got {found}") from error


def _find(name: str, numbered: Sequence[Path], root: Path) -> Path:
    if name.endswith(".ipynb") and Path(name).is_file():
        return Path(name)
    for notebook in numbered:
        if name in (notebook.name, notebook.stem, notebook.stem[:2], notebook.stem[:2].lstrip("0")):
            return notebook
    there = ", ".join(notebook.stem for notebook in numbered) or "none"
    raise FileNotFoundError(f"notebook {name!r}: no such file, nor one of those in {root}: {there}")


def _dataset(value: str) -> str:
    """Return a built-in name as it is, a folder as an absolute path: kernels run elsewhere."""
    if value in BUILT_IN_DATASETS:
        return value
    folder = find_path(value, f"no such dataset folder, and not one of {', '.join(BUILT_IN_DATASETS)}")
    if not folder.is_dir():
        raise NotADirectoryError(f"dataset {value!r}: expected a folder: {folder}")
    return str(folder.resolve())


def _pair_file(value: str) -> str:
    file = Path(value).expanduser()
    if not file.is_file():
        raise FileNotFoundError(f"pair {value!r}: no such file: {file.absolute()}")
    return str(file.absolute())


def _constant(value: ast.expr, name: str, notebook: Path) -> Any:
    try:
        return ast.literal_eval(value)
    except ValueError as error:
        text = ast.unparse(value)
        raise ValueError(f"{notebook}: parameter {name!r}: expected a constant, found {text!r}") from error


def _cells(notebook: Path) -> list[dict[str, Any]]:
    """Return the cells, of each its tags and its source as one text."""
    try:
        cells = read_json(notebook)["cells"]
        return [{"tags": cell.get("metadata", {}).get("tags", []), "source": "".join(cell["source"])} for cell in cells]
    except FileNotFoundError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{notebook}: not a notebook (expected JSON with 'cells'): {error}") from error


def cell_sources(notebook: Path) -> list[str]:
    """What a notebook says, without outputs and editor metadata: these do not change a result."""
    return [cell["source"] for cell in _cells(notebook)]


def cells_digest(notebook: Path) -> str:
    """SHA-256 of what its cells say, in hex."""
    return hashlib.sha256(json.dumps(cell_sources(notebook)).encode()).hexdigest()


@cache
def _library_digest() -> str:
    """Hash of the version and of every file of the package, weights included: a version alone hides edits."""
    package = Path(egptlib.__file__).parent
    digest = hashlib.sha256(egptlib.__version__.encode())
    for file in sorted(package.rglob("*")):
        if file.is_file() and "__pycache__" not in file.parts:
            digest.update(str(file.relative_to(package)).encode())
            with open(file, "rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()
