"""Run folders: what one notebook run leaves behind, written by the notebook, found again by the report.

A notebook opens its run once, in the cell after its parameters, and hands it everything worth keeping::

    from egptlib.reporting import open_run
    run = open_run(out, "04_feature_acceptance")       # out: the notebook's parameter, "" when opened by hand

    run.save_figure("similarity", figure, data=frame)  # figures/similarity.{png,pdf,csv}; shows it in the notebook
    run.save_table("per_position", frame)              # per_position.csv; shows it in the notebook
    run.save_results(cos_sim_mean=0.71, num_pairs=660) # merged into metrics.json
    run.save_headline({"mean cosine": 0.71})           # the few figures of its card on the report's index page
    run.save_headline(found, times=["speedup"])        # those that a busy machine makes worthless
    folder = run.shared_folder("hidden_states/streets_test_mini")  # outlives this run, shared with other notebooks
    run.keep("gamma_7")                                # by hand only: a listed run of that name, with its parameters

`egptlib run` sets `out` to a temporary folder and renames it when the notebook has finished, so a notebook prints
names relative to the run (`run.folder` may move). Parameters every notebook has, each on its own line of the cell
tagged ``parameters`` (constants only)::

    dataset = "streets"   # streets, clips, or a dataset folder
    split = "test"        # train or test
    pair = "mini"         # mini, midi, or a pair.toml
    event_views = 5       # event images the drafter sees per scene: 5 or 1, as it was trained (the mini pair: 5)
    num_scenes = 40       # scenes to use
    num_questions = 5     # questions per scene
    max_new_tokens = 50   # tokens per answer
    out = ""              # run folder; empty: runs/interactive/<notebook>
    smoke = False         # a few scenes and tokens, to see that everything runs

With ``smoke`` a notebook lowers its own counts, one cell below the parameters.

Folder of a run::

    params.json   resolved parameters             status.json       done or failed, error, start, seconds, digests
    metrics.json  the figures it computed         environment.json  git revision, versions, device
    figures/      png, pdf and the plotted data   out.ipynb         the executed notebook
    *.csv         its tables                      log.txt           what was printed outside the notebook
    pair.json     the pair's settings, where it is another than the plain mini pair
    machine.json  wall seconds, CPU seconds and what other programs took, until the headline was known
"""

import contextlib
import json
import math
import os
import platform
import re
import subprocess
import sys
import warnings
from collections.abc import Collection, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import egptlib
from egptlib._machine import Meter
from egptlib._paths import atomic_write, project_root, read_json, write_json
from egptlib._sealed import compare_digests, read_sealed
from egptlib.figures import apply_style, save_for_paper
from egptlib.reporting._keep import Session, keep
from egptlib.reporting._tables import show_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

_STATUS: dict[str, Any] = {"notebook": str, "state": str, "started": str, "seconds": int | float}
_KINDS: dict[Any, str] = {str: "text", int | float: "a number"}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


def is_headless() -> bool:
    """True when nobody is looking (EGPT_HEADLESS=1): cells with widgets skip themselves."""
    return os.environ.get("EGPT_HEADLESS", "") not in ("", "0")


def default_root() -> Path:
    """Where runs go unless told otherwise: EGPTLIB_RUNS, ``runs/`` of the checkout, or of the working folder."""
    if configured := os.environ.get("EGPTLIB_RUNS"):
        return Path(configured).expanduser()
    return (project_root() or Path.cwd()) / "runs"


