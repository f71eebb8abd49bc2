"""Execute notebooks: one process and one run folder each, several at a time, here or on a Dask cluster."""

import contextlib
import errno
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from egptlib._cluster import connect
from egptlib._paths import project_root, read_json, write_json
from egptlib._sealed import folder_digests, write_sealed
from egptlib.reporting._kernels import import_ahead, shared_imports
from egptlib.reporting._notebooks import Job, cells_digest
from egptlib.reporting._runs import read_status

CELL, BAR = ".cell", ".bar"  # in a run's folder while it runs: "5 of 23", and the newest line of a bar


def running_notebooks(root: Path) -> list[str]:
    """Return a line for each notebook that runs below `root`: its name, its cell, and that one's bar."""
    lines = []
    for cell in sorted(root.glob(f".*.partial/{CELL}")):
        with contextlib.suppress(OSError, ValueError):  # it has just ended
            bar = cell.with_name(BAR)
            at = bar.read_text(encoding="utf-8") if bar.is_file() else ""
            name = cell.parent.name[1:].split("-")[0]
            lines.append(f"{name}, cell {cell.read_text(encoding='utf-8')}{': ' * bool(at)}{at}")
    return lines


class ProgressLine:
    """One line at the end of a terminal, drawn twice a second; nothing where stderr is none."""

    def __init__(self, root: Path) -> None:
        self._root, self._lock, self._width = root, threading.Lock(), 0

    @contextlib.contextmanager
    def shown(self) -> Iterator[None]:
        """Draw it while the block runs."""
        if not sys.stderr.isatty():
            yield
            return
        ended = threading.Event()
        thread = threading.Thread(target=self._draw, args=(ended,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            self.clear()

    def clear(self) -> None:
        """Take it away, for what is printed next."""
        with self._lock:
            self._write("")

    def _draw(self, ended: threading.Event) -> None:
        while not ended.wait(0.5):
            with self._lock:
                self._write(" | ".join(running_notebooks(self._root)))

    def _write(self, line: str) -> None:
        line = line[: shutil.get_terminal_size().columns - 1]
        if line or self._width:
            sys.stderr.write(f"\r{line:<{self._width}}" + ("" if line else "\r"))
            sys.stderr.flush()
        self._width = len(line)


# What a kernel without anyone watching needs. Figures go through matplotlib's inline backend whatever the shell says.
_HEADLESS = {
    "EGPT_HEADLESS": "1",
    "TQDM_DISABLE": "1",
    "MPLBACKEND": "module://matplotlib_inline.backend_inline",
    "JUPYTER_PREFER_ENV_PATH": "1",  # this environment's kernel, not one in the user's home
    "PYDEVD_DISABLE_FILE_VALIDATION": "1",
    "PYTHONUNBUFFERED": "1",
}

_EXECUTE = "egptlib.reporting._execute"
_interrupted = threading.Event()  # of this process


class Limits(NamedTuple):
    """Seconds that one cell may take, and one notebook; without the latter only its cells are limited."""

    cell: int = 1800
    notebook: int | None = None


@dataclass(frozen=True)
class Outcome:
    """How one job ended: state is "done", "skipped" (done earlier) or "failed"; error is one line."""

    job: Job
    folder: Path
    state: str
    seconds: float
    error: str | None = None


def run_notebooks(
    jobs: Sequence[Job],
    root: Path,
    *,
    limits: Limits = Limits(),  # noqa: B008
    force: bool = False,
    workers: int = 1,
    cluster: str | None = None,
    report: Callable[[Outcome], None] | None = None,
    prepare: Callable[[], None] | None = None,
) -> list[Outcome]:
    """Run each job in a process of its own; a failing one does not stop the others.

    Equal jobs run once. When this process is killed its notebooks end too, and the same call goes on where it
    stopped: what is done is skipped, what was half done is begun again. Ctrl-C leaves nothing that is half done.

    Args:
        jobs: what `plan` returned.
        root: folder for the run folders; on a cluster one that all its machines see under this name.
        limits: what may take how long.
        force: run again what is done already.
        workers: notebooks at the same time. The cores are shared out among them. On a cluster its threads count.
        cluster: address of a Dask scheduler, as in ``tcp://127.0.0.1:8786``, through joblib's Dask backend.
        report: called with each outcome as soon as it is known.
        prepare: called before the first notebook, while what kernels are forked from imports.

    Returns:
        One outcome per different job, in the order of `jobs`.

    Raises:
        OSError: no scheduler answers at `cluster`.
    """
    import joblib

    root.mkdir(parents=True, exist_ok=True)
    unique = {job.name: job for job in jobs}
    # Two notebooks may want the same hidden states: the second waits until the first has extracted them.
    environment = _HEADLESS | {"EGPTLIB_LOCK_SECONDS": str(limits.cell)}
    outcomes: dict[str, Outcome] = {}
    _interrupted.clear()
    line = ProgressLine(root)
    with shared_imports(environment, cluster is None) as shared, _nothing_left(root), line.shown():
        if prepare is not None:
            if force or any((read_status(root / name) or {}).get("state") != "done" for name in unique):
                import_ahead(shared)
            prepare()
        for alone, at_once in ((False, workers), (True, 1)):
            told = environment | shared | _threads(at_once)
            tasks = [
                joblib.delayed(_run)(job, name, root.resolve(), limits, force, told)
                for name, job in unique.items()
                if job.alone == alone
            ]
            if not tasks:
                continue
            with _backend(at_once, cluster):
                parallel = joblib.Parallel(return_as="generator_unordered", batch_size=1, pre_dispatch="2*n_jobs")
                for name, outcome in parallel(tasks):
                    outcomes[name] = outcome
                    if report is not None:
                        line.clear()
                        report(outcome)
    return [outcomes[name] for name in unique]


@contextlib.contextmanager
def _nothing_left(root: Path) -> Iterator[None]:
    """On an interrupt end the notebooks that run, their kernels too, and remove what they had begun."""
    try:
        yield
    except KeyboardInterrupt:
        _interrupted.set()  # before a thread sees its process end
        for partial in root.resolve().glob(f".*.{_host()}.{os.getpid()}.partial"):
            _end(partial)
            shutil.rmtree(partial, ignore_errors=True)
        raise


def _end(partial: Path) -> None:
    """End whatever executes a notebook into this folder, with its kernel; not this process, which may hold its log."""
    running: list[psutil.Process] = []
    for process in psutil.process_iter():
        if process.pid == os.getpid():
            continue
        with contextlib.suppress(psutil.Error):  # one that has ended meanwhile
            opened = (file.path for file in process.open_files())  # a forked kernel writes to its log
            if str(partial) in process.cmdline() or any(path.startswith(f"{partial}/") for path in opened):
                running += [process, *process.children(recursive=True)]
    for process in running:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(running, timeout=10)


@contextlib.contextmanager
def _backend(workers: int, cluster: str | None) -> Iterator[None]:
    """Choose where joblib runs what it is given: threads that each wait for a process, or a cluster's workers."""
    import joblib

    if cluster is None:
        with joblib.parallel_config(backend="threading", n_jobs=workers):
            yield
        return
    with connect(cluster), joblib.parallel_config(backend="dask", wait_for_workers_timeout=60):
        yield


def _threads(workers: int) -> dict[str, str]:
    """Share the cores among the workers, unless the shell has said how many threads each may use."""
    if workers == 1 or "OMP_NUM_THREADS" in os.environ:
        return {}
    return {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // workers))}


def _run(
    job: Job,
    name: str,
    root: Path,
    limits: Limits,
    force: bool,
    environment: Mapping[str, str],
) -> tuple[str, Outcome]:
    """Run one job, unless it is done already. `name` is `job.name` as the caller knows it."""
    if _interrupted.is_set():
        raise KeyboardInterrupt
    final = root / name
    status = read_status(final)
    if status and status.get("state") == "done" and not force:
        return name, Outcome(job, final, "skipped", float(status.get("seconds", 0.0)))
    _remove_abandoned(root, name)
    partial = root / f".{name}.{_host()}.{os.getpid()}.partial"
    partial.mkdir()
    write_json(partial / "params.json", dict(job.parameters))
    started = time.perf_counter()
    command = [sys.executable, "-m", _EXECUTE]
    ended = ""
    with open(partial / "log.txt", "wb") as log:
        try:
            process = subprocess.run(
                [*command, str(job.notebook.resolve()), str(partial), str(limits.cell)],
                env=os.environ | environment | {"EGPT_PROGRESS": str(partial / BAR)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                timeout=limits.notebook,
                check=False,
            )
            ended = f"process ended with code {process.returncode}"
        except subprocess.TimeoutExpired:
            ended = f"stopped after {limits.notebook} s"
    if _interrupted.is_set():
        shutil.rmtree(partial, ignore_errors=True)
        raise KeyboardInterrupt
    seconds = time.perf_counter() - started
    status = read_status(partial)
    if status is None:  # killed, or out of memory: it could not say so itself
        tail = (partial / "log.txt").read_text(errors="replace").strip().splitlines()[-1:]
        status = {
            "state": "failed",
            "notebook": job.notebook.stem,
            "seconds": round(seconds, 2),
            "error": {"cell": running_cell(partial / "out.ipynb"), "name": ended, "value": "".join(tail)},
        }
    for file in ("status.json", CELL, BAR):  # the child's, without the digests of what it left
        (partial / file).unlink(missing_ok=True)
    write_sealed(partial / "status.json", status | _source(job.notebook) | {"files": folder_digests(partial)})
    _publish(partial, final)
    if status["state"] == "done":
        return name, Outcome(job, final, "done", seconds)
    return name, Outcome(job, final, "failed", seconds, describe_error(status))


def _source(notebook: Path) -> dict[str, str]:
    """Which notebook ran: its file, from the checkout where it is there, and a digest of what its cells say."""
    path, root = notebook.resolve(), project_root()
    name = str(path.relative_to(root) if root and path.is_relative_to(root) else path)
    return {"source": name, "cells": cells_digest(notebook)[:12]}


def _publish(partial: Path, final: Path) -> None:
    """Put a run in the place of an older one, which another process may do at the same time."""
    aside = partial.with_suffix(".replaced")
    while True:
        with contextlib.suppress(FileNotFoundError):
            os.replace(final, aside)
        try:
            os.replace(partial, final)
            break
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            shutil.rmtree(aside, ignore_errors=True)
    shutil.rmtree(aside, ignore_errors=True)


def describe_error(status: Mapping[str, Any]) -> str:
    """Return one line that names notebook, cell and error of a failed run, from its ``status.json``."""
    error = status.get("error") or {}
    cell = f", cell {error['cell']}" if error.get("cell") is not None else ""
    value = str(error.get("value", "")).strip().splitlines()
    return f"{status.get('notebook')}{cell}: {error.get('name')}: {value[0] if value else ''}"


def running_cell(executed: Path) -> int | None:
    """Return the cell that was running when papermill last saved this notebook, counted as in the source, from 1.

    papermill counts from 0 in a notebook with one cell more (the injected parameters), which is the same.
    """
    try:
        cells = read_json(executed).get("cells", [])
    except (OSError, ValueError):
        return None
    states = [cell.get("metadata", {}).get("papermill", {}).get("status") for cell in cells]
    return states.index("running") if "running" in states else None


def _host() -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", socket.gethostname())


def _remove_abandoned(root: Path, name: str) -> None:
    """Remove what runs left whose process on this machine was killed, and what this one left of the same name."""
    pattern = re.compile(rf"\.(.+)\.{re.escape(_host())}\.(\d+)\.(partial|replaced)")
    for folder in root.glob(".*"):
        if found := pattern.fullmatch(folder.name):
            owner = int(found[2])
            if found[1] == name if owner == os.getpid() else not psutil.pid_exists(owner):
                _end(folder)  # a child notices a little later that its parent was killed
                shutil.rmtree(folder, ignore_errors=True)  # another thread may be doing the same
