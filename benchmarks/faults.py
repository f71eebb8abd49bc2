"""What everything that is stored survives: kills, interrupts, flipped bits, cuts, a full disk, two at once, readers.

    python benchmarks/faults.py [--seed 1] [--only PART ...] [--kills 200] [--interrupts 2000] [--flips 500] [--cuts 20]
        [--demo runs] [--folder /dev/shm]

Stored are hidden states with their trace, adapters and their training, and runs of a sweep (with a stand-in for the
kernel, which would take most of the time). Each part does its work once undisturbed; then disturbed and taken up again
as often as asked; in the end the files must be the same, bit by bit (seconds aside). `flips` harms every kind of file
of a finished demo, `--demo`, by turns; without one, of the work above. Prints for each part that 0 were lost, doubled
or silently wrong, or ends with the first that is not as promised. Small: `--kills 10 --interrupts 60 --flips 100
--cuts 2 --times 2`.
"""

import argparse
import contextlib
import io
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from stored_works import Extraction, Files, Sweep, Training, Work, Writing  # type: ignore[import-not-found]
from torch import Tensor

import egptlib
from egptlib._sealed import read_sealed
from egptlib.adapters import TokenFolds
from egptlib.adapters._build import read_tensors
from egptlib.hidden_states import HiddenStates, HiddenStateWriter, check_store
from egptlib.metrics import Costs
from egptlib.reporting import check_runs
from egptlib.traces import Trace


def compare(work: Work, out: Path, expected: Files) -> None:
    found = work.files(out)
    other = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
    assert not other, f"other files than work that was not disturbed: {', '.join(other)}"
    shutil.rmtree(out)


def forked(action: Callable[[], None]) -> int:
    """Do it in a child, without a second import of torch; returns its process."""
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
        try:
            action()
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    return child


def kills(work: Work, folder: Path, count: int, rng: random.Random) -> str:
    """Look while the work is done, SIGKILL at any time, look, go on; what was told to be safe must be there."""
    os.waitpid(forked(lambda: work.do(folder / "whole")), 0)
    start = time.monotonic()
    os.waitpid(forked(lambda: work.do(folder / "timed")), 0)
    took, expected = time.monotonic() - start, work.files(folder / "whole")
    compare(work, folder / "timed", expected)
    done = runs = looks = 0
    while done < count:
        runs += 1
        out, status, safe = folder / f"kill{runs}", -1, 0
        while status:
            read_end, write_end = os.pipe()

            def telling(out: Path = out, write_end: int = write_end) -> None:
                commit = HiddenStateWriter.commit

                def told(self: HiddenStateWriter) -> None:
                    commit(self)
                    os.write(write_end, b"%d\n" % self.num_committed)

                HiddenStateWriter.commit = told  # type: ignore[method-assign]
                work.do(out)

            child = forked(telling)
            os.close(write_end)
            if done < count:
                end = time.monotonic() + rng.uniform(0, took)
                while (left := end - time.monotonic()) > 0:
                    work.whole(out)
                    looks += 1
                    time.sleep(min(left, took / 100))
                os.kill(child, signal.SIGKILL)
            with open(read_end, "rb") as pipe:
                safe = max([safe, *(int(line) for line in pipe.read().split(b"\n")[:-1])])
            status = os.waitpid(child, 0)[1]
            assert status == 0 or os.WIFSIGNALED(status), f"it ended by itself with {status}"
            done += status != 0
            work.whole(out)
            assert not safe or len(HiddenStates.open(out)) >= safe, "a committed sample is lost"
        compare(work, out, expected)
    return f"{done} kills in {runs} runs, {looks} looks meanwhile"


