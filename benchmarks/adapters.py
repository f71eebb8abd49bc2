"""Training an adapter from the store against the loop it replaces, on the same states and the same model.

    python -m benchmarks.adapters [--samples 1000] [--width 4096] [--repeats 2] [--lengths-of FOLDER]

The baseline is the earlier trainer's loop: `torch.load` of a padded float32 chunk at a time, all its padded positions
through the adapter, a masked MSE + 0.5 (1 - cos). Both run one epoch of L1 with the same loss and AdamW, each in a
fresh process that has done one step before (kernels loaded, pools allocated), so that peak memory is its own.
Printed: valid positions per second, peak memory above that of an idle process, and the ratio. How much padding there
is decides much of it, so lengths are either uniform from 10 to 50 or those of the answers in a folder of hidden
states. Takes about two minutes at the defaults.

Ours is what `train_adapter` runs: positions without padding, the next batch read in another thread, the gradient of
the state loss written out, AdamW in one kernel.
"""

import argparse
import json
import multiprocessing
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from egptlib.adapters import FitSettings, LossSettings, create_adapter
from egptlib.adapters._fit import new_optimiser
from egptlib.adapters._train import Objective, shuffled
from egptlib.hidden_states import HiddenStates, HiddenStateWriter

CHUNK, BATCH, LONGEST = 500, 32, 50


def make(folder: Path, samples: int, width: int, lengths_of: Path | None = None) -> None:
    """The same random answers twice: in the store, and as chunks padded to their longest."""
    generator = torch.Generator().manual_seed(0)
    if lengths_of is None:
        every = torch.randint(10, LONGEST + 1, (samples,), generator=generator)
    else:
        found = torch.cat([batch.lengths for batch in HiddenStates.open(lengths_of).stream(64)])
        every = found[torch.randint(len(found), (samples,), generator=generator)]
    (folder / "padded").mkdir()
    with HiddenStateWriter(folder / "store") as writer:
        for start in range(0, samples, CHUNK):
            lengths = every[start : start + CHUNK]
            drafter, target = torch.randn(2, len(lengths), int(lengths.max()), width, generator=generator)
            for i, n in enumerate(lengths.tolist()):
                drafter[i, n:], target[i, n:] = 0, 0
                note = {"scene": str(start + i), "sequence": "s", "question": "q"}
                writer.add(drafter[i, :n].clone(), target[i, :n].clone(), metadata=note)
            chunk = {"egpt_hidden": drafter, "vl_hidden": target, "seq_lens": lengths}
            torch.save(chunk, folder / "padded" / f"chunk_{start:06d}.pt")


def baseline(folder: Path, model: Any) -> int:
    positions = 0
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4)
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


def ours(folder: Path, model: Any) -> int:
    positions = 0
    optimiser = new_optimiser(list(model.parameters()), FitSettings(learning_rate=1e-4))
    width = model.settings.hidden_size
    objective = Objective(model, torch.zeros(1, width), LossSettings(token=0.0, kl=0.0))
    for batch in shuffled(HiddenStates.open(folder / "store"), BATCH, 1, model.inputs):
        objective(batch)["loss"].backward()
        optimiser.step()
        optimiser.zero_grad()
        positions += int(batch.mask.sum())
    return positions


def measure(name: str, folder: Path, width: int) -> tuple[float, float]:
    """Valid positions a second of one epoch, and MB of memory at its peak above those before it."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = create_adapter("L1", width)
    model(torch.randn(1, BATCH * LONGEST, width)).square().mean().backward()
    torch.optim.AdamW(model.parameters(), lr=0.0).step()  # the first one imports for a second, and 100 MB
    model.zero_grad()
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
    idle = resident("VmHWM")
    start = time.perf_counter()
    positions = {"baseline": baseline, "ours": ours}[name](folder, model)
    return positions / (time.perf_counter() - start), resident("VmHWM") - idle


def resident(name: str) -> float:
    """A figure of /proc/self/status in MB: VmHWM is the peak of the resident memory."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--width", type=int, default=4096)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--lengths-of", type=Path, help="folder of hidden states whose answers' lengths to take")
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    best: dict[str, tuple[float, float]] = {}
    with tempfile.TemporaryDirectory() as name:
        make(Path(name), options.samples, options.width, options.lengths_of)
        chunk = max(path.stat().st_size for path in (Path(name) / "padded").iterdir()) / 2**20
        for _ in range(options.repeats):
            for which in ("baseline", "ours"):
                with ProcessPoolExecutor(1, context) as pool:
                    rate, peak = pool.submit(measure, which, Path(name), options.width).result()
                before = best.get(which, (0.0, 0.0))
                best[which] = (max(rate, before[0]), max(peak, before[1]))
                print(f"{which}: {rate:,.0f} positions a second, peak {peak:.0f} MB", flush=True)
    ratio = best["ours"][0] / best["baseline"][0]
    print(json.dumps({"times as fast": round(ratio, 2), "peak MB": round(best["ours"][1]), "chunk MB": round(chunk)}))


if __name__ == "__main__":
    main()
