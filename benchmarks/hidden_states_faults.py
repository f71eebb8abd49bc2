"""What a store survives: kills, flipped bits, truncations, a full disk, two writers. Prints its seed and counts.

    python benchmarks/hidden_states_faults.py [--seed 1] [--kills 200] [--flips 500] [--cuts 50] [--folder /dev/shm]
        [--only writing|extraction|disk|writers|damage ...]

Processes are killed by SIGKILL after a random time, and the next one resumes: 200 that write generated samples, and 200
that extract from `streets` with the mini pair, with small commits and chunks.
Ten minutes with the defaults. Exits non-zero at the first thing that is not as promised.
"""

import argparse
import contextlib
import functools
import io
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from egptlib.hidden_states import Head, HiddenSample, HiddenStates, HiddenStateWriter, check_store, extract
from egptlib.models import load_pair
from egptlib.scenes import open_scenes

COMMIT, CHUNK, SAMPLES = 5, 20, 130


def sample(number: int) -> dict[str, object]:
    generator = torch.Generator().manual_seed(number)
    length = 1 + number % 13
    ids = torch.randint(0, 32_000, (2, length), generator=generator)
    states, figures = torch.randn(2, length, 16, generator=generator), torch.rand(3, length, generator=generator)
    return {
        "drafter_hidden": states[0], "target_hidden": states[1], "token_ids": ids[0], "drafter_top1": ids[1],
        "overlap": figures[0], "drafter_confidence": figures[1], "target_entropy": figures[2],
        "metadata": {"scene": f"seq_{number // 9}/{number:06d}", "question": "What is moving?", "text": "a car " * 9},
    }  # fmt: skip


def write(folder: Path, pause: float = 0) -> None:
    """Write generated samples; resumes where the folder stands."""
    with HiddenStateWriter(folder, {"run": 1}, CHUNK, "bfloat16", COMMIT) as writer:
        writer.add_heads(target=Head(torch.eye(16), torch.ones(16), 1e-6))
        for number in range(len(writer), SAMPLES):
            time.sleep(pause)
            writer.add(**sample(number))  # type: ignore[arg-type]


def say_commits() -> None:
    """From now on this process prints how many samples are safe after each commit."""
    commit = HiddenStateWriter.commit

    def telling(self: HiddenStateWriter) -> None:
        commit(self)
        print(self.num_committed, flush=True)

    HiddenStateWriter.commit = telling  # type: ignore[method-assign]


def files(folder: Path) -> dict[str, bytes]:
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {name: data for name, data in found.items() if not name.endswith(".lock")}


def kills(work: Callable[[Path], None], seconds: float, folder: Path, count: int, rng: random.Random) -> str:
    """Fork (no second import of torch), kill within so many seconds, compare what was said with what is there."""
    work(folder / "whole")
    expected, scenes = files(folder / "whole"), keys(folder / "whole")
    done = runs = 0
    while done < count:
        runs += 1
        out = folder / f"kill{runs}"
        status = -1
        while status:
            read_end, write_end = os.pipe()
            child = os.fork()
            if child == 0:
                os.dup2(write_end, 1)
                os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
                sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
                say_commits()
                work(out)
                os._exit(0)
            os.close(write_end)
            time.sleep(rng.uniform(0, seconds))
            os.kill(child, signal.SIGKILL)
            with open(read_end) as pipe:
                said = [int(line) for line in pipe.read().split("\n")[:-1] if line.isdigit()]
            status = os.waitpid(child, 0)[1]
            assert status == 0 or os.WIFSIGNALED(status), f"the run ended by itself with {status}"
            done += status != 0
            if (out / "index.json").exists():
                there = keys(out)
                assert len(there) >= max(said, default=0), f"lost: {said[-1]} committed, {len(there)} there"
                assert there == scenes[: len(there)], "doubled or out of order"
        found = files(out)
        other = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
        assert not other, f"other bytes than a run that was not killed: {', '.join(other)}"
    return f"{done} kills in {runs} runs of {len(scenes)} samples: 0 lost, 0 doubled, 0 other bytes"


def keys(folder: Path) -> list[tuple[str, str]]:
    return [(m["scene"], m["question"]) for m in HiddenStates.open(folder).metadata()]


def extraction() -> Callable[[Path], None]:
    """A small extraction with the mini pair, in batches that commits and chunks cut."""
    pair, scenes = load_pair("mini"), open_scenes("streets", split="test", event_views=5).spread(8)
    options: dict[str, Any] = {"num_questions": 3, "max_new_tokens": 6, "batch_size": 6, "commit_every": 4}

    def work(folder: Path) -> None:
        extract(pair, scenes, folder, chunk_size=10, **options)

    return work


