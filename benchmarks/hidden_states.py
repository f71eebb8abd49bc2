"""Extraction and its store on the mini pair, each against its baseline: speed, bytes, writing, reading, streaming.

    python benchmarks/hidden_states.py [--scenes 20] [--questions 10] [--reading-gb 1] [--workers]

Baseline of the extraction is the earlier way: every pair on its own, transformers' `generate` with all hidden states of
all steps, the last layer and position picked from each. Reading is measured on generated samples of hidden size 4096.
`--workers` adds two processes against one. Three minutes with the defaults. Exits non-zero where an answer differs or a
required figure is missed.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from transformers import GenerationMixin

from egptlib.hidden_states import HiddenStates, HiddenStateWriter, extract, extract_shards
from egptlib.metrics import AcceptanceAccumulator
from egptlib.models import Model, Pair, load_pair
from egptlib.scenes import open_scenes

TOKENS = 50
missed: list[str] = []


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
    embeds = model.embed(model.encode(scene, question))
    out = GenerationMixin.generate(
        model.module, inputs_embeds=embeds, attention_mask=torch.ones(embeds.shape[:2], dtype=torch.long),
        do_sample=False, max_new_tokens=TOKENS, output_hidden_states=True, return_dict_in_generate=True,
    )  # fmt: skip
    hidden = torch.stack([step[-1][0, -1] for step in out.hidden_states])
    return out.sequences[0].tolist(), hidden


def earlier_extraction(pair: Pair, scenes: Any, questions: int) -> dict[tuple[str, str], Any]:
    found = {}
    for scene in scenes:
        for question in scene.questions[:questions]:
            found[scene.id, question] = [earlier_answer(m, scene, question) for m in (pair.drafter, pair.target)]
    return found


def bench_extraction(pair: Pair, scenes: Any, questions: int, folder: Path) -> None:
    options: dict[str, Any] = {"path": "free", "max_new_tokens": TOKENS, "num_questions": questions}
    extract(pair, scenes[:2], folder / "warm", **options)
    earlier, slow = timed(lambda: earlier_extraction(pair, scenes, questions))
    _, fast = timed(lambda: extract(pair, scenes, folder / "new", dtype="bfloat16", **options))
    print(f"extraction: {slow:.1f} s the earlier way, {fast:.1f} s now")
    report("extraction, times as fast", slow / fast, 5)
    extract(pair, scenes, folder / "float32", dtype="float32", **options)
    worst = 0.0
    for sample in HiddenStates.open(folder / "float32"):
        (drafter_ids, _), (target_ids, hidden) = earlier[sample.metadata["scene"], sample.metadata["question"]]
        if (sample.metadata["drafter_ids"], sample.metadata["target_ids"]) != (drafter_ids, target_ids):
            missed.append(f"tokens of {sample.metadata['scene']}, {sample.metadata['question']!r}")
        else:
            worst = max(worst, (hidden[: len(sample)] - sample.target_hidden).abs().max().item())
    report("largest difference of a target state, float32", worst, 1e-4, at_least=False)
    bench_disk(folder)


def bench_disk(folder: Path) -> None:
    hs = HiddenStates.open(folder / "new")
    (batch,) = hs.chunks(len(hs))
    padded = folder / "padded.pt"
    torch.save(
        {"egpt_hidden": F.pad(batch.drafter_hidden.float(), (0, 0, 0, TOKENS - batch.mask.shape[1])),
         "vl_hidden": F.pad(batch.target_hidden.float(), (0, 0, 0, TOKENS - batch.mask.shape[1])),
         "seq_lens": batch.mask.sum(1), "metadata": batch.metadata},
        padded,
    )  # fmt: skip
    size = sum(path.stat().st_size for path in hs.folder.glob("chunks/*"))
    raw = int(batch.mask.sum()) * 2 * (batch.drafter_hidden.shape[-1] + batch.target_hidden.shape[-1])
    report("bytes of the padded float32 file", size / padded.stat().st_size, 0.5, at_least=False)
    print(f"bytes of the raw states, free path with both answers in its texts: {size / raw:.4f}")


def bench_writing(pair: Pair, scenes: Any, questions: int, folder: Path) -> None:
    """Samples per second with a writer, and with `add` and `commit` doing nothing; the middle of three runs."""
    options: dict[str, Any] = {"max_new_tokens": TOKENS, "num_questions": questions, "dtype": "bfloat16"}
    times: dict[str, list[float]] = {"with": [], "without": []}
    original = HiddenStateWriter.add
    for repeat in range(3):
        times["with"].append(timed(lambda: extract(pair, scenes, folder / f"with{repeat}", **options))[1])  # noqa: B023
        HiddenStateWriter.add = lambda *arguments, **named: None  # type: ignore[method-assign]
        times["without"].append(timed(lambda: extract(pair, scenes, folder / f"no{repeat}", **options))[1])  # noqa: B023
        HiddenStateWriter.add = original  # type: ignore[method-assign]
    report("writing, part slower", sorted(times["with"])[1] / sorted(times["without"])[1] - 1, 0.05, at_least=False)
    hs = HiddenStates.open(folder / "with0")
    positions = sum(len(sample) for sample in hs)
    size = sum(path.stat().st_size for path in hs.folder.glob("chunks/*"))
    widths = hs[0].drafter_hidden.shape[1] + hs[0].target_hidden.shape[1]
    report("bytes of the raw states, along the target's path", size / (2 * positions * widths), 1.02, at_least=False)


def drop_cache(paths: list[Path]) -> None:
    """Ask the system to forget these files, so that the next read comes from the disk."""
    for path in paths:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_bytes(paths: list[Path]) -> None:
    buffer = bytearray(2**24)
    for path in paths:
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


def bench_reading(gigabytes: float, folder: Path) -> None:
    width, length = 4096, 50
    generator = torch.Generator().manual_seed(0)
    per_chunk = 250
    num_chunks = max(2, round(gigabytes * 1e9 / (per_chunk * length * width * 4)))
    base = torch.randn(length, width, generator=generator)
    with HiddenStateWriter(folder / "wide", dtype="bfloat16", chunk_size=per_chunk, commit_every=per_chunk) as writer:
        for i in range(num_chunks * per_chunk):
            target = torch.roll(base, i, 1)
            cut = length - i % 7
            writer.add(
                (target + 0.5 * base)[:cut], target[:cut], torch.arange(cut), torch.arange(cut), torch.rand(cut),
                {"scene": str(i), "question": "What is moving?", "sequence": str(i // 9)},
            )  # fmt: skip
    hs = HiddenStates.open(folder / "wide")
    paths = sorted((folder / "wide" / "chunks").iterdir())
    (batch,) = hs[:per_chunk].chunks(per_chunk)
    old = folder / "chunk.pt"
    lengths = batch.mask.sum(1)
    torch.save({"d": batch.drafter_hidden.float(), "t": batch.target_hidden.float(), "n": lengths}, old)

    def one_old() -> Any:
        return torch.load(old, weights_only=True)["t"][17]

    ratios = []
    for _ in range(3):
        drop_cache([old, *paths])
        slow = timed(one_old)[1]
        ratios.append(slow / timed(lambda: HiddenStates.open(folder / "wide")[per_chunk + 17])[1])
    report("one sample, cold, times as fast as torch.load of its chunk", sorted(ratios)[1], 20)

    def stream() -> None:
        for part in HiddenStates.open(folder / "wide").stream(64):
            for sample in part:
                len(sample)

    for place in ("disk", "page cache"):
        found = []
        for _ in range(3):
            if place == "disk":
                drop_cache(paths)
            bytes_time = timed(lambda: read_bytes(paths))[1]
            if place == "disk":
                drop_cache(paths)
            found.append(bytes_time / timed(stream)[1])
        report(f"streaming all once from the {place}, of the bytes' rate", sorted(found)[1], 0.7)
    before = resident(peak=False)
    stream()
    chunk = paths[0].stat().st_size
    for part in HiddenStates.open(folder / "wide").stream(64):
        sum(sample.target_hidden.float().sum().item() for sample in part)
        before = min(before, resident(peak=False))
    report("memory of streaming, in chunks", (resident(peak=False) - before) / chunk, 2, at_least=False)

    d, t = batch.drafter_hidden.float(), batch.target_hidden.float()

    def earlier_metrics() -> None:
        cosine = F.cosine_similarity(d, t, dim=-1)
        for threshold in (0.80, 0.85, 0.90, 0.95):
            for row, n in zip(cosine, lengths.tolist()):
                next((i for i, value in enumerate(row[:n]) if value <= threshold), n)

    def metrics() -> None:
        accumulator = AcceptanceAccumulator()
        for part in hs.stream(64):
            accumulator.update_ragged([s.drafter_hidden for s in part], [s.target_hidden for s in part])
        accumulator.compute()

    reading, counting = timed(one_old)[1], timed(earlier_metrics)[1]
    slow = reading + counting
    _, fast = timed(metrics)
    positions = int(lengths.sum())
    report("metrics, positions a second", (num_chunks * positions / fast) / (positions / slow), 3)


def resident(peak: bool) -> int:
    """Bytes of this process in memory."""
    name = "VmHWM" if peak else "VmRSS"
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name)]
    return int(line.split()[1]) * 1024


def bench_workers(scenes: Any, questions: int, folder: Path) -> None:
    options: dict[str, Any] = {"max_new_tokens": TOKENS, "num_questions": questions, "batch_size": 20}
    seconds = {}
    for workers in (2, 1):
        # The first call starts the processes and loads the models; they are kept.
        extract_shards({"name": "mini"}, scenes[:4], folder / f"warm{workers}", workers, **options)
        run = lambda n=workers: extract_shards({"name": "mini"}, scenes, folder / f"w{n}", n, num_shards=10, **options)  # noqa: E731
        seconds[workers] = timed(run)[1]
    report("two workers, times as fast as one", seconds[1] / seconds[2], 1.7)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", type=int, default=20)
    parser.add_argument("--questions", type=int, default=10)
    parser.add_argument("--reading-gb", type=float, default=1.0)
    parser.add_argument("--only", choices=["extraction", "writing", "reading", "workers"], action="append")
    parser.add_argument("--workers", action="store_true")
    arguments = parser.parse_args()
    parts = arguments.only or ["extraction", "writing", "reading"] + ["workers"] * arguments.workers
    torch.set_num_threads(1)
    scenes = open_scenes("streets", split="test", event_views=5)
    scenes = scenes[:: max(1, len(scenes) // arguments.scenes)][: arguments.scenes]
    with tempfile.TemporaryDirectory(prefix="egptlib-bench-", dir=os.environ.get("TMPDIR")) as name:
        folder = Path(name)
        pair = load_pair("mini")
        if "extraction" in parts:
            bench_extraction(pair, scenes, arguments.questions, folder)
        if "writing" in parts:
            bench_writing(pair, scenes, arguments.questions, folder)
        if "reading" in parts:
            bench_reading(arguments.reading_gb, folder)
        if "workers" in parts:
            bench_workers(scenes, arguments.questions, folder)
    for what in missed:
        print(f"missed: {what}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