class Run:
    """One run's folder, open for writing. Made by `open_run`.

    Attributes:
        folder: where files go; absolute. It may be renamed after the notebook has finished.
        notebook: name of the notebook without ``.ipynb``.
        metrics: what `save_results` has been given so far.
    """

    def __init__(self, folder: Path, notebook: str, shared: Path, session: Session | None = None) -> None:
        self.folder = folder
        self.notebook = notebook
        self.metrics: dict[str, Any] = {}
        self._shared = shared
        self._meter = Meter()
        self._session = session

    def save_results(self, **results: Any) -> None:
        """Add figures to ``metrics.json``; a name given twice takes the later value.

        Values are numbers, strings, booleans, None, and lists or dicts of them; numpy and torch scalars
        and arrays are converted.

        Raises:
            ValueError: a value is NaN or infinite, or cannot be written as JSON; the message names it.
        """
        self.metrics |= {name: _plain(value, name) for name, value in results.items()}
        write_json(self.folder / "metrics.json", self.metrics)

    def save_headline(self, figures: dict[str, float | str], times: Collection[str] = ()) -> None:
        """Name the figures, at most six, that stand on the card of this run on the report's index page.

        Numbers are shown with four digits; give text where that is not right. Errors as in `save_results`.

        Args:
            figures: name -> figure.
            times: names of those that come from a clock. On a machine that other programs kept busy meanwhile they
                are left out, card and page say why, and ``machine.json`` holds what was counted.
        """
        if unknown := set(times) - set(figures):
            raise ValueError(f"times: expected names of figures, found {sorted(unknown)}")
        load = self._meter.read()
        disturbed = bool(times) and load.is_disturbed
        write_json(self.folder / "machine.json", vars(load) | {"times_disturbed": disturbed})
        told = {name: _plain(value, name) for name, value in figures.items()}
        if disturbed:
            why = f"disturbed: other programs took {load.others:.0%} of the cores"
            told = {"times": why} | {name: value for name, value in told.items() if name not in times}
        write_json(self.folder / "headline.json", told)

    def save_figure(self, name: str, figure: "Figure", data: "DataFrame | None" = None, show: bool = True) -> None:
        """Save `figure` as ``figures/<name>.png`` and ``.pdf``, the plotted `data` as ``.csv``, and show it.

        The PDF has the width of one or two columns of a paper, to which the figure is laid out anew.
        """
        folder = self.folder / "figures"
        with atomic_write(folder / f"{_checked(name)}.png") as temporary:
            figure.savefig(temporary)
        with atomic_write(folder / f"{name}.pdf") as temporary:
            save_for_paper(figure, temporary)
        if data is not None:
            with atomic_write(folder / f"{name}.csv") as temporary:
                data.to_csv(temporary, index=False)
        if "matplotlib.pyplot" in sys.modules:  # the notebook would otherwise show it a second time
            sys.modules["matplotlib.pyplot"].close(figure)
        if show:
            _show_image(folder / f"{name}.png", width_inches=figure.get_figwidth())

    def save_table(self, name: str, frame: "DataFrame", show: bool = True, digits: int | None = None) -> None:
        """Save `frame` as ``<name>.csv`` with full precision, and show it; `digits` as in `show_table`."""
        with atomic_write(self.folder / f"{_checked(name)}.csv") as temporary:
            frame.to_csv(temporary, index=False)
        if show:
            show_table(frame, digits)

    def shared_folder(self, name: str) -> Path:
        """Return a folder that outlives this run and that other notebooks of the same root find by `name`.

        For what is costly and can be resumed, such as extracted hidden states. Made when missing. `name`
        has to tell configurations apart, as in ``hidden_states/mini_streets_test``.
        """
        folder = self._shared.joinpath(*(_checked(part) for part in name.split("/")))
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def keep(self, name: str) -> Path:
        """Keep a run by hand as a listed run, with its parameters and the notebook as it ran, and return its folder.

        `egptlib runs`, `report` and `paper` take it as any other. Parameters have the values they had when the run was
        opened. The page says which cells did not run as they stand, or in another order.

        Raises:
            FileExistsError: there is a run of this name.
            ValueError: a name that is no file name, a run that is not by hand, or a notebook that was not saved (it is
                waited for; JupyterLab as `egptlib lab` starts it saves every few seconds).
        """
        if self._session is None:
            raise ValueError(f"keep({name!r}): only a run by hand is kept; this one is in {self.folder}")
        return keep(self._session, self.folder, self.notebook, self.folder.parents[1], _checked(name))

    def __repr__(self) -> str:
        return f"Run({self.notebook!r}, folder={str(self.folder)!r})"


def open_run(out: str, notebook: str) -> Run:
    """Open the run folder of a notebook and apply the figure style of this repository.

    Args:
        out: folder to write to; empty for ``runs/interactive/<notebook>``, which each run by hand overwrites.
        notebook: name of the notebook without ``.ipynb``.
    """
    folder = Path(out).expanduser().resolve() if out else default_root() / "interactive" / _checked(notebook)
    folder.mkdir(parents=True, exist_ok=True)
    apply_style()
    session = None if out else Session.here()
    if session is not None:
        warnings.showwarning = _note  # stderr stands on the red of errors in JupyterLab
    write_json(folder / "environment.json", describe_environment())
    return Run(folder, notebook, folder.parent / "shared", session)


def describe_environment(*devices: str) -> dict[str, Any]:
    """Return what a figure depends on besides its parameters: revision, versions, machine, and the devices that ran."""
    packages = ("torch", "transformers", "bitsandbytes", "numpy")
    return {
        "egptlib": egptlib.__version__,
        "revision": _revision(),
        "python": platform.python_version(),
        **{name: _version(name) for name in packages},
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "device": " and ".join(dict.fromkeys(devices)) or "cpu",
    }


def read_status(folder: Path) -> dict[str, Any] | None:
    """Return a run's ``status.json``, or None when it has none or it cannot be read as one."""
    try:
        return _text(folder / "status.json", read_sealed(folder / "status.json"))
    except (OSError, ValueError):
        return None


def list_runs(root: str | os.PathLike[str]) -> list[Path]:
    """Return the run folders below `root`, finished, failed or damaged, sorted by name.

    Raises:
        FileNotFoundError: `root` is no folder.
    """
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such run folder; `egptlib run` makes one")
    return [f for f in sorted(root.iterdir()) if not f.name.startswith(".") and (f / "status.json").is_file()]


def readable_runs(root: str | os.PathLike[str]) -> tuple[list[Path], dict[str, str]]:
    """Return the run folders of `root` whose files can be read, and of each other one its name and why it cannot.

    Every file is compared with its digest in ``status.json``, which was written when the run had ended.
    """
    found = {folder: damage(folder) for folder in list_runs(root)}
    damaged = {folder.name: why for folder, why in found.items() if why}
    return [folder for folder in found if folder.name not in damaged], damaged


