"""Verbs of the traces room: trace, findings."""

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
    from egptlib.traces import findings_document

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
    from egptlib.traces import Trace, open_recorded, trace_from_recorded

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
