"""A run by hand becomes a listed run: its files, its parameters, and the notebook as JupyterLab last saved it."""

from __future__ import annotations

import os
import shutil
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from egptlib._paths import write_json
from egptlib._sealed import folder_digests, write_sealed
from egptlib.reporting._notebooks import notebook_parameters, plan

if TYPE_CHECKING:  # it takes a second to import, in every kernel, and few runs are kept by hand
    import nbformat

_WAIT_SECONDS = 60.0  # for the notebook to be saved; our JupyterLab does so every five where it is not busy
_RESERVED = ("interactive", "report", "shared")
Plain = bool | int | float | str | list | tuple | dict | None


@dataclass(frozen=True)
class Session:
    """The kernel that a run by hand was opened in.

    Attributes:
        shell: IPython's.
        values: what the notebook's names stood for then: a loop may use one of them again.
        begun: seconds since 1970.
    """

    shell: Any
    values: dict[str, Any]
    begun: float

    @classmethod
    def here(cls) -> Session | None:
        """That of this kernel; None outside one."""
        shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
        if shell is None:
            return None
        plain = {k: v for k, v in shell.user_ns.items() if not k.startswith("_") and isinstance(v, Plain)}
        return cls(shell, {k: v.copy() if isinstance(v, list | dict) else v for k, v in plain.items()}, time.time())

    def notebook(self, name: str) -> Path:
        """The file that runs here, as JupyterLab or VS Code say; else NAME.ipynb in the working folder."""
        told = os.environ.get("JPY_SESSION_NAME") or self.shell.user_ns.get("__vsc_ipynb_file__") or f"{name}.ipynb"
        return Path(told).absolute()


def keep(session: Session, folder: Path, notebook: str, root: Path, name: str) -> Path:
    """Put a copy of a run by hand among the runs; see `Run.keep`."""
    final = root / name
    if name in _RESERVED or final.exists():
        raise FileExistsError(f"{final}: already there; keep the run under another name")
    path = session.notebook(notebook)
    content, remarks = _as_it_ran(path, session)
    declared = notebook_parameters(path)
    import nbformat

    job = plan([path], {k: v for k, v in session.values.items() if k in declared and k != "out"})[0]
    partial = root / f".{name}.{os.getpid()}.keeping"
    try:
        for source in sorted(folder.rglob("*")):
            if source.is_file() and source.stat().st_mtime >= session.begun - 1:  # what is older an earlier run left
                target = partial / source.relative_to(folder)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, target)
        write_json(partial / "params.json", dict(job.parameters))
        nbformat.write(content, partial / "out.ipynb")
        status = {
            "state": "done",
            "notebook": notebook,
            "started": datetime.fromtimestamp(session.begun, UTC).isoformat(timespec="seconds"),
            "seconds": round(time.time() - session.begun, 2),
            "by hand": remarks,
        }
        write_sealed(partial / "status.json", status | {"files": folder_digests(partial)})
        os.rename(partial, final)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return final


def _as_it_ran(path: Path, session: Session) -> tuple[nbformat.NotebookNode, str]:
    """Return the saved notebook without the cell that keeps it, and what is to be said of how it was run.

    Outputs of cells that this kernel did not run as they stand are left out, and these cells named.
    """
    ran = [source.strip() for source in session.shell.history_manager.input_hist_raw]
    now = len(ran) - 1  # execution_count is already the next one's in some versions
    deadline = time.monotonic() + _WAIT_SECONDS
    while not _is_saved(content := _read(path), ran, now):
        if time.monotonic() > deadline:
            raise ValueError(f"{path}: does not hold yet what ran last; save the notebook (Ctrl+S), then keep it again")
        time.sleep(0.5)
    content.cells = [cell for cell in content.cells if cell.source.strip() != ran[now]]
    missing, counts = [], []
    for number, cell in enumerate(content.cells, 1):
        if cell.cell_type != "code" or not cell.source.strip():
            continue
        count = cell.execution_count or 0
        if 0 < count < now and ran[count] == cell.source.strip():
            counts.append(count)
            cell.outputs = [
                output for output in cell.outputs if "%|" not in output.get("data", {}).get("text/plain", "")
            ]
        else:
            cell.outputs, cell.execution_count = [], None
            missing.append(str(number))
    remarks = "all cells, in their order" if counts == sorted(counts) else "not in the order of the cells"
    return content, remarks if not missing else f"{remarks}; not run as they stand: cells {', '.join(missing)}"


def _is_saved(content: nbformat.NotebookNode, ran: list[str], now: int) -> bool:
    """Whether the file holds the cell that ran before the one that runs now."""
    return now < 2 or any(
        cell.cell_type == "code" and cell.execution_count == now - 1 and cell.source.strip() == ran[now - 1]
        for cell in content.cells
    )


def _read(path: Path) -> nbformat.NotebookNode:
    import nbformat

    try:
        return nbformat.read(path, as_version=4)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such notebook; keep a run from the notebook that made it") from None
    except Exception:  # half written
        return nbformat.v4.new_notebook()