def traced(action: Callable[[], None], stop_at: int) -> int:
    """Do it with a KeyboardInterrupt before instruction number `stop_at` of the library; returns how many passed."""
    room, passed = str(Path(egptlib.__file__).parent), 0

    def follow(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal passed
        if not frame.f_code.co_filename.startswith(room):
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            passed += 1
            if passed == stop_at:
                sys.settrace(None)
                raise KeyboardInterrupt
        return follow

    sys.settrace(follow)
    try:
        action()
    except KeyboardInterrupt:
        assert stop_at > 0  # a real one ends the benchmark
    finally:
        sys.settrace(None)
    return passed


def interrupts(works: dict[str, Work], folder: Path, count: int, rng: random.Random) -> str:
    """Interrupted at a random instruction, nothing half done is there; the same work again ends with the same files."""
    told = []
    for name, work in works.items():
        work.do(folder / f"{name}-whole")
        expected = work.files(folder / f"{name}-whole")
        instructions = traced(lambda: work.do(folder / f"{name}-counted"), -1)  # noqa: B023
        for number in range(count // len(works)):
            out, stop_at = folder / f"{name}-{number}", rng.randrange(1, instructions)
            traced(lambda: work.do(out), stop_at)  # noqa: B023
            left = [path for path in out.rglob(".*") if path.is_file()]
            assert not left, f"left over after instruction {stop_at} of {name}: {left}"
            work.whole(out)
            work.do(out)
            compare(work, out, expected)
        told.append(f"{count // len(works)} in the {instructions:,} instructions of {name}")
    return ", ".join(told)


def look(path: Path) -> tuple[list[str], Any]:
    """What is found wrong with the folder that a file belongs to, and the values that the library still reads of it."""
    for folder in path.parents:
        if (folder / "index.json").is_file() and (folder / "writer.lock").is_file():
            return list(check_store(folder, deep=True)), store_values(folder)
        if (folder / "status.json").is_file():
            return check_runs(folder), {}
    readers: dict[str, Callable[[], Any]] = {
        "adapter.json": lambda: read_sealed(path)["settings"],
        "folds.json": lambda: TokenFolds.open(path.parent).histories,
        "settings.json": lambda: read_sealed(path),
        "history.json": lambda: read_sealed(path)["epochs"],
        "costs.json": lambda: Costs.load(path),
        "trace.parquet": lambda: repr(Trace.load(path).rows),
    }
    if path.suffix == ".safetensors":
        readers[path.name] = lambda: {name: plain(value) for name, value in read_tensors(path).items()}
    if path.name not in readers:
        return [], {}
    value = tried(readers[path.name])
    return [value] if isinstance(value, Refused) else [], {0: value}


class Refused(str):
    """Why something was not read."""


def tried(read: Callable[[], Any]) -> Any:
    try:
        return read()
    except (ValueError, FileNotFoundError) as error:
        return Refused(error)


def store_values(folder: Path) -> dict[int, Any]:
    """Each sample of a store by itself, and its trace."""

    def sample(i: int) -> Any:
        s = HiddenStates.open(folder)[i]
        return s.metadata, plain(s.target_hidden), plain(s.drafter_hidden), plain(s.token_ids)

    states, trace = tried(lambda: HiddenStates.open(folder)), folder / "trace.parquet"
    values: dict[int, Any] = {-1: tried(lambda: repr(Trace.load(trace).rows)) if trace.is_file() else None}
    if not isinstance(states, Refused):
        values |= {i: tried(partial(sample, i)) for i in range(len(states))}
    return values


def plain(tensor: Tensor | None) -> Any:
    return None if tensor is None else tensor.reshape(-1).contiguous().view(torch.uint8).numpy().tobytes()


def damage(demo: Path, flips: int, cuts: int, rng: random.Random) -> str:
    """One bit of each file by turns, and each file cut: it is named, or its values are the same; none is another."""
    paths = [path for path in sorted(demo.rglob("*")) if path.is_file() and path.stat().st_size]
    paths = [path for path in paths if path.suffix != ".lock" and path.relative_to(demo).parts[0] != "report"]
    truth: dict[Path, Any] = {}
    named = same = 0
    for number in range(flips + cuts * len(paths)):
        path = rng.choice(paths) if flips * 2 // 3 < number < flips else paths[number % len(paths)]
        if path not in truth:
            problems, truth[path] = look(path)
            assert not problems, problems
        whole = path.read_bytes()
        if number < flips:
            bit = rng.randrange(8 * len(whole))
            path.write_bytes(whole[: bit // 8] + bytes([whole[bit // 8] ^ 1 << bit % 8]) + whole[bit // 8 + 1 :])
        else:
            path.write_bytes(whole[: rng.randrange(len(whole))])
        problems, values = look(path)
        path.write_bytes(whole)
        for key, value in values.items():
            assert isinstance(value, Refused) or value == truth[path][key], f"{path}: another value, silently"
        assert problems or values == truth[path], f"{path}: not found by any check"
        named += bool(problems)
        same += not problems
    kinds = sorted({path.suffix or path.name for path in paths})
    told = f"{flips} flips and {cuts} cuts of each of {len(paths)} files ({' '.join(kinds)})"
    return f"{told}: {named} named, {same} with the same values"


def full_disk(works: dict[str, Work], folder: Path) -> str:
    """A size limit on the files of a process: it ends with an error, what is there is whole, and it goes on without."""
    for name, work in works.items():
        os.waitpid(forked(partial(work.do, folder / f"{name}-whole")), 0)  # else a decoder's threads are in here
        expected = work.files(folder / f"{name}-whole")
        largest = max(path.stat().st_size for path in (folder / f"{name}-whole").rglob("*") if path.is_file())
        for number in range(5):

            def limited(out: Path, work: Work = work, limit: int = largest * (number + 1) // 5 - 1) -> None:
                signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
                with contextlib.suppress(OSError):
                    work.do(out)
                    os._exit(1)  # it did not notice

            out = folder / f"{name}-{number}"
            status = os.waitpid(forked(lambda: limited(out)), 0)[1]  # noqa: B023
            assert status == 0, f"{name} did not end with an OSError"
            work.whole(out)
            work.do(out)
            compare(work, out, expected)
    return f"{', '.join(works)} each stopped at 5 limits with an error that says so, and went on"


def two_at_once(works: dict[str, Work], folder: Path, times: int) -> str:
    """Two of each in one folder, and a reader all the while."""
    refused = reads = 0
    for name, work in works.items():
        os.waitpid(forked(partial(work.do, folder / f"{name}-whole")), 0)  # else a decoder's threads are in here
        expected = work.files(folder / f"{name}-whole")
        for number in range(times):
            out = folder / f"{name}-{number}"

            def one(out: Path = out, work: Work = work) -> None:
                try:
                    work.do(out)
                except ValueError as error:
                    os._exit(3 if "another writer is at work" in str(error) else 1)

            children = {forked(one) for _ in range(2)}
            codes = []
            while children:
                work.whole(out)
                reads += 1
                child, status = os.waitpid(-1, os.WNOHANG)
                if child in children:
                    children.remove(child)
                    codes.append(os.waitstatus_to_exitcode(status))
            assert sorted(codes) in ([0, 3], [0, 0]), f"{name}: exit codes {codes}"
            refused += 3 in codes
            compare(work, out, expected)
    return f"{times} times two of {', '.join(works)}: one refused in {refused}; {reads} looks meanwhile"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in {"seed": 1, "kills": 200, "interrupts": 2000, "flips": 500, "cuts": 20, "times": 20}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    names = ("writer", "extraction", "training", "sweep", "interrupts", "flips", "disk", "two")
    parser.add_argument("--only", choices=names, action="append", help="a part; may be repeated")
    parser.add_argument("--demo", type=Path, help="a folder of runs, as `make demo` leaves it; it is copied")
    parser.add_argument("--folder", default=None, help="where to work; a tmpfs keeps the disk out of it")
    given = parser.parse_args()
    torch.set_num_threads(1)
    os.environ["EGPT_PROGRESS"] = os.devnull
    print(f"seed {given.seed}", flush=True)
    rng = random.Random(given.seed)
    with tempfile.TemporaryDirectory(prefix="egptlib-faults-", dir=given.folder) as name:
        folder = Path(name)
        works = {"writer": Writing(), "training": Training(folder / "states"), "sweep": Sweep(folder / "notebooks")}
        small, extraction = works | {"writer": Writing(23)}, Extraction()

        def demo() -> Path:
            if given.demo:
                return Path(shutil.copytree(given.demo, folder / "demo"))
            for name, work in works.items():
                work.do(folder / "demo" / name)
            return folder / "demo"

        parts: dict[str, Callable[[], str]] = {
            **{n: lambda n=n, w=w: kills(w, folder / n, given.kills, rng) for n, w in works.items()},  # type: ignore[misc]
            "extraction": lambda: kills(extraction, folder / "extraction", given.kills, rng),
            "interrupts": lambda: interrupts(small, folder / "interrupts", given.interrupts, rng),
            "flips": lambda: damage(demo(), given.flips, given.cuts, rng),
            "disk": lambda: full_disk(works | {"extraction": extraction}, folder / "disk"),
            "two": lambda: two_at_once(works | {"extraction": extraction}, folder / "two", given.times),
        }
        for part in given.only or names:
            start = time.monotonic()
            with contextlib.redirect_stdout(io.StringIO()):
                told = parts[part]()
            print(f"{part}: {told}: 0 lost, 0 doubled, 0 silently wrong ({time.monotonic() - start:.0f} s)", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
