"""Child process of `egptlib run`: executes one notebook and writes its status.

``python -m egptlib.reporting._execute NOTEBOOK RUN_FOLDER TIMEOUT``, with ``params.json`` in the run folder. It ends
when its parent does, and its kernel with it: a sweep that was killed leaves nothing that runs on.
"""

import logging
import os
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from egptlib._paths import read_json, write_json
from egptlib._processes import end_with
from egptlib.reporting._kernels import forked_kernels
from egptlib.reporting._notebooks import cell_sources
from egptlib.reporting._runner import BAR, CELL, running_cell


def execute(notebook: Path, folder: Path, timeout: int) -> dict[str, Any]:
    """Execute `notebook` with the parameters in `folder`, keep ``out.ipynb`` there, and return its status.

    An error in the notebook, a cell slower than `timeout` seconds and a dead kernel all end up in the status.
    """
    forked = forked_kernels()
    sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]  # its grammar takes a second
    import papermill
    from nbclient.exceptions import CellTimeoutError, DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    status: dict[str, Any] = {
        "state": "failed",
        "notebook": notebook.stem,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    started = time.perf_counter()
    number = len(cell_sources(notebook))

    def tell(cell: Any, cell_index: int) -> None:  # counted as in `running_cell`
        (folder / BAR).unlink(missing_ok=True)
        (folder / CELL).write_text(f"{cell_index} of {number}", encoding="utf-8")

    try:
        papermill.execute_notebook(
            notebook,
            folder / "out.ipynb",
            parameters={**read_json(folder / "params.json"), "out": str(folder)},
            kernel_name="python3",
            cwd=notebook.parent,
            progress_bar=False,
            execution_timeout=timeout,
            start_timeout=120,
            on_cell_start=tell,
            **forked,
        )
        status["state"] = "done"
    except PapermillExecutionError as error:
        # Counted as in the source, from 1: see `running_cell`.
        status["error"] = {"cell": error.cell_index, "name": error.ename, "value": error.evalue}
    except (CellTimeoutError, DeadKernelError) as error:
        status["error"] = {
            "cell": running_cell(folder / "out.ipynb"),
            "name": type(error).__name__,
            "value": str(error),
        }
    status["seconds"] = round(time.perf_counter() - started, 2)
    return status


if __name__ == "__main__":
    end_with(os.getppid())  # ipykernel watches us in the same way
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    run_folder = Path(sys.argv[2])
    result = execute(Path(sys.argv[1]), run_folder, int(sys.argv[3]))
    write_json(run_folder / "status.json", result)
    sys.exit(0 if result["state"] == "done" else 1)
