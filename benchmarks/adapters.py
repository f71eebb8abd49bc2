"""Training an adapter from the store against the loop it replaces, on the same states and the same model.

    python -m benchmarks.adapters [--samples 1000] [--width 4096] [--repeats 2] [--lengths-of FOLDER]

The baseline is the earlier trainer's loop: `torch.load` of a padded float32 chunk at a time, all its padded positions
through L1 of plain modules, a masked MSE + 0.5 (1 - cos). The same loop is also run with this library's L1, which is
faster in training (the norm's weights taken into the matrix, dropout from few random words). All run one epoch with
the same loss, weights and AdamW, each in a fresh process that has done one step before (kernels loaded, pools
allocated), so that peak memory is its own. Printed: valid positions per second, peak memory above that of an idle
process, and the ratios. How much padding there is decides much of it, so lengths are either uniform from 10 to 50 or
those of the answers in a folder of hidden states. Takes about two minutes at the defaults.

Ours is what `train_adapter` runs: positions without padding in steps of one size, the next batch read in another
thread, the gradient of the state loss written out, AdamW in one kernel. Before anything is timed, ten steps of both on
the same batches have to end at the same weights.
"""

import argparse
import json
import multiprocessing
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from egptlib.adapters import FitSettings, LossSettings, create_adapter
from egptlib.adapters._batches import flat
from egptlib.adapters._fit import new_optimiser
from egptlib.adapters._train import Objective, shuffled
from egptlib.hidden_states import HiddenStates, HiddenStateWriter

CHUNK, BATCH, LONGEST = 500, 32, 50
BASELINES = ("baseline", "baseline with our L1")


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


class Plain(nn.Module):
    """L1 as the earlier trainer had it, around the parameters of ours."""

    def __init__(self, ours: Any) -> None:
        super().__init__()
        (block,) = ours.blocks
        self.before, self.down, self.up, self.scale = block.norm, block.down, block.up, block.scale
        self.norm, self.dropout = ours.norm, nn.Dropout(block.dropout.p)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x + self.scale * self.dropout(self.up(F.gelu(self.down(self.before(x))))))


def padded_loss(model: Any, drafter: Tensor, target: Tensor, lengths: Tensor) -> Tensor:
    mask = (torch.arange(drafter.shape[1])[None] < lengths[:, None]).float()
    out = model(drafter)
    mse = ((out - target).square().mean(dim=-1) * mask).sum() / mask.sum()
    cosine = ((1 - F.cosine_similarity(out, target, dim=-1)) * mask).sum() / mask.sum()
    return mse + 0.5 * cosine


def baseline(folder: Path, model: Any) -> int:
    positions = 0
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4)
    for path in sorted((folder / "padded").iterdir()):
        chunk = torch.load(path, weights_only=True)
        for rows in torch.randperm(len(chunk["seq_lens"])).split(BATCH):
            drafter, target, lengths = (chunk[name][rows] for name in ("egpt_hidden", "vl_hidden", "seq_lens"))
            padded_loss(model, drafter, target, lengths).backward()
            optimiser.step()
            optimiser.zero_grad()
            positions += int(lengths.sum())
    return positions


def prepared(model: Any) -> tuple[Objective, torch.optim.Optimizer]:
    optimiser = new_optimiser(list(model.parameters()), FitSettings(learning_rate=1e-4))
    return Objective(model, torch.zeros(1, model.settings.hidden_size), LossSettings(token=0.0, kl=0.0)), optimiser


def ours(folder: Path, model: Any) -> int:
    positions = 0
    objective, optimiser = prepared(model)
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
    model: Any = create_adapter("L1", width)
    if name == "baseline":
        model = Plain(model)
    model(torch.randn(1, BATCH * LONGEST, width)).square().mean().backward()
    torch.optim.AdamW(model.parameters(), lr=0.0).step()  # the first one imports for a second, and 100 MB
    model.zero_grad()
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
    idle = resident("VmHWM")
    start = time.perf_counter()
    positions = ours(folder, model) if name == "ours" else baseline(folder, model)
    return positions / (time.perf_counter() - start), resident("VmHWM") - idle


def check_same(folder: Path, width: int) -> float:
    """Ten steps of both ways on the same whole samples, without dropout; the largest difference of any weight."""
    torch.manual_seed(0)
    mine = create_adapter("L1", width, dropout=0.0)
    theirs = Plain(deepcopy(mine))
    objective, optimiser = prepared(mine)
    options: dict[str, Any] = {"lr": 1e-4, "betas": (0.9, 0.95)}
    decayed = [[p for p in theirs.parameters() if (p.ndim > 1) == wide] for wide in (True, False)]
    plain = torch.optim.AdamW([{"params": p, "weight_decay": d} for p, d in zip(decayed, (0.01, 0.0))], **options)
    for samples, _ in zip(HiddenStates.open(folder / "store").stream(BATCH, shuffle=True), range(10)):
        objective(flat([(sample, slice(None)) for sample in samples], mine.inputs))["loss"].backward()
        batch = samples.padded()
        padded_loss(theirs, batch.drafter_hidden, batch.target_hidden, samples.lengths).backward()
        for step in (optimiser, plain):
            step.step()
            step.zero_grad()
    ours, other = (sorted(m.parameters(), key=lambda p: (p.shape, p.detach().sum().item())) for m in (mine, theirs))
    return max(float((a - b).detach().abs().max()) for a, b in zip(ours, other, strict=True))


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
        with ProcessPoolExecutor(1, context) as pool:
            apart = pool.submit(check_same, Path(name), options.width).result()
        print(f"after ten steps no weight differs by more than {apart:.1e}", flush=True)
        assert apart < 1e-5
        for _ in range(options.repeats):
            for which in (*BASELINES, "ours"):
                with ProcessPoolExecutor(1, context) as pool:
                    rate, peak = pool.submit(measure, which, Path(name), options.width).result()
                before = best.get(which, (0.0, 0.0))
                best[which] = (max(rate, before[0]), max(peak, before[1]))
                print(f"{which}: {rate:,.0f} positions a second, peak {peak:.0f} MB", flush=True)
    ratios = [round(best["ours"][0] / best[which][0], 2) for which in BASELINES]
    found = dict(zip(("times as fast", "than with our L1"), ratios))
    print(json.dumps(found | {"peak MB": round(best["ours"][1]), "chunk MB": round(chunk)}))


if __name__ == "__main__":
    main()
