"""JupyterLab as this repository starts it: on loopback, with a token, at working copies of the notebooks.

What is tried there changes neither the checkout nor what runs do. A copy that nobody has edited follows the committed
notebook; an edited one stays as it is until it is reset. What counts is what the cells say: outputs are no edit.
"""

import difflib
import itertools
import os
import secrets
import shutil
import socket
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from egptlib._paths import atomic_write, project_root, read_json, write_json
from egptlib.reporting._notebooks import cell_sources, cells_digest, find_notebooks, notebook_folder

_CONFIG = Path(__file__).parent / "templates" / "lab"
_PORTS = 50  # tried one after the other


def lab_command(
    port: int = 8888, *, folder: Path, open_browser: bool = True, options: tuple[str, ...] = ()
) -> tuple[list[str], dict[str, str], str]:
    """Return the command that starts JupyterLab, the environment it is to have, and its address with the token.

    Only this machine can reach it, and only with the token, a new one each time unless JUPYTER_TOKEN names one: it
    is passed in the environment, since any user may read a command line. From elsewhere: an SSH tunnel to the port.
    Its files are those of the folder that `folder` is in: figures, data and README can be opened beside the notebooks.

    Args:
        port: first one tried; the next free one is taken.
        folder: with the notebooks and the README.md to start at; see `refresh_copies`.
        open_browser: open it on this screen.
        options: passed on to JupyterLab.

    Raises:
        OSError: none of 50 ports is free.
    """
    folder, port = folder.resolve(), _free_port(port)
    token = os.environ.get("JUPYTER_TOKEN") or secrets.token_urlsafe(24)
    config = [str(_CONFIG), *filter(None, [os.environ.get("JUPYTER_CONFIG_PATH")])]
    environment = {
        "JUPYTER_TOKEN": token,
        "JUPYTER_CONFIG_PATH": os.pathsep.join(config),
        "JUPYTER_PREFER_ENV_PATH": "1",  # this environment's kernel, not one in the user's home
    }
    start = f"/lab/tree/{folder.name}/README.md"
    # The committed notebooks are what `run` takes: they are edited elsewhere than in passing.
    hidden = ["__pycache__", "*.pyc", "*~", *["notebooks"] * (folder.parent == project_root())]
    command = [
        sys.executable, "-m", "jupyterlab", "--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}",
        "--ServerApp.port_retries=0", f"--ServerApp.root_dir={folder.parent}", f"--LabApp.default_url={start}",
        f"--ContentsManager.hide_globs={hidden}", f"--ServerApp.open_browser={open_browser}", "--log-level=WARN",
    ]  # fmt: skip
    return [*command, *options], environment, f"http://127.0.0.1:{port}{start}?token={token}"


def _free_port(first: int) -> int:
    for port in range(first, min(first + _PORTS, 65_536)):
        with socket.socket() as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                trial.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError(f"no free port among the {_PORTS} from {first} on; name another with --port")


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
