"""Verbs of the adapters room: adapters, train."""

from pathlib import Path
from typing import Annotated

import typer

from egptlib.cli._app import app


@app.command()
def adapters(
    hidden_size: Annotated[int, typer.Option(min=1, help="Width of the target's states.")] = 4096,
    drafter_size: Annotated[int | None, typer.Option(min=1, help="Width of the drafter's, if it differs.")] = None,
) -> None:
    """List the adapter levels with their parameter counts."""
    from egptlib.adapters import LEVELS, count_parameters
    from egptlib.adapters._levels import CLASSES

    print(f"{'level':<6} {'parameters':>12}  reads")
    for level in LEVELS:
        count = count_parameters(level, hidden_size, drafter_size=drafter_size)
        print(f"{level:<6} {count:>12,}  {', '.join(CLASSES[level].inputs)}")


@app.command()
def train(
    level: Annotated[str, typer.Argument(help="L1, L2, L3, L4, L5, L5F, B1 or E3.")],
    states: Annotated[Path, typer.Option(help="Folder of hidden states to train on, along the target's path.")],
    test: Annotated[Path | None, typer.Option(help="Another such folder, to judge the best weights on.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of runs.")] = Path("runs"),
    run: Annotated[Path | None, typer.Option(help="Run folder to continue; a new one when left out.")] = None,
    epochs: Annotated[int, typer.Option(min=1, help="At most so many.")] = 20,
    batch_size: Annotated[int, typer.Option(min=1, help="Samples per step.")] = 32,
    learning_rate: Annotated[float, typer.Option(help="At the end of the warm-up.")] = 1e-3,
    seed: Annotated[int, typer.Option(help="Of weights, order and dropout.")] = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...")] = "cpu",
) -> None:
    """Train an adapter on stored hidden states; the best epoch by mean acceptance length is kept."""
    import torch

    from egptlib.adapters import FitSettings, create_adapter, judge, load_adapter, new_run_folder, train_adapter
    from egptlib.hidden_states import HiddenStates

    data = HiddenStates.open(states)
    first, head = data[0], data.target_head.lm_head
    layers = {} if first.target_layers is None else {"num_source_layers": first.target_layers.shape[1]}
    torch.manual_seed(seed)
    adapter = create_adapter(level, head.shape[1], drafter_size=first.drafter_hidden.shape[1], **layers).to(device)
    folder = run or new_run_folder(out, level)
    settings = FitSettings(epochs=epochs, batch_size=batch_size, learning_rate=learning_rate, seed=seed)
    result = train_adapter(adapter, data, folder, settings)
    print(
        f"trained {level} ({adapter.num_parameters:,} parameters) in {result.seconds:.0f} s, best epoch "
        f"{result.best_epoch} of {len(result.history)}: {result.best['mean_acceptance_length']:.2f} tokens per target "
        f"pass on validation -> {folder}"
    )
    if test is not None:
        row = judge(load_adapter(folder, device), HiddenStates.open(test), head).figures()
        print(f"on {test}: " + ", ".join(f"{name} {value:.4f}" for name, value in row.items()))
