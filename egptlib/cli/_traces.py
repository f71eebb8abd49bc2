"""Verbs of the traces room: findings."""

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
