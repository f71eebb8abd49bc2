"""Verbs of the adapters room: adapters, train, train-mini-heads, train-tokens, export-head."""

from pathlib import Path
from typing import Annotated, Any

import typer

from egptlib.cli._app import EventViews, LearningRate, Pair, Seed, app, given


@app.command()
def adapters(
    hidden_size: Annotated[int, typer.Option(min=1, max=65_536, help="Width of the target's states.")] = 4096,
    drafter_size: Annotated[
        int | None, typer.Option(min=1, max=65_536, help="Width of the drafter's, if it differs.")
    ] = None,
) -> None:
    """List the adapter levels with their parameter counts."""
    from transformers import LlamaConfig

    from egptlib.adapters import CLASSES, LEVELS, count_lora_parameters, count_parameters

    print(f"{'level':<6} {'parameters':>12}  reads")
    for level in LEVELS:
        count = count_parameters(level, hidden_size, drafter_size=drafter_size)
        print(f"{level:<6} {count:>12,}  {', '.join(CLASSES[level].inputs)}")
    # The number of heads does not change the count; one head goes with every width.
    config = LlamaConfig(hidden_size=drafter_size or hidden_size, num_attention_heads=1)
    print(f"{'L6':<6} {count_lora_parameters(config):>12,}  scenes and token_ids; LoRA on a drafter of 32 layers")


@app.command()
def train(
    level: Annotated[
        str, typer.Argument(help="L1 to L5, L5F, B1, E3, E3S, DF, L6; L4-looks-ahead, L5-reads-last, L6-own-head.")
    ],
    states: Annotated[Path, typer.Option(help="Folder of hidden states to train on, along the target's path.")],
    test: Annotated[Path | None, typer.Option(help="Another such folder, to judge the best weights on.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of runs.")] = Path("runs"),
    run: Annotated[Path | None, typer.Option(help="Run folder to continue; a new one when left out.")] = None,
    epochs: Annotated[int, typer.Option(min=1, help="At most so many.")] = 20,
    batch_size: Annotated[int, typer.Option(min=1, help="Samples per step.")] = 32,
    learning_rate: LearningRate = 1e-3,
    seed: Seed = 0,
    device: Annotated[str, typer.Option(help="To train on: cpu, cuda, cuda:1, ...")] = "cpu",
    dataset: Annotated[
        str, typer.Option(help="L6: where the states' scenes are; of streets, both splits.")
    ] = "streets",
    event_views: EventViews = 5,
    pair: Pair = "mini",
) -> None:
    """Train an adapter on stored hidden states; the best epoch by mean acceptance length is kept.

    L6 trains the drafter of the pair on the scenes of the states, so it alone reads the dataset and the models.
    """
    from egptlib.adapters import FitSettings, ScenesById, find_variant, new_run_folder, split_by_sequence, train_level
    from egptlib.hidden_states import HiddenStates
    from egptlib.models import usable_device

    usable_device(device, "--device")
    kind, _ = find_variant(level)
    part, validation = split_by_sequence(HiddenStates.open(states))
    judged = validation if test is None else HiddenStates.open(test)
    more: dict[str, Any] = {}
    if kind == "L6":
        from egptlib.models import load_pair
        from egptlib.scenes import open_scenes

        splits = ("train", "test") if dataset in ("streets", "mini") else (None,)
        more["scenes"] = ScenesById(*(open_scenes(dataset, split, event_views=event_views) for split in splits))
        more["pair"] = load_pair(pair)
    settings = FitSettings(epochs=epochs, batch_size=batch_size, learning_rate=learning_rate, seed=seed)
    folder = run or new_run_folder(out, level)
    try:
        result = train_level(level, part, judged, folder, settings, validation, device=device, **more)
    except KeyboardInterrupt:
        told = "the same command goes on where this one stopped"
        raise KeyboardInterrupt(told if run else f"the same command with --run {folder} goes on there") from None
    fit, row = result.fit, result.verdict.figures()
    print(
        f"trained {level} ({result.verdict.num_parameters:,} parameters) in {fit.seconds:.0f} s, best epoch "
        f"{fit.best_epoch} of {len(fit.history)}: {fit.best['mean_acceptance_length']:.2f} tokens per target "
        f"pass on validation -> {folder}"
    )
    if test is not None:
        print(f"on {test}: " + ", ".join(f"{name} {value:.4f}" for name, value in row.items()))


