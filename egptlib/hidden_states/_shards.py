"""Extraction in several processes, on this machine or a Dask cluster: shards side by side, joined by one index;
and which GPU each of them takes."""

from __future__ import annotations

import fcntl
import json
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from logging import getLogger
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from joblib import Parallel, delayed, parallel_config
from joblib.externals.loky.process_executor import TerminatedWorkerError

from egptlib._cluster import connect
from egptlib._processes import end_with
from egptlib._sealed import write_sealed
from egptlib.hidden_states._extract import Extraction, ExtractionSettings, extract
from egptlib.hidden_states._index import INDEX, PLAN, FolderLock, join_index, read_plan
from egptlib.hidden_states._recovery import remove_temporaries
from egptlib.hidden_states._trace import join_traces

if TYPE_CHECKING:
    from egptlib.models import Pair
    from egptlib.scenes import Scene

log = getLogger(__name__)
_watched: list[int] = []  # the process that this one ends with


def extract_shards(
    pair: Mapping[str, Any],
    scenes: Sequence[Scene],
    out: str | os.PathLike[str],
    workers: int = 2,
    cluster: str | None = None,
    num_shards: int | None = None,
    attempts: int = 3,
    **options: Any,
) -> Extraction:
    """`extract` spread over processes; the joined folder reads like one that a single process wrote.

    The scenes are cut into shards of whole batches; each is a folder of its own under `out/shards`, with its own lock
    and commits. A worker that dies loses at most what it had not committed: its shard is taken up again by another one,
    and nothing is written twice. At the end one index lists the chunks of all shards; none is copied.

    Args:
        pair: fields of `PairSettings`, loaded in each worker: {"name": "mini", "device": "cuda", ...}.
        scenes, out: as for `extract`; every worker must see the same paths.
        workers: processes on this machine, each with as many GPUs of its own as the pair names: "cuda:1" is one, of
            whatever number. Not used with `cluster`.
        cluster: address of a Dask scheduler ("tcp://127.0.0.1:8786"), whose workers take the shards;
            `requirements-cluster.txt` starts one under Slurm in five lines.
        num_shards: how finely to cut; what was begun keeps its number. None: four a worker.
        attempts: how often shards whose worker died are handed out again.
        options: further arguments of `extract`.

    Raises:
        ValueError: `out` was begun with another number of shards or scenes, or by a single process; or there are too
            few GPUs for so many workers.
        RuntimeError: workers died in every attempt.
    """
    if cluster is None:
        check_gpus(workers, own_devices(pair)[1])
    out = Path(out)
    start, lock = time.perf_counter(), FolderLock(out)
    try:
        remove_temporaries(out)
        parts = _plan(out, scenes, ExtractionSettings(**options).scenes_per_batch, num_shards or 4 * workers)
        parent = None if cluster or workers == 1 else os.getpid()
        jobs = [
            delayed(_shard)(dict(pair), scenes[first:last], out / "shards" / f"{number:03d}", options, parent)
            for number, (first, last) in enumerate(parts)
        ]
        done = _run(jobs, workers, cluster, attempts)
        join_index(out)
        join_traces(out, len(parts))
    except KeyboardInterrupt:  # joblib has ended the workers: at most what they had not committed is read again
        for shard in (out / "shards").glob("*"):
            remove_temporaries(shard)
        raise
    finally:
        lock.release()
    total = Extraction(
        out,
        num_extracted=sum(part.num_extracted for part in done),
        num_present=sum(part.num_present for part in done),
        num_failed=sum(part.num_failed for part in done),
        seconds=time.perf_counter() - start,
        num_ties=sum(part.num_ties for part in done),
    )
    log.info("%d shards joined: %s", len(parts), total)
    return total


@lru_cache(maxsize=1)
def _load(pair: str) -> Pair:
    from egptlib.models import PairSettings, load_pair

    return load_pair(PairSettings(**json.loads(pair)))


def _shard(
    pair: dict[str, Any], scenes: Sequence[Scene], folder: Path, options: dict[str, Any], parent: int | None
) -> Extraction:
    """One shard, in a worker, which ends when the process that handed it out does."""
    if parent is not None and not _watched:
        end_with(parent)
        _watched.append(parent)
    pair, num_gpus = own_devices(pair)
    claim_gpus(num_gpus)
    return extract(_load(json.dumps(pair, default=str, sort_keys=True)), scenes, folder, **options)


