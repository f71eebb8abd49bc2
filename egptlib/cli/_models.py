"""Verbs of the models room: plan-memory, train-mini."""

from pathlib import Path
from typing import Annotated

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