def damage(folder: Path) -> str:
    """Return what is wrong with the files of a run; nothing where they are those that it left."""
    try:
        status = {"seconds": 0.0, "started": ""} | read_sealed(folder / "status.json", "files")
        for field, kind in _STATUS.items():
            if not isinstance(status.get(field), kind):
                found = repr(status[field]) if field in status else "none"
                raise ValueError(f"{folder / 'status.json'}: {field}: expected {_KINDS[kind]}, found {found}")
        _text(folder / "status.json", status)
        compare_digests(folder, status.get("files", {}))  # none where an earlier version ran
        for name in ("params", "metrics", "headline", "environment", "machine"):
            read_settings(folder / f"{name}.json")
    except (OSError, ValueError) as error:
        return str(error)
    return ""


def check_runs(folder: Path) -> list[str]:
    """Return one line for each run of a folder of runs, or for the run that it is, that is not what was left."""
    runs = [folder] if (folder / "status.json").is_file() else list_runs(folder)
    return [why for run in runs if (why := damage(run))]


def newest_runs(folders: Sequence[Path]) -> list[Path]:
    """Keep the newest run of each notebook and parameters: the library may have changed in between."""
    newest: dict[str, tuple[str, Path]] = {}
    for folder in folders:
        status = read_status(folder) or {}
        key = json.dumps([status.get("notebook"), read_settings(folder / "params.json")], sort_keys=True)
        started = str(status.get("started", ""))
        if key not in newest or started >= newest[key][0]:
            newest[key] = (started, folder)
    return sorted(folder for _, folder in newest.values())


def collect(root: str | os.PathLike[str] | None = None) -> "DataFrame":
    """Return one row per run below `root`: run, notebook, state, seconds, starred, then parameters and metrics.

    Without `root`, of the runs that the verbs list. A metric whose name is also a parameter's keeps its name with
    ``metric_`` in front. A run with a damaged file is left out, with a warning that names it.
    """
    root = Path(root or default_root())
    runs, damaged = readable_runs(root)
    for name, why in damaged.items():
        warnings.warn(f"{name} is left out: {why}", stacklevel=2)
    return run_table(runs, read_stars(root))


def run_table(runs: Sequence[Path], stars: Mapping[str, str]) -> "DataFrame":
    """Return the table of `collect` for runs that can be read."""
    import pandas as pd

    rows = []
    for folder in runs:
        status = read_status(folder) or {}
        row: dict[str, Any] = {"run": folder.name}
        row |= {key: status.get(key) for key in ("notebook", "state", "seconds")}
        row["starred"] = folder.name in stars
        row |= read_settings(folder / "params.json")
        metrics = read_settings(folder / "metrics.json")
        rows.append(row | {f"metric_{k}" if k in row else k: v for k, v in metrics.items()})
    return pd.DataFrame(rows)


def read_stars(root: Path) -> dict[str, str]:
    """Return the starred runs of a folder of runs, each with its note (which may be empty)."""
    path = root / "stars.json"
    return {name: str(note) for name, note in read_sealed(path).items()} if path.is_file() else {}


def read_settings(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file of a run, or an empty one where there is no file."""
    return _text(path, read_json(path)) if path.is_file() else {}


def _text(path: Path, content: dict[str, Any]) -> dict[str, Any]:
    """The content of a file, whose text must be one: tables and pages cannot hold a lone surrogate."""
    try:
        json.dumps(content, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{path}: holds text that is no valid Unicode ({error.reason})") from None
    return content


def _note(message: Warning | str, *where: Any, **options: Any) -> None:
    print(f"note: {message}")


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(f"name {name!r}: expected letters, digits, '_', '-' and '.', starting with a letter or digit")
    return name


def _plain(value: Any, name: str) -> Any:
    """Turn numpy and torch values into JSON's own types."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"result {name!r} is {value}: JSON has no such number; leave it out or give None")
        return value
    if isinstance(value, dict):
        return {str(key): _plain(item, f"{name}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{name}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):  # numpy and torch
        return _plain(value.tolist(), name)
    raise ValueError(f"result {name!r}: cannot write a {type(value).__name__} as JSON")


def _show_image(path: Path, width_inches: float) -> None:
    """Show a saved image at its size on paper; it is stored with more pixels, so it stays sharp."""
    from IPython.display import Image, display

    display(Image(filename=str(path), width=round(width_inches * 110), alt=path.stem.replace("_", " ")))


def _version(package: str) -> str | None:
    with contextlib.suppress(metadata.PackageNotFoundError):
        return metadata.version(package)
    return None


def _revision() -> str | None:
    """Return the commit this runs from, ``+changes`` where its files differ or the package has more; None elsewhere."""
    if (root := project_root()) is None:
        return None

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        changed = git("status", "--short", "-uno") or git("status", "--short", "egptlib")
        return git("rev-parse", "--short=12", "HEAD") + "+changes" * bool(changed)
    except (OSError, subprocess.SubprocessError):
        return None
