"""Verb of logs that others' programs write: explain."""

from pathlib import Path
from typing import Annotated

import typer

from egptlib.cli._app import app


@app.command()
def explain(
    log: Annotated[Path, typer.Argument(help="Log of vLLM, SGLang, SpecForge, Spec-Bench, MMSpec; a run; a table.")],
    baseline: Annotated[Path | None, typer.Option(help="Log of plain decoding, where LOG holds none.")] = None,
    method: Annotated[str | None, typer.Option(help="One run of the log; left out: all.")] = None,
    paper: Annotated[float | None, typer.Option(min=0.01, max=1000, help="Speedup the paper reports.")] = None,
    paper_length: Annotated[
        float | None, typer.Option(min=1, max=1000, help="Tokens a pass the paper reports, bonus included.")
    ] = None,
    gamma: Annotated[
        float | None, typer.Option(min=0.1, max=1000, help="Draft tokens a pass, if the log lacks it.")
    ] = None,
    draft_cost: Annotated[
        float | None, typer.Option(min=0, max=100, help="c, target steps a draft token costs; else fitted or left.")
    ] = None,
    figure: Annotated[Path | None, typer.Option(help="PDF, PNG or SVG of one run's waterfall to write.")] = None,
    out: Annotated[Path | None, typer.Option(help="Trace (parquet) to write, of a log with answers.")] = None,
) -> None:
    """Say where a speedup went: from the paper's figure, or an ideal, to the measured one, in factors."""
    from egptlib._paths import atomic_write
    from egptlib.recorded import explain_log, open_log

    if (paper is None) != (paper_length is None):
        raise ValueError("--paper and --paper-length go together: a round's cost is the one over the other")
    opened = open_log(log)
    plain = None if baseline is None else open_log(baseline)
    reported = (paper, paper_length) if paper is not None and paper_length is not None else None
    found = explain_log(opened, plain, paper=reported, draft_cost=draft_cost, gamma=gamma)
    if method is not None:
        names = [waterfall.method for waterfall in found]
        found = [waterfall for waterfall in found if waterfall.method == method]
        if not found:
            raise ValueError(f"{log}: no run {method!r}, only {', '.join(names)}")
    if figure is not None and len(found) > 1:
        raise ValueError(f"{log}: holds {len(found)} runs; --method names the one to draw")
    print(f"{log}: {opened.kind}")
    for waterfall in found:
        print(f"\n{waterfall}")
    for note in dict.fromkeys((*opened.notes, *(plain.notes if plain else ()))):
        print(f"note: {note}")
    if out is not None:
        opened.trace().save(out)
        print(f"-> {out}")
    if figure is not None:
        from egptlib.figures import waterfall_figure

        drawn = waterfall_figure(found[0])
        with atomic_write(figure) as temporary:
            drawn.savefig(temporary, format=figure.suffix.lstrip(".") or "pdf")
        print(f"-> {figure}")