def _plan(out: Path, scenes: Sequence[Scene], per_batch: int, num_shards: int) -> list[tuple[int, int]]:
    """First and last scene of each shard, in whole batches; written down, and compared when it is continued."""
    if (out / INDEX).exists() and not (out / PLAN).exists():
        raise ValueError(f"{out / INDEX}: written by a single process; go on without workers, or take another folder")
    batches = -(-len(scenes) // per_batch)
    if (out / PLAN).exists():
        num_shards = read_plan(out)["num_shards"]
    num_shards = max(1, min(num_shards, batches))
    bounds = [min(len(scenes), batches * i // num_shards * per_batch) for i in range(num_shards + 1)]
    plan = {"num_shards": num_shards, "num_scenes": len(scenes), "bounds": bounds}
    if (out / PLAN).exists():
        there = read_plan(out)
        if there != plan:
            raise ValueError(
                f"{out / PLAN}: begun with {there['num_scenes']} scenes cut at {there['bounds']}, now "
                f"{len(scenes)} cut at {bounds}; continue with the same scenes and batch size, or take another folder"
            )
    else:
        write_sealed(out / PLAN, plan)
    return list(pairwise(bounds))


def _run(jobs: list[Any], workers: int, cluster: str | None, attempts: int) -> list[Extraction]:
    if cluster is not None:
        # Dask hands the tasks of a worker that died to another one by itself.
        with connect(cluster), parallel_config(backend="dask"):
            return Parallel(n_jobs=-1, batch_size=1)(jobs)
    for attempt in range(attempts):
        try:
            return Parallel(n_jobs=workers, batch_size=1)(jobs)
        except TerminatedWorkerError:
            log.warning("a worker died; taking up its shards again (attempt %d of %d)", attempt + 2, attempts)
    raise RuntimeError(f"workers died in each of {attempts} attempts: most likely they ran out of memory")


_claimed: list[int] = []  # open lock files of this process's GPUs


def own_devices(pair: Mapping[str, Any]) -> tuple[dict[str, Any], int]:
    """The fields of a pair on GPUs of its own, which a process counts from 0, and how many those are."""
    named: dict[str, int] = {}
    for side in ("device", "target_device"):
        device = torch.device(pair.get(side) or "cpu")
        if device.type == "cuda":
            named[side] = device.index or 0
    numbers = sorted(set(named.values()))
    return dict(pair) | {side: f"cuda:{numbers.index(number)}" for side, number in named.items()}, len(numbers)


def check_gpus(workers: int, count: int) -> None:
    """Raise ValueError where this machine has fewer GPUs than so many workers with `count` each need."""
    if (there := len(_visible())) < workers * count:
        each = "one GPU" if count == 1 else f"{count} GPUs"
        raise ValueError(f"workers: expected at most {there // count}, with {each} for each here, found {workers}")


def claim_gpus(count: int = 1) -> None:
    """Take GPUs of this machine that no other worker has, and hide the others; before CUDA is first used.

    Held by lock files until the process ends. Where CUDA_VISIBLE_DEVICES names exactly so many, those are it.

    Raises:
        RuntimeError: too few are free.
    """
    devices = _visible()
    if _claimed or count == 0 or (os.environ.get("CUDA_VISIBLE_DEVICES") and len(devices) == count):
        return
    taken = list[str]()
    for device in devices:
        place = Path(tempfile.gettempdir(), f"egptlib-{os.getuid()}-gpu-{device}.lock")
        file = os.open(place, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            continue
        _claimed.append(file)
        taken.append(device)
        if len(taken) == count:
            os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(taken)
            return
    while _claimed:
        os.close(_claimed.pop())
    wanted = "no free GPU" if count == 1 else f"no {count} free GPUs"
    raise RuntimeError(f"{wanted} among {', '.join(devices) or 'none'}: start fewer workers")


def _visible() -> list[str]:
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return [name.strip() for name in named.split(",")] if named else [str(i) for i in range(torch.cuda.device_count())]
