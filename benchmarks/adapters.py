"""Training an adapter from the store against the loop it replaces, on the same states and the same model.

    python -m benchmarks.adapters [--samples 2000] [--width 1024] [--repeats 2]

The baseline is the earlier trainer's loop: `torch.load` of a padded float32 chunk at a time, all its padded positions
through the adapter, a masked MSE + 0.5 (1 - cos). Both run one epoch of L1 with the same loss and AdamW, each in a
fresh process, so that peak memory is its own. Printed: valid positions per second, peak memory above that of an
idle process, and the ratio. Takes about two minutes at the defaults.
"""

import argparse
import json
import multiprocessing
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from egptlib.adapters import LossSettings, create_adapter
from egptlib.adapters._train import Objective
from egptlib.hidden_states import HiddenStates, HiddenStateWriter

CHUNK, BATCH, LONGEST = 500, 32, 50


def make(folder: Path, samples: int, width: int) -> None:
    """The same random answers of 10 to 50 tokens twice: in the store, and as padded chunks."""
    generator = torch.Generator().manual_seed(0)
    (folder / "padded").mkdir()
    with HiddenStateWriter(folder / "store") as writer:
        for start in range(0, samples, CHUNK):
            count = min(CHUNK, samples - start)
            lengths = torch.randint(10, LONGEST + 1, (count,), generator=generator)
            drafter, target = torch.randn(2, count, LONGEST, width, generator=generator)
            for i, n in enumerate(lengths.tolist()):
                drafter[i, n:], target[i, n:] = 0, 0
                note = {"scene": str(start + i), "sequence": "s", "question": "q"}
                writer.add(drafter[i, :n].clone(), target[i, :n].clone(), metadata=note)
            chunk = {"egpt_hidden": drafter, "vl_hidden": target, "seq_lens": lengths}
            torch.save(chunk, folder / "padded" / f"chunk_{start:06d}.pt")


def baseline(folder: Path, model: Any, optimiser: Any) -> int:
    positions = 0
    for path in sorted((folder / "padded").iterdir()):
        chunk = torch.load(path, weights_only=True)
        for rows in torch.randperm(len(chunk["seq_lens"])).split(BATCH):
            drafter, target, lengths = (chunk[name][rows] for name in ("egpt_hidden", "vl_hidden", "seq_lens"))
            mask = (torch.arange(drafter.shape[1])[None] < lengths[:, None]).float()
            out = model(drafter)
            mse = ((out - target).square().mean(dim=-1) * mask).sum() / mask.sum()
            cosine = ((1 - F.cosine_similarity(out, target, dim=-1)) * mask).sum() / mask.sum()
            (mse + 0.5 * cosine).backward()
            optimiser.step()
            optimiser.zero_grad()
            positions += int(lengths.sum())
    return positions


def ours(folder: Path, model: Any, optimiser: Any) -> int:
    positions = 0
    width = model.settings.hidden_size
    objective = Objective(model, torch.zeros(1, width), LossSettings(token=0.0, kl=0.0))
    for batch in HiddenStates.open(folder / "store").stream(BATCH, shuffle=True, seed=1):
        objective(padded := batch.padded())["loss"].backward()
        optimiser.step()
        optimiser.zero_grad()
        positions += int(padded.mask.sum())
    return positions


def measure(name: str, folder: str, width: int, queue: Any) -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = create_adapter("L1", width)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4)
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far, from the imports, is forgotten
    idle = resident("VmHWM")
    start = time.perf_counter()
    positions = {"baseline": baseline, "ours": ours}[name](Path(folder), model, optimiser)
    seconds = time.perf_counter() - start
    queue.put((positions / seconds, resident("VmHWM") - idle))


def resident(name: str) -> float:
    """A figure of /proc/self/status in MB: VmHWM is the peak of the resident memory."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=2)
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    best: dict[str, tuple[float, float]] = {}
    with tempfile.TemporaryDirectory() as name:
        make(Path(name), options.samples, options.width)
        chunk = max(path.stat().st_size for path in (Path(name) / "padded").iterdir()) / 2**20
        for _ in range(options.repeats):
            for which in ("baseline", "ours"):
                queue = context.Queue()
                process = context.Process(target=measure, args=(which, name, options.width, queue))
                process.start()
                rate, peak = queue.get()
                process.join()
                before = best.get(which, (0.0, 0.0))
                best[which] = (max(rate, before[0]), max(peak, before[1]))
                print(f"{which}: {rate:,.0f} positions a second, peak {peak:.0f} MB", flush=True)
    ratio = best["ours"][0] / best["baseline"][0]
    print(json.dumps({"times as fast": round(ratio, 2), "peak MB": round(best["ours"][1]), "chunk MB": round(chunk)}))


if __name__ == "__main__":
    main()