@app.command()
def train_mini_heads(
    states: Annotated[Path, typer.Option(help="Hidden states of streets' training split, with three target layers.")],
    test: Annotated[Path, typer.Option(help="The same of its test split, to judge on.")],
    out: Annotated[Path | None, typer.Option(help="Folder of the pair and its card; default: the shipped one.")] = None,
    work: Annotated[Path | None, typer.Option(help="Folder for what can be resumed; default: in the data.")] = None,
    epochs: Annotated[int, typer.Option(min=1, help="At most so many; twice that for L1.")] = 6,
    level: Annotated[
        list[str] | None, typer.Option(help="To train: E3, B1, L1, E3S; may be repeated. All when left out.")
    ] = None,
) -> None:
    """Train the adapters that come with the mini or the midi pair, whichever the states are of, with their table in its
    model card.

    E3S wants the prompts too: `egptlib extract --layers 2,5,8 --prompt-rows`.
    """
    from egptlib.adapters import train_mini_heads as train
    from egptlib.hidden_states import HiddenStates

    told = given(out=out, work=work, levels=level)
    card = train(HiddenStates.open(states), HiddenStates.open(test), epochs=epochs, **told)
    for row in card["heads"]["rows"]:
        print(f"{row['level']:<22} {row['mean_acceptance_length']:.2f} tokens per target pass, {row['gain']:+.2f}")
    print(f"trained the pair's heads -> {out or 'the shipped weights'}")


@app.command()
def train_tokens(
    recorded: Annotated[Path, typer.Argument(help="Recorded JSON with both models' token ids (test_tokens_1q.json).")],
    out: Annotated[Path, typer.Option(help="Run folder; an unfinished one is continued.")],
    fold_at: Annotated[
        int | None, typer.Option(min=1, help="Samples of the first fold; half of them when left out.")
    ] = None,
    epochs: Annotated[int, typer.Option(min=1, help="At most so many.")] = 20,
    patience: Annotated[int, typer.Option(min=1, help="Epochs without a longer accepted prefix.")] = 5,
    batch_size: Annotated[int, typer.Option(min=1, help="Samples per step.")] = 32,
    learning_rate: LearningRate = 5e-4,
    hidden_size: Annotated[int, typer.Option(min=8, max=65_536, help="Of the adapter.")] = 512,
    ffn_dim: Annotated[int, typer.Option(min=8, max=65_536, help="Of the adapter.")] = 2048,
    vocab_size: Annotated[int, typer.Option(min=2, max=10_000_000, help="Of the models.")] = 32_000,
    seed: Seed = 0,
) -> None:
    """Cross-validate a token adapter on recorded answers, in two folds of neighbours, beside majority and identity."""
    from egptlib.adapters import FitSettings, TokenAdapterSettings, cross_validate_tokens, halves
    from egptlib.recorded import open_recorded

    file = open_recorded(recorded)
    result = cross_validate_tokens(
        file.column("drafter_ids"),
        file.column("target_ids"),
        halves(len(file), fold_at),
        out,
        TokenAdapterSettings(vocab_size, hidden_size=hidden_size, ffn_dim=ffn_dim),
        FitSettings(
            epochs=epochs,
            patience=patience,
            batch_size=batch_size,
            learning_rate=learning_rate,
            monitor="accepted_prefix",
            seed=seed,
        ),
    )
    seconds = sum(row["seconds"] for history in result.histories for row in history)
    trained = " and ".join(str(len(history)) for history in result.histories)
    print(f"trained two folds for {trained} epochs in {seconds:.0f} s -> {out}")
    print(f"{'method':<32} {'top-1':>7} {'top-5':>7} {'prefix':>7}   (top-1 and top-5 without the first token)")
    for row in result.rows(first=1):
        top5 = f"{row['top5']:.4f}" if "top5" in row else ""
        print(f"{row['method']:<32} {row['top1']:>7.4f} {top5:>7} {row['accepted_prefix']:>7.2f}")


@app.command()
def export_head(
    head: Annotated[Path, typer.Argument(help="Run folder of a trained E3S, or the folder of its weights.")],
    out: Annotated[Path, typer.Option(help="Empty or new folder to write to.")],
    form: Annotated[str, typer.Option("--format", help="speculators (vLLM opens it) or sglang.")] = "speculators",
    states: Annotated[
        Path | None,
        typer.Option(help="Hidden states whose tokens are the draft vocabulary; all of the target's when left out."),
    ] = None,
    verifier: Annotated[
        str | None, typer.Option(help="Name or path of the target's checkpoint, which the server will run.")
    ] = None,
    pair: Pair = "mini",
) -> None:
    """Write a trained E3S so that an inference server opens it."""
    from egptlib.adapters import export_head as export
    from egptlib.adapters import load_adapter
    from egptlib.models import load_pair

    tokens = None
    if states is not None:
        from egptlib.hidden_states import HiddenStates

        found_ids = (sample.token_ids for sample in HiddenStates.open(states))
        tokens = sorted({int(i) for ids in found_ids if ids is not None for i in ids})
    found, target = load_adapter(head), load_pair(pair).target
    export(found, target, out, form, tokens, verifier)
    print(f"{form}: {len(tokens) if tokens else len(target.lm_head.weight)} tokens can be drafted -> {out}")