def read_some(folder: Path, truth: list[HiddenSample], rng: random.Random) -> None:
    """A sample is right or refused: each of ten."""
    for i in rng.sample(range(len(truth)), 10):
        expected = truth[i]
        try:
            found = HiddenStates.open(folder)[i]
        except (ValueError, FileNotFoundError):
            continue
        assert found.metadata == expected.metadata, "wrong metadata, silently"
        for name in ("drafter_hidden", "target_hidden", "token_ids", "drafter_top1", "overlap"):
            assert torch.equal(getattr(found, name), getattr(expected, name)), f"wrong {name}, silently"


def damage(folder: Path, flips: int, cuts: int, rng: random.Random) -> str:
    truth = list(HiddenStates.open(folder))
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock")
    sizes = [path.stat().st_size for path in paths]
    for _ in range(flips):
        (path,) = rng.choices(paths, sizes)
        whole = path.read_bytes()
        bit = rng.randrange(8 * len(whole))
        data = bytearray(whole)
        data[bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
        assert check_store(folder, deep=True), f"bit {bit} of {path.name} not found"
        read_some(folder, truth, rng)
        path.write_bytes(whole)
    recovered = refused = 0
    for path in paths:
        whole = path.read_bytes()
        for _ in range(cuts):
            path.write_bytes(whole[: rng.randrange(len(whole))])
            assert check_store(folder), f"{path.name} cut, not found"
            read_some(folder, truth, rng)
            try:
                silent = contextlib.redirect_stdout(io.StringIO())  # it says what it mends
                with silent, HiddenStateWriter(folder, {"run": 1}, CHUNK, "bfloat16", COMMIT) as writer:
                    assert len(writer) == SAMPLES
                assert path.read_bytes() == whole or path.suffix != ".json"
                recovered += 1
            except (ValueError, OSError):
                refused += 1
            path.write_bytes(whole)
    found = f"{flips} flips: all found, 0 silent; {cuts} cuts of each of {len(paths)} files: 0 silent"
    return f"{found}, {recovered} mended or harmless, {refused} refused"


def full_disk(folder: Path, expected: dict[str, bytes]) -> str:
    """A size limit on the files of a process: writing stops with an error, then goes on without it."""
    out = folder / "full"
    code = f"import benchmarks.hidden_states_faults as f, pathlib; f.limited(pathlib.Path({str(out)!r}))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert "the disk is full" in result.stderr, result.stderr
    held = len(HiddenStates.open(out))
    assert check_store(out, deep=True) == []
    write(out)
    assert files(out) == expected
    return f"stopped with {held} samples whole, went on, same bytes"


def limited(folder: Path) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (9_000, 9_000))
    write(folder)


def two_writers(folder: Path, expected: dict[str, bytes]) -> str:
    """Two started together: one writes, the other is refused, and the folder is whole."""
    refused, times = 0, 20
    for number in range(times):
        out, children = folder / f"two{number}", []
        for _ in range(2):
            child = os.fork()
            if child == 0:
                try:
                    write(out, 0.001)
                except ValueError as error:
                    os._exit(3 if "another writer is at work" in str(error) else 1)
                os._exit(0)
            children.append(child)
        codes = sorted(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children)
        assert codes in ([0, 3], [0, 0]), f"exit codes {codes}"
        refused += codes[1] == 3
        assert files(out) == expected, "other bytes than one writer"
    return f"two started together, {times} times: one of them refused in {refused}, same bytes"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--flips", type=int, default=500)
    parser.add_argument("--cuts", type=int, default=50)
    parser.add_argument("--only", choices=["writing", "extraction", "disk", "writers", "damage"], action="append")
    parser.add_argument("--folder", default=None, help="Where to work; a tmpfs keeps the disk out of it.")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"seed {arguments.seed}")
    rng = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory(prefix="egptlib-faults-", dir=arguments.folder) as name:
        folder = Path(name)
        write(folder / "whole")
        expected = files(folder / "whole")
        parts: dict[str, Callable[[], str]] = {
            "writing": lambda: kills(functools.partial(write, pause=0.0005), 0.12, folder / "w", arguments.kills, rng),
            "extraction": lambda: kills(extraction(), 1.5, folder / "e", arguments.kills, rng),
            "disk": lambda: full_disk(folder, expected),
            "writers": lambda: two_writers(folder, expected),
            "damage": lambda: damage(folder / "whole", arguments.flips, arguments.cuts, rng),
        }
        for part in arguments.only or parts:
            print(f"{part}: {parts[part]()}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
