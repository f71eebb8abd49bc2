"""The app every verb registers on, options that several verbs share, and how errors end a command."""

import errno
import io
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, cast

import typer
from typer.core import TyperCommand, TyperGroup
from typer.exceptions import TyperException

import egptlib
from egptlib._processes import sigterm_interrupts
from egptlib._terminal import show_log

if TYPE_CHECKING:
    from collections.abc import Sequence

    from egptlib.models import PairSettings
    from egptlib.scenes import SceneFolder

MOST = 2**53  # of any number: what a float counts exactly, and microseconds since 1970 in it


# What the verbs are for, as `egptlib --help` shows them; one that is not here stands last.
GROUPS = {
    "Explore": "lab make-data make-scenes cut-dsec check show-events explain plan-memory plan-extraction adapters",
    "Measure": "demo run sweep runs extract train train-tokens evaluate benchmark",
    "Predict": "rehearse predict trace fit-costs findings predict-recorded",
    "Publish": "report paper export-head convert-states",
    "Maintain": "selftest quantize random-pair convert make-pair train-mini train-mini-heads train-midi papers roadmap",
}


class Verbs(TyperGroup):
    """Verbs whose summaries are shown whole, in groups where they are those of egptlib itself."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        found = {name: self.get_command(ctx, name) for name in self.list_commands(ctx)}
        told = {name: " ".join((verb.help or "").split("\n\n")[0].split()) for name, verb in found.items() if verb}
        for group, names in ({} if ctx.parent else GROUPS).items():
            if rows := [(name, told.pop(name)) for name in names.split() if name in told]:
                with formatter.section(group):
                    formatter.write_dl(rows)
        if told:
            with formatter.section("Commands" if ctx.parent else "Others"):
                formatter.write_dl([*told.items()])


class OneLineErrors(Verbs):
    """The one place where an error ends a command: one line that names what was wrong, and exit code 2.

    The library raises ValueError and OSError for what a user can put right, and names file, field and expectation.
    Anything else is a fault of ours and keeps its traceback; so does everything after `egptlib --debug`.
    """

    def main(self, *arguments: Any, **options: Any) -> Any:
        sigterm_interrupts()
        stop_showing = show_log()
        for stream in (sys.stdout, sys.stderr):  # what is named may hold what the terminal cannot write
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        try:
            code = super().main(*arguments, **{**options, "standalone_mode": False})
        except TyperException as error:
            if type(error).__name__ != "NoArgsIsHelpError":  # the help of a verb that has verbs of its own
                self._end(_usage(error))
            print(error.format_message())
            sys.exit(2)
        except (ValueError, OSError, MemoryError, RecursionError, OverflowError) as error:
            if "--debug" in (options.get("args") or sys.argv) or os.environ.get("EGPTLIB_DEBUG", "") not in ("", "0"):
                raise
            self._end(_message(error))
        finally:
            stop_showing()
        sys.exit(code or 0)

    def invoke(self, context: Any) -> Any:
        try:
            return super().invoke(context)
        except KeyboardInterrupt as stop:
            how = str(stop) or "the same command goes on where this one stopped"
            print(f"egptlib: interrupted; {how}", file=sys.stderr)
            raise typer.Exit(130) from None

    @staticmethod
    def _end(message: str) -> NoReturn:
        print(f"egptlib: {' '.join(message.split())}", file=sys.stderr)
        sys.exit(2)


def _usage(error: TyperException) -> str:
    """What is wrong with the command line itself, and of which verb."""
    context = getattr(error, "ctx", None)
    verb = context.command_path.partition(" ")[2] if context else ""
    return f"{verb}: {error.format_message()}" if verb else error.format_message()


def _message(error: Exception) -> str:
    match error:
        case OSError(filename=str() | bytes() as name, strerror=str() as reason):
            return f"{os.fsdecode(name)}: {reason}"
        case MemoryError():
            return f"not enough memory: {error}"
        case RecursionError():
            return f"nested too deeply: {error}"
    return str(error) or type(error).__name__


class Verb(TyperCommand):
    """What holds for the options of every verb: numbers are finite and small enough to count with, and what will be
    written can be written, which a long computation is not to find out at its end."""

    def invoke(self, context: Any) -> Any:
        for option in self.params:
            value = context.params.get(option.name)
            for one in value if isinstance(value, list | tuple) else [value]:
                if isinstance(one, int | float) and not abs(one) <= MOST:  # nor is NaN
                    raise typer.BadParameter(
                        f"{one} is not a number up to {MOST:,}.", ctx=context, param=cast(Any, option)
                    )
            if isinstance(value, Path) and option.name in ("out", "work", "new", "run"):
                _require_writable(value)
        return super().invoke(context)


def _require_writable(path: Path) -> None:
    """Find a folder that cannot be written to, or a file where a folder has to be."""
    there = next(parent for parent in (path, *path.absolute().parents) if os.path.lexists(parent))
    if there != path and not there.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "a file, where a folder is needed for what will be written", str(there))
    if not os.access(there, os.W_OK, effective_ids=os.access in os.supports_effective_ids):
        raise PermissionError(errno.EACCES, "no permission to write there", str(there))


class App(typer.Typer):
    """A Typer app whose commands are verbs."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"cls": Verbs, **options})

    def command(self, *arguments: Any, **options: Any) -> Any:
        return super().command(*arguments, **{"cls": Verb, **options})


app = App(
    name="egptlib",
    cls=OneLineErrors,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Cross-modal speculative decoding: an event-camera drafter and a video target.",
)

Dataset = Annotated[str, typer.Option(help="streets, clips, or a dataset folder.")]
Split = Annotated[str, typer.Option(help="train or test; for streets.")]
Pair = Annotated[str, typer.Option(help="mini, midi, or a pair.toml with folders, quantization and devices.")]
Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of weights, order and dropout.")]
LearningRate = Annotated[float, typer.Option(min=1e-12, max=1e3, help="At the end of the warm-up.")]
EventViews = Annotated[int, typer.Option(min=1, max=100, help="Event images a scene, as the drafter was trained.")]


def main() -> None:
    """Run the command line."""
    app(prog_name="egptlib")


def _version(value: bool) -> None:
    if value:
        print(f"egptlib {egptlib.__version__}")
        raise typer.Exit


@app.callback()
def _global(
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error was raised.")] = False,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    """Options before the verb; --debug is read where errors end, since it has to be known when parsing fails."""


def scenes_for(
    pair: "str | PairSettings", dataset: str, split: str, event_views: int, num_scenes: int | None = None
) -> "SceneFolder":
    """The scenes of a dataset with the frames that a pair's target takes, so many of them taken evenly."""
    from egptlib.models import frame_sampling
    from egptlib.scenes import open_scenes

    scenes = open_scenes(dataset, split=split, event_views=event_views, sampling=frame_sampling(pair))
    return scenes.spread(num_scenes) if num_scenes else scenes


def report_problems(problems: "Sequence[object]", what: str) -> None:
    """Print what is broken, a line each, and how much; exit code 1 when something is."""
    for problem in problems:
        print(problem)
    if problems:
        print(f"{what}: {len(problems)} problem{'s'[: len(problems) != 1]}", file=sys.stderr)
        raise typer.Exit(1)
    print(f"{what}: no problem found")


def given(**options: Any) -> dict[str, Any]:
    """Leave out options that were not given."""
    return {name: value for name, value in options.items() if value is not None}
