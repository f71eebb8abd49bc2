"""Verbs of the adapters room: adapters."""

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
