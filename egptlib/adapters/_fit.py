"""One training loop for everything this room trains: deterministic, resumable, stopped by what validation is asked."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from tqdm import tqdm

from egptlib._sealed import read_sealed, write_sealed
from egptlib._terminal import progress
from egptlib._whole import check_fields
from egptlib.adapters._build import read_tensors, write_tensors
from egptlib.models import warm_cosine

Row = dict[str, float]


@dataclass(frozen=True)
class FitSettings:
    """How to train.

    Attributes:
        epochs: at most so many.
        batch_size: samples per step and process.
        learning_rate: AdamW's, at the end of the warm-up; a cosine leads from there to zero.
        weight_decay: on matrices only.
        warmup: share of all steps until the full learning rate.
        clip: norm at which the gradient is clipped.
        patience: epochs without a better `monitor` after which training stops.
        monitor: name of the validation figure that decides which epoch is best.
        lower_is_better: whether less of it is better (a loss).
        seed: of the order of samples and of dropout.
    """

    epochs: int = 20
    batch_size: int = 32
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    warmup: float = 0.05
    clip: float = 1.0
    patience: int = 5
    monitor: str = "mean_acceptance_length"
    lower_is_better: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        check_fields(self, "training setting", epochs=1, batch_size=1, patience=1, seed=None, learning_rate="(0, inf)",
                     weight_decay="[0, inf)", warmup="[0, 1)", clip="(0, inf)")  # fmt: skip


@dataclass(frozen=True)
class Fit:
    """What a training left.

    Attributes:
        folder: the run folder.
        history: one row per epoch: epoch, loss and its terms, the figures of validation, seconds.
        best_epoch: whose weights are in `best/`.
        seconds: of training and validation, all sessions together.
    """

    folder: Path
    history: list[Row]
    best_epoch: int
    seconds: float

    @property
    def best(self) -> Row:
        """The row of the best epoch."""
        return self.history[self.best_epoch - 1]


def new_run_folder(root: str | os.PathLike[str], level: str) -> Path:
    """Make `root`/LEVEL_YYYYMMDD_HHMMSS, with a number behind it where that second has one already."""
    name = f"{level}_{time.strftime('%Y%m%d_%H%M%S')}"
    for number in range(1000):
        folder = Path(root) / (name if number == 0 else f"{name}_{number}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        return folder
    raise ValueError(f"{root}: 1,000 runs of {level} in one second")


def fit(
    objective: nn.Module,
    batches: Callable[[int], Iterable[Any]],
    steps_per_epoch: int,
    validate: Callable[[], Row],
    save_best: Callable[[Path, Row], object],
    settings: FitSettings,
    folder: Path,
    description: dict[str, Any],
) -> Fit:
    """Train `objective`, or go on where a stopped run left `folder`.

    The order of samples and dropout of an epoch depend on the seed and the epoch alone, and the whole state is written
    after each epoch, so a run that was killed and continued gives the curve of one that was not.

    Args:
        objective: called with a batch, returns a dict of scalars whose "loss" is minimised. Its parameters that
            require gradients are trained.
        batches: epoch (from 1) -> that epoch's batches.
        steps_per_epoch: how many those are, over all processes.
        validate: figures over all validation samples, in evaluation mode.
        save_best: writes the weights worth keeping into a folder, given the row of their epoch.
        settings: how to train.
        folder: run folder: `settings.json`, `history.json`, `state.safetensors`, `best/`.
        description: plain values that tell what is trained on what; kept in `settings.json`.

    Raises:
        ValueError: `folder` was started with other settings, `monitor` is no figure of `validate`, or the loss is no
            longer finite.
    """
    told = json.loads(json.dumps({"training": asdict(settings), **description}))
    if not steps_per_epoch:
        raise ValueError(f"{folder}: nothing to train on")
    _check_same(folder, told)
    device = next(objective.parameters()).device
    alone = int(os.environ.get("WORLD_SIZE", "1")) == 1
    # Alone, what is trained stays where it is. The accelerator's own device and precision, which are the process's for
    # good from the first training on, do not count.
    accelerator = Accelerator(cpu=not alone and device.type != "cuda", device_placement=not alone)
    named = [(name, p) for name, p in objective.named_parameters() if p.requires_grad]
    optimiser = new_optimiser([p for _, p in named], settings)
    steps_per_epoch //= accelerator.num_processes  # see `_mine`
    if steps_per_epoch == 0:
        raise ValueError(f"{folder}: fewer batches than the {accelerator.num_processes} processes; lower batch_size")
    total = settings.epochs * steps_per_epoch
    factor = warm_cosine(total, max(1, round(settings.warmup * total)))
    history = _restore(folder / "state.safetensors", named, optimiser)
    if history and accelerator.is_main_process:  # an interrupt between the two files leaves this one an epoch behind
        write_sealed(folder / "history.json", {"epochs": history})
    step = len(history) * steps_per_epoch
    prepared, runner = accelerator.prepare(objective, optimiser)
    sign = -1.0 if settings.lower_is_better else 1.0
    for epoch in progress(
        range(len(history) + 1, settings.epochs + 1),
        desc="train",
        unit="epoch",
        disable=not accelerator.is_main_process,
    ):
        if history and len(history) - _best(history, settings.monitor, sign) >= settings.patience:
            break
        start = time.perf_counter()
        torch.manual_seed(settings.seed * 1_000_003 + epoch)
        prepared.train()
        sums: Row = {}
        steps = 0
        for batch in _mine(
            tqdm(batches(epoch), total=steps_per_epoch, desc=f"epoch {epoch}", leave=False, disable=None), accelerator
        ):
            rate = settings.learning_rate * factor(step)
            try:
                terms = train_step(prepared, batch, runner, device, settings.clip, rate, accelerator.backward)
            except FloatingPointError as error:
                raise ValueError(f"{folder}: {error} in epoch {epoch}; lower learning_rate") from None
            step += 1
            for name, term in terms.items():
                sums[name] = sums.get(name, 0.0) + term.item()
            steps += 1
        prepared.eval()
        with torch.no_grad():
            figures = validate()
        if settings.monitor not in figures:
            raise ValueError(f"monitor {settings.monitor!r}: expected one of {', '.join(figures)}")
        row = {"epoch": epoch, **{name: value / steps for name, value in sums.items()}, **figures}
        row["seconds"] = time.perf_counter() - start
        history.append(row)
        if accelerator.is_main_process:
            if _best(history, settings.monitor, sign) == epoch:
                save_best(folder / "best", row)
            _keep(folder / "state.safetensors", named, optimiser, history)
            write_sealed(folder / "history.json", {"epochs": history})
        accelerator.wait_for_everyone()
    return Fit(folder, history, _best(history, settings.monitor, sign), sum(row["seconds"] for row in history))


def train_step(
    objective: nn.Module,
    batch: Any,
    optimiser: Any,
    device: torch.device,
    clip: float,
    rate: float,
    backward: Callable[[Tensor], object] = torch.Tensor.backward,
) -> dict[str, Tensor]:
    """Change the weights once; the terms of the loss come back.

    Raises:
        FloatingPointError: the loss or its gradient is no number; the weights are as they were.
    """
    with torch.autocast(device.type, torch.bfloat16) if device.type == "cuda" else nullcontext():
        terms: dict[str, Tensor] = objective(batch)
    if not torch.isfinite(terms["loss"]):
        raise FloatingPointError(f"the loss is {terms['loss'].item()}")
    backward(terms["loss"])
    norm = nn.utils.clip_grad_norm_([p for p in objective.parameters() if p.requires_grad], clip)
    if not torch.isfinite(norm):
        raise FloatingPointError(f"the gradient's norm is {norm.item()}")
    for group in optimiser.param_groups:
        group["lr"] = rate
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)
    return terms


def new_optimiser(parameters: list[nn.Parameter], settings: FitSettings) -> torch.optim.AdamW:
    """AdamW in one kernel a step; scalars and vectors (norms, biases) do not decay."""
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, 0.95), fused=True)


def _mine(batches: Iterable[Any], accelerator: Accelerator) -> Iterator[Any]:
    """Every process takes each so-many-th batch; what does not fill a round is left out, so that all stay in step."""
    held: list[Any] = []
    for batch in batches:
        held.append(batch)
        if len(held) == accelerator.num_processes:
            yield held[accelerator.process_index]
            held.clear()


def _best(history: list[Row], monitor: str, sign: float) -> int:
    """Number of the best epoch, the first of equals."""
    return max(range(len(history)), key=lambda i: (sign * history[i][monitor], -i)) + 1


def _check_same(folder: Path, told: dict[str, Any]) -> None:
    path = folder / "settings.json"
    if not path.is_file() or not (folder / "state.safetensors").is_file():  # of a run without an epoch nothing is kept
        write_sealed(path, told)
        return
    before = read_sealed(path)
    for name in sorted(before.keys() | told.keys()):
        if before.get(name) != told.get(name):
            raise ValueError(
                f"{path}: this run was started with {name} {before.get(name)!r}, not {told.get(name)!r}; "
                "give another folder or the same settings"
            )


def _keep(
    path: Path, named: list[tuple[str, nn.Parameter]], optimiser: torch.optim.Optimizer, history: list[Row]
) -> None:
    """Write weights, moments and history as one safetensors file: whole or as before."""
    tensors = {"history": torch.frombuffer(bytearray(json.dumps(history).encode()), dtype=torch.uint8)}
    for name, parameter in named:
        tensors[f"weight.{name}"] = parameter
        tensors |= {f"{kind}.{name}": value for kind, value in optimiser.state[parameter].items()}
    write_tensors(path, tensors)


def _restore(path: Path, named: list[tuple[str, nn.Parameter]], optimiser: torch.optim.Optimizer) -> list[Row]:
    if not path.is_file():
        return []
    tensors = read_tensors(path)
    try:
        with torch.no_grad():
            for name, parameter in named:
                parameter.copy_(tensors[f"weight.{name}"])
                if f"step.{name}" in tensors:  # it had a gradient
                    optimiser.state[parameter] = {
                        kind: tensors[f"{kind}.{name}"].to(parameter.device)
                        for kind in ("step", "exp_avg", "exp_avg_sq")
                    }
        history: list[Row] = json.loads(bytes(tensors["history"].tolist()))
    except (KeyError, RuntimeError, ValueError) as error:
        raise ValueError(f"{path}: not the state of this training ({error})") from None
    return history
