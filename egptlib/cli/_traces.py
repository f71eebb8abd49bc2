"""Verbs of traces, recorded files and others' logs: trace, fit-costs, predict-recorded, findings, explain."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from egptlib.cli._app import app


@app.command()
def findings(
    recorded: Annotated[Path, typer.Option(help="Folder with the recorded result files.")],
    tokenizer: Annotated[Path | None, typer.Option(help="LLaMA-2's tokenizer.model; C1 needs it.")] = None,
    legacy_l4: Annotated[Path | None, typer.Option(help="L4 checkpoint of the earlier trainer; C19 needs it.")] = None,
    out: Annotated[Path, typer.Option(help="Document to write.")] = Path("roadmap/FINDINGS.md"),
) -> None:
    """Recompute what the recorded runs really say, and write it as a document."""
    import sentencepiece

    from egptlib._paths import atomic_write
    from egptlib.adapters import load_adapter
    from egptlib.recorded import findings_document

    encode = None if tokenizer is None else sentencepiece.SentencePieceProcessor(str(tokenizer)).encode
    text = findings_document(recorded, encode, None if legacy_l4 is None else load_adapter(legacy_l4))
    with atomic_write(out) as temporary:
        temporary.write_text(text, encoding="utf-8")
    print(f"{text.count('## C')} findings -> {out}")


@app.command()
def trace(
    source: Annotated[Path, typer.Argument(help="Folder of hidden states, or a recorded result file (JSON).")],
    out: Annotated[Path | None, typer.Option(help="Parquet file; beside the source when left out.")] = None,
) -> None:
    """Make a trace of stored hidden states, or of a recorded result file, and say what is in it."""
    from egptlib.hidden_states import write_trace
    from egptlib.metrics import replay
    from egptlib.recorded import open_recorded, trace_from_recorded
    from egptlib.traces import Trace

    traps: tuple[str, ...] = ()
    if source.is_dir():
        path = write_trace(source, out=out)
    else:
        file = open_recorded(source)
        path, traps = out or source.with_suffix(".parquet"), file.traps
        trace_from_recorded(file).save(path)
    made = Trace.load(path)
    print(f"{len(made)} answers, {int(made.lengths.sum())} tokens along the path {made.path!r} -> {path}")
    if made.path == "target":
        found = replay(made.match, made.lengths, [5], limit=made.max_new_tokens)
        print(
            f"{made.match.sum() / made.lengths.sum():.1%} of the drafter's next tokens are the target's; "
            f"gamma 5: {found.mean_acceptance_length[0]:.2f} tokens a pass of the target"
        )
    for trap in traps:
        print(f"note: {trap}")


@app.command()
def fit_costs(
    source: Annotated[Path, typer.Argument(help="Trace of timed runs (notebooks 06 to 08 leave one).")],
    method: Annotated[str, typer.Option(help="How they decoded, as the trace names it, or a pattern: 'gamma *'.")],
    out: Annotated[Path, typer.Option(help="JSON file for the costs.")],
    after: Annotated[list[str] | None, typer.Option(help="Fitted first: plain decoding, then what ran alone.")] = None,
) -> None:
    """Fit what the parts of a method cost from its timed runs, for `predict`."""
    from egptlib.traces import Trace, fit_trace

    costs = fit_trace(Trace.load(source), method, after or [])
    costs.save(out)
    verify = ", ".join(f"{size}: {1e3 * seconds:.2f}" for size, seconds in sorted(costs.verify.items()))
    print(f"{costs.pair}, {costs.precision}, {costs.device}")
    print(f"steps (ms): target {1e3 * costs.target_step:.2f}, drafter {1e3 * costs.drafter_step:.2f}; verify {verify}")
    print(
        f"until the first token (ms): target {1e3 * costs.target_prefill:.2f}, "
        f"drafter {1e3 * costs.drafter_prefill:.2f}; "
        f"contention {costs.contention_target:.2f} and {costs.contention_drafter:.2f}"
    )
    print(f"-> {out}")


@app.command()
def predict_recorded(
    source: Annotated[Path, typer.Argument(help="Recorded e2e_wallclock file with gap_ms (LVL).")],
    halves: Annotated[
        int, typer.Option(min=0, max=100_000, help="Random halves, besides every other prompt and the first half.")
    ] = 100,
) -> None:
    """Fit costs on half of the prompts of recorded runs, predict the total time of the others, and say how far off."""
    import random

    from egptlib.recorded import open_recorded, predict_other_half

    file = open_recorded(source)
    prompts = len(file.method("baseline"))
    chosen: list[Sequence[int]] = [range(0, prompts, 2), range(prompts // 2)]
    chosen += [random.Random(seed).sample(range(prompts), prompts // 2) for seed in range(halves)]
    found = [predict_other_half(file, half) for half in chosen]
    print(f"{prompts} prompts, {len(found)} halves; ratio of sums over plain decoding [computed overlap]")
    print(f"{'method':<8} {'whole':>7}  every other prompt: predicted, recorded, error    worst error, ratio off by")
    for results in zip(*found):
        rows = file.method(results[0].method)
        whole = sum(r["baseline_seconds"] for r in rows) / sum(r["total_seconds"] for r in rows)
        first, error = results[0], max(abs(r.error) for r in results)
        off = max(abs(r.predicted_ratio - r.measured_ratio) for r in results)
        print(
            f"{first.method:<8} {whole:7.4f}  {first.predicted:19.2f} s {first.measured:9.2f} s {first.error:+7.2%}"
            f" {error:14.2%} {off:17.4f}"
        )


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
