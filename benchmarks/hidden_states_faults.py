"""What a store survives: kills, flipped bits, truncations, a full disk, two writers. Prints its seed and counts.

    python benchmarks/hidden_states_faults.py [--seed 1] [--kills 200] [--flips 500] [--cuts 50] [--folder /dev/shm]

The killed process writes generated samples with small commits and chunks, and is killed by SIGKILL after a random
time; the next one resumes. Three minutes with the defaults. Exits non-zero at the first thing that is not as promised.
"""

import argparse
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from egptlib.hidden_states import Head, HiddenSample, HiddenStates, HiddenStateWriter, check_store

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


def write(folder: Path, pause: float) -> None:
    """A small extraction: resumes where the folder stands, says after each commit how far it is."""
    with HiddenStateWriter(folder, {"run": 1}, CHUNK, "bfloat16", COMMIT) as writer:
        writer.add_heads(target=Head(torch.eye(16), torch.ones(16), 1e-6))
        for number in range(len(writer), SAMPLES):
            time.sleep(pause)
            before = writer.num_committed
            writer.add(**sample(number))  # type: ignore[arg-type]
            if writer.num_committed != before:
                print(writer.num_committed, flush=True)


def files(folder: Path) -> dict[str, bytes]:
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {name: data for name, data in found.items() if not name.endswith(".lock")}


def kills(folder: Path, expected: dict[str, bytes], count: int, rng: random.Random) -> str:
    """Fork (no second import of torch), kill, compare what was said to be committed with what is there."""
    import os

    done = runs = 0
    while done < count:
        runs += 1
        out = folder / f"kill{runs}"
        while True:
            read_end, write_end = os.pipe()
            child = os.fork()
            if child == 0:
                os.dup2(write_end, 1)
                sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
                write(out, 0.0005)
                os._exit(0)
            os.close(write_end)
            time.sleep(rng.uniform(0, 0.12))
            os.kill(child, signal.SIGKILL)
            with open(read_end) as pipe:
                said = [int(line) for line in pipe.read().split("\n")[:-1] if line.isdigit()]
            status = os.waitpid(child, 0)[1]
            killed = os.WIFSIGNALED(status)
            done += killed
            if (out / "index.json").exists():
                hs = HiddenStates.open(out)
                scenes = [m["scene"] for m in hs.metadata()]
                assert len(scenes) >= (said[-1] if said else 0), f"lost: {said[-1]} committed, {len(scenes)} there"
                assert scenes == [sample(i)["metadata"]["scene"] for i in range(len(scenes))], "doubled or out of order"  # type: ignore[index]
            if not killed:
                assert files(out) == expected, "other bytes than a run that was not killed"
                break
    while files(out) != expected:
        write(out, 0)
    return f"{done} kills in {runs} runs: 0 lost, 0 doubled, 0 other bytes"


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
                with HiddenStateWriter(folder, {"run": 1}, CHUNK, "bfloat16", COMMIT) as writer:
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
    write(out, 0)
    assert files(out) == expected
    return f"full disk: stopped with {held} samples whole, went on, same bytes"


def limited(folder: Path) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (9_000, 9_000))
    write(folder, 0)


def two_writers(folder: Path) -> str:
    with HiddenStateWriter(folder / "two"):
        code = f"from egptlib.hidden_states import HiddenStateWriter as W; W({str(folder / 'two')!r})"
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "another writer is at work" in result.stderr, result.stderr
    return "two writers: the second one refused, the first one named"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--flips", type=int, default=500)
    parser.add_argument("--cuts", type=int, default=50)
    parser.add_argument("--folder", default=None, help="Where to work; a tmpfs keeps the disk out of it.")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"seed {arguments.seed}")
    rng = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory(prefix="egptlib-faults-", dir=arguments.folder) as name:
        folder = Path(name)
        write(folder / "whole", 0)
        expected = files(folder / "whole")
        print(kills(folder, expected, arguments.kills, rng), flush=True)
        print(full_disk(folder, expected), flush=True)
        print(two_writers(folder), flush=True)
        print(damage(folder / "whole", arguments.flips, arguments.cuts, rng), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
