"""The app every verb registers on, options that several verbs share, and how errors end a command."""

import os
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

import egptlib

app = typer.Typer(
    name="egptlib",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Cross-modal speculative decoding: an event-camera drafter and a video target.",
)

Dataset = Annotated[str, typer.Option(help="streets, clips, or a dataset folder.")]
Split = Annotated[str, typer.Option(help="train or test; for streets.")]
PairName = Annotated[str, typer.Option("--pair", help="mini, or eventgpt-videollava.")]
EventGPTFolder = Annotated[Path | None, typer.Option("--eventgpt", help="The real pair's EventGPT checkpoint.")]
VideoLlavaFolder = Annotated[
    Path | None, typer.Option("--video-llava", help="Video-LLaVA checkpoint of the real pair.")
]
VisualTower = Annotated[Path | None, typer.Option(help="Folder of EventGPT's vision tower.")]
Quantization = Annotated[Literal["nf4", "int8"] | None, typer.Option(help="None when left out.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...")]
EventViews = Annotated[int, typer.Option(min=1, help="Event images a scene, as the drafter was trained.")]


def main() -> None:
    """Run the command line. Bad input is one line on stderr and exit code 2; --debug shows where it was raised."""
    debug = "--debug" in sys.argv or os.environ.get("EGPTLIB_DEBUG", "") not in ("", "0")
    try:
        app()
    except (ValueError, OSError) as error:
        if debug:
            raise
        print(f"egptlib: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("egptlib: interrupted; the same command goes on where this one stopped", file=sys.stderr)
        sys.exit(130)


def _version(value: bool) -> None:
    if value:
        print(f"egptlib {egptlib.__version__}")
        raise typer.Exit


@app.callback()
def _global(
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error was raised.")] = False,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    """Options before the verb; `main` reads --debug itself, since it has to be known when parsing fails."""


def given(**options: Any) -> dict[str, Any]:
    """Leave out options that were not given."""
    return {name: value for name, value in options.items() if value is not None}
