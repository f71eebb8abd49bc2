"""Extraction and its store on the mini pair, row by row, each against its baseline and with the same answers checked.

    python benchmarks/hidden_states.py [--only ROW ...] [--scenes 20] [--questions 10] [--gigabytes 1] [--wide FOLDER]

Rows: extraction, ties, disk, writing, cold, stream, memory, metrics, workers; each is a few minutes at most. The
baseline of the extraction is the earlier way: every pair on its own, transformers' `generate` with all hidden states of
all steps, the last layer and position picked from each. Reading is measured on generated samples of hidden size 4096,
bfloat16, 50 positions; `--wide` keeps them in a folder for the next call. Exits non-zero where an answer differs or a
required figure is missed.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from transformers import GenerationMixin

from egptlib.hidden_states import HiddenStates, HiddenStateWriter, extract, extract_shards
from egptlib.metrics import AcceptanceAccumulator
from egptlib.models import Model, Pair, Prompt, load_pair
from egptlib.scenes import SceneFolder, open_scenes

TOKENS = 50
WIDTH, LENGTH, PER_CHUNK, BATCH = 4096, 50, 250, 64
missed: list[str] = []


@dataclass
class Setup:
    """What the rows share; made when it is first asked for."""

    folder: Path
    wide_folder: Path
    num_scenes: int
    questions: int
    gigabytes: float

    @cached_property
    def scenes(self) -> SceneFolder:
        return open_scenes("streets", split="test", event_views=5).spread(self.num_scenes)

    @cached_property
    def pair(self) -> Pair:
        return load_pair("mini")

    @cached_property
    def wide(self) -> HiddenStates:
        """Generated samples of both models' states, as many gigabytes as asked."""
        num_chunks = max(2, round(self.gigabytes * 1e9 / (PER_CHUNK * LENGTH * WIDTH * 4)))
        base = torch.randn(LENGTH, WIDTH, generator=torch.Generator().manual_seed(0))
        generator = torch.Generator()
        config = {"samples": num_chunks * PER_CHUNK}
        with HiddenStateWriter(self.wide_folder, config, PER_CHUNK, "bfloat16", PER_CHUNK) as writer:
            for i in range(len(writer), num_chunks * PER_CHUNK):
                target = torch.roll(base, i, 1)
                noise = 0.2 + 0.6 * torch.rand(
                    LENGTH, 1, generator=generator
                )  # cosines on both sides of the thresholds
                cut = LENGTH - i % 7
                writer.add(
                    (target + noise * base)[:cut], target[:cut], torch.arange(cut), torch.arange(cut), torch.rand(cut),
                    {"scene": str(i), "question": "What is moving?", "sequence": str(i // 9)},
                )  # fmt: skip
        return HiddenStates.open(self.wide_folder)

    @property
    def wide_paths(self) -> list[Path]:
        return sorted((self.wide.folder / "chunks").iterdir())

    @cached_property
    def padded_chunk(self) -> Path:
        """The first chunk of `wide` as the earlier writer left it: float32, padded, `torch.save`."""
        (batch,) = self.wide[:PER_CHUNK].chunks(PER_CHUNK)
        path = self.folder / "chunk.pt"
        torch.save({"d": batch.drafter_hidden.float(), "t": batch.target_hidden.float(), "n": batch.mask.sum(1)}, path)
        return path


def report(what: str, figure: float, bound: float, at_least: bool = True) -> None:
    good = figure >= bound if at_least else figure <= bound
    print(f"{what}: {figure:.4g} ({'at least' if at_least else 'at most'} {bound:g}){'' if good else '  MISSED'}")
    if not good:
        missed.append(what)


def timed(function: Callable[[], Any]) -> tuple[Any, float]:
    start = time.perf_counter()
    result = function()
    return result, time.perf_counter() - start


@torch.no_grad()
def earlier_answer(model: Model, scene: Any, question: str) -> tuple[list[int], torch.Tensor]:
    embeds = Prompt.of(model.embed(model.encode(scene, question))).embeds
    out = GenerationMixin.generate(
        model.module, inputs_embeds=embeds, attention_mask=torch.ones(embeds.shape[:2], dtype=torch.long),
        do_sample=False, max_new_tokens=TOKENS, output_hidden_states=True, return_dict_in_generate=True,
    )  # fmt: skip
    hidden = torch.stack([step[-1][0, -1] for step in out.hidden_states])
    return out.sequences[0].tolist(), hidden


def extraction(s: Setup) -> None:
    options: dict[str, Any] = {"path": "free", "max_new_tokens": TOKENS, "num_questions": s.questions}
    extract(s.pair, s.scenes[:2], s.folder / "warm", **options)

    def earlier_extraction() -> dict[tuple[str, str], Any]:
        return {
            (scene.id, question): [earlier_answer(model, scene, question) for model in (s.pair.drafter, s.pair.target)]
            for scene in s.scenes
            for question in scene.questions[: s.questions]
        }

    earlier, slow = timed(earlier_extraction)
    done, fast = timed(lambda: extract(s.pair, s.scenes, s.folder / "float32", dtype="float32", **options))
    print(f"{len(earlier)} pairs: {slow:.1f} s the earlier way, {fast:.1f} s now; {done.num_ties} tied positions")
    report("extraction, times as fast", slow / fast, 5)
    worst = differing = 0.0
    for sample in HiddenStates.open(s.folder / "float32"):
        (drafter_ids, _), (target_ids, hidden) = earlier[sample.metadata["scene"], sample.metadata["question"]]
        if (sample.metadata["drafter_ids"], sample.metadata["target_ids"]) != (drafter_ids, target_ids):
            differing += 1
        else:
            worst = max(worst, (hidden[: len(sample)] - sample.target_hidden).abs().max().item())
    report("answers that differ, float32", differing, 0, at_least=False)
    report("largest difference of a target state, float32", worst, 1e-4, at_least=False)


def ties(s: Setup) -> None:
    """Models in bfloat16, in batches and one at a time: where the two say different tokens, it was counted as a tie."""
    pair = load_pair("mini", dtype=torch.bfloat16)
    options: dict[str, Any] = {"max_new_tokens": TOKENS, "num_questions": s.questions}
    done = extract(pair, s.scenes, s.folder / "together", **options)
    extract(pair, s.scenes, s.folder / "alone", batch_size=1, **options)
    together, alone = HiddenStates.open(s.folder / "together"), HiddenStates.open(s.folder / "alone")
    heads = {
        "token_ids": ("target_hidden", together.target_head),
        "drafter_top1": ("drafter_hidden", together.drafter_head),
    }
    positions = 0
    differing: dict[str, list[float]] = {
        name: [] for name in heads
    }  # gap of the two best where it differs, in roundings
    for a, b in zip(together, alone, strict=True):
        assert a.token_ids is not None and b.token_ids is not None and a.metadata["question"] == b.metadata["question"]
        positions += len(a)
        same = F.pad(a.token_ids, (0, TOKENS - len(a)), value=-1) == F.pad(b.token_ids, (0, TOKENS - len(b)), value=-1)
        end = min(int(same.int().cumprod(0).sum()) + 1, len(a), len(b))  # up to here both have read the same
        for name, (states, head) in heads.items():
            for t in (getattr(a, name)[:end] != getattr(b, name)[:end]).nonzero()[:, 0].tolist():
                gaps = []
                for sample in (a, b):
                    best = head.logits(getattr(sample, states)[t]).float().topk(2).values
                    gaps.append(float((best[0] - best[1]) / (best[0].abs() * torch.finfo(torch.bfloat16).eps)))
                differing[name].append(min(gaps))
    print(f"bfloat16: {done.num_ties} of {positions} positions counted as tied within rounding")
    for name, found in differing.items():
        print(f"{name} that differ from one at a time: {len(found)}; gaps in roundings {[round(g, 1) for g in found]}")
        report(f"{name} that differ where no tie was counted", sum(gap > 4 for gap in found), 0, at_least=False)


def disk(s: Setup) -> None:
    """Along the target's path, as adapters are trained; and bytes of the earlier form of the very same samples."""
    options: dict[str, Any] = {"max_new_tokens": TOKENS, "num_questions": s.questions}
    extract(s.pair, s.scenes, s.folder / "bfloat16", dtype="bfloat16", **options)
    hs = HiddenStates.open(s.folder / "bfloat16")
    (batch,) = hs.chunks(len(hs))
    rest = (0, 0, 0, TOKENS - batch.mask.shape[1])
    drafter, target = F.pad(batch.drafter_hidden.float(), rest), F.pad(batch.target_hidden.float(), rest)
    content = {"egpt_hidden": drafter, "vl_hidden": target, "seq_lens": batch.mask.sum(1), "metadata": batch.metadata}
    torch.save(content, s.folder / "padded.pt")
    size = sum(path.stat().st_size for path in hs.folder.glob("chunks/*"))
    earlier = (s.folder / "padded.pt").stat().st_size
    raw = int(batch.mask.sum()) * 2 * (drafter.shape[-1] + target.shape[-1])
    print(f"{len(hs)} samples, {int(batch.mask.sum())} positions: {size} bytes, padded float32 {earlier}, raw {raw}")
    report("bytes, of those of the padded float32 file", size / earlier, 0.5, at_least=False)
    report("bytes, of those of the raw states", size / raw, 1.02, at_least=False)


def writing(s: Setup) -> None:
    """With a writer, and with `add` doing nothing, in turns; the medians."""
    options: dict[str, Any] = {"max_new_tokens": TOKENS, "num_questions": s.questions, "dtype": "bfloat16"}
    extract(s.pair, s.scenes[:2], s.folder / "warm", **options)
    times: dict[str, list[float]] = {"with": [], "without": []}
    original = HiddenStateWriter.add
    for repeat in range(5):
        times["with"].append(timed(lambda: extract(s.pair, s.scenes, s.folder / f"with{repeat}", **options))[1])  # noqa: B023
        HiddenStateWriter.add = lambda *arguments, **named: None  # type: ignore[method-assign]
        times["without"].append(timed(lambda: extract(s.pair, s.scenes, s.folder / f"no{repeat}", **options))[1])  # noqa: B023
        HiddenStateWriter.add = original  # type: ignore[method-assign]
    print({name: [round(seconds, 2) for seconds in values] for name, values in times.items()})
    slower = statistics.median(times["with"]) / statistics.median(times["without"]) - 1
    report("writing, part slower", slower, 0.05, at_least=False)


def drop_cache(paths: list[Path]) -> None:
    """Ask the system to forget these files, so that the next read comes from the disk."""
    for path in paths:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def cold(s: Setup) -> None:
    number = PER_CHUNK + 17
    (expected,) = s.wide[number : number + 1].stream(1).__next__()
    ratios = []
    for _ in range(5):
        drop_cache([s.padded_chunk, *s.wide_paths])
        slow = timed(lambda: torch.load(s.padded_chunk, weights_only=True)["t"][17])[1]
        sample, fast = timed(lambda: HiddenStates.open(s.wide.folder)[number])
        assert torch.equal(sample.target_hidden, expected.target_hidden)
        ratios.append(slow / fast)
    report("one sample, cold, times as fast as torch.load of its chunk", statistics.median(ratios), 20)


def read_bytes(paths: list[Path], size: int = 2**24) -> int:
    buffer, total = bytearray(size), 0
    for path in paths:
        with path.open("rb", buffering=0) as file:
            while count := file.readinto(buffer):
                total += count
    return total


def read_stream(folder: Path) -> int:
    return sum(len(sample) for part in HiddenStates.open(folder).stream(BATCH) for sample in part)


def stream(s: Setup) -> None:
    """All samples, checked, against reading the files.

    From the disk that is into one buffer of 16 MB that is used again and again. From the page cache such a copy stays
    in the processor's own cache, and is told as well; the row is against bytes that stay, as samples do: a file at a
    time, read whole.
    """
    paths, folder = s.wide_paths, s.wide.folder
    size = read_bytes(paths)
    for place in ("page cache", "disk"):
        slow, fast, reused = [], [], []
        for _ in range(15 if place == "page cache" else 5):
            if place == "disk":
                drop_cache(paths)
            slow.append(timed(lambda: read_bytes(paths) if place == "disk" else keep_bytes(paths))[1])  # noqa: B023
            if place == "disk":
                drop_cache(paths)
            fast.append(timed(lambda: read_stream(folder))[1])
            if place == "page cache":
                reused.append(timed(lambda: read_bytes(paths))[1] / fast[-1])
        if place == "page cache":
            against = f"{statistics.median(reused):.2f}, {min(reused):.2f} to {max(reused):.2f}"
            print(f"of the rate of a copy into one buffer of 16 MB: {against}")
        rates = [size / statistics.median(times) / 1e9 for times in (slow, fast)]
        print(f"{place}: bytes {rates[0]:.2f}, samples {rates[1]:.2f} GB a second")
        pairs = [a / b for a, b in zip(slow, fast)]
        print(f"{len(pairs)} times in turns: {min(pairs):.2f} to {max(pairs):.2f} of the bytes' rate")
        report(f"streaming all once from the {place}, of the bytes' rate", rates[1] / rates[0], 0.7)


def keep_bytes(paths: list[Path]) -> int:
    """Read a file at a time, whole, as one who wants to use its bytes."""
    return sum(len(path.read_bytes()) for path in paths)


def peak_growth(function: Callable[[], Any]) -> int:
    """Most bytes that this process held besides what it held before; mapped pages of files count."""
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
    before = memory("VmRSS")
    function()
    return memory("VmHWM") - before


def memory(what: str) -> int:
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(what)]
    return int(line.split()[1]) * 1024


def peak(s: Setup) -> None:
    """Every byte of every sample touched."""
    chunk = s.wide_paths[0].stat().st_size

    def touch(shuffle: bool) -> None:
        for part in HiddenStates.open(s.wide.folder).stream(BATCH, shuffle=shuffle):
            for sample in part:
                sample.drafter_hidden.view(torch.int16).amax(), sample.target_hidden.view(torch.int16).amax()

    touch(False)  # what torch keeps for itself is there from now on
    for order, shuffle in (("in order", False), ("shuffled", True)):
        growth = peak_growth(lambda: touch(shuffle)) / chunk  # noqa: B023
        report(f"peak memory of streaming {order}, in chunks of {chunk / 1e6:.0f} MB", growth, 2, at_least=False)


def metrics(s: Setup) -> None:
    """The earlier function, float32 and padded, on one chunk, which is what fits; both from the page cache."""
    thresholds, figures = (0.80, 0.85, 0.90, 0.95), {}

    def earlier() -> int:
        content = torch.load(s.padded_chunk, weights_only=True)
        cosine = F.cosine_similarity(content["d"], content["t"], dim=-1)
        mask = torch.arange(cosine.shape[1])[None, :] < content["n"][:, None]
        figures["earlier"] = [float(cosine[mask].mean())]
        for threshold in thresholds:
            accepted = (cosine > threshold) & mask
            figures["earlier"] += [float(accepted[mask].float().mean())]
            figures["earlier"] += [float(accepted.int().cumprod(1).sum(1).float().mean())]
        return int(content["n"].sum())

    def now(hs: HiddenStates) -> dict[str, Any]:
        accumulator = AcceptanceAccumulator(thresholds)
        for part in hs.stream(BATCH):
            accumulator.update_ragged([s.drafter_hidden for s in part], [s.target_hidden for s in part])
        return accumulator.compute()

    first = now(s.wide[:PER_CHUNK])
    positions, slow = timed(earlier)
    slow = min(slow, *(timed(earlier)[1] for _ in range(2)))
    found = [first["cos_sim_mean"]]
    for percent in (80, 85, 90, 95):
        found += [first[f"accept_{percent}"], first[f"consecutive_mean_{percent}"]]
    worst = max(abs(a - b) for a, b in zip(figures["earlier"], found, strict=True))
    report("largest difference of a figure on the first chunk", worst, 2e-4, at_least=False)
    size = read_bytes(s.wide_paths)
    everything, fast = timed(lambda: now(s.wide))
    rates = positions / slow, everything["total_valid_positions"] / fast
    print(f"{size / 1e9:.2f} GB; positions a second: {rates[0]:,.0f} the earlier way, {rates[1]:,.0f} now")
    report("metrics, positions a second, times the earlier", rates[1] / rates[0], 3)
    growth = peak_growth(lambda: now(s.wide)) / s.wide_paths[0].stat().st_size
    report("peak memory of the metrics, in chunks", growth, 2, at_least=False)


def workers(s: Setup) -> None:
    """Two processes against one, each with one thread, in turns; the medians. Models are loaded before."""
    options: dict[str, Any] = {"max_new_tokens": TOKENS, "num_questions": s.questions, "batch_size": 2 * s.questions}
    times: dict[int, list[float]] = {2: [], 1: []}

    def run(scenes: SceneFolder, number: int, num_shards: int, name: str) -> float:
        arguments = ({"name": "mini"}, scenes, s.folder / name, number, None, num_shards)
        return timed(lambda: extract_shards(*arguments, **options))[1]

    for number in times:
        seconds = run(s.scenes[:4], number, 2, f"warm{number}")
        print(f"{number} workers: {seconds:.1f} s with imports and models, for 4 scenes; not counted below")
    for repeat in range(3):
        for number, found in times.items():
            found.append(run(s.scenes, number, 10, f"w{number}-{repeat}"))
    print({number: [round(seconds, 2) for seconds in found] for number, found in times.items()})
    one, two = (HiddenStates.open(s.folder / f"w{number}-0") for number in (1, 2))
    assert len(one) == len(two) == len(s.scenes) * s.questions
    assert all(torch.equal(a.target_hidden, b.target_hidden) for a, b in zip(one, two))
    faster = statistics.median(times[1]) / statistics.median(times[2])
    report("two workers, times as fast as one", faster, 1.7)


ROWS: dict[str, Callable[[Setup], None]] = {
    "extraction": extraction, "ties": ties, "disk": disk, "writing": writing, "cold": cold,
    "stream": stream, "memory": peak, "metrics": metrics, "workers": workers,
}  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=ROWS, action="append", help="a row; may be repeated")
    parser.add_argument("--scenes", type=int, default=20)
    parser.add_argument("--questions", type=int, default=10)
    parser.add_argument("--gigabytes", type=float, default=1.0, help="of the generated samples")
    parser.add_argument("--wide", type=Path, help="where to keep them")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="egptlib-bench-") as name:
        folder = Path(name)
        wide = arguments.wide or folder / "wide"
        setup = Setup(folder, wide, arguments.scenes, arguments.questions, arguments.gigabytes)
        for row in arguments.only or ROWS:
            print(f"-- {row}", flush=True)
            ROWS[row](setup)
    for what in missed:
        print(f"missed: {what}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
