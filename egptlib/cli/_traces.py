"""Verbs of the traces room: findings."""

from pathlib import Path
from typing import Annotated

import typer

from egptlib.cli._app import app


@app.command()
def findings(
    recorded: Annotated[Path, typer.Option(help="Folder with the recorded result files.")],
    out: Annotated[Path, typer.Option(help="Document to write.")] = Path("roadmap/FINDINGS.md"),
) -> None:
    """Recompute what the recorded runs really say, and write it as a document."""
    from egptlib._paths import atomic_write
    from egptlib.traces import findings_document

    text = findings_document(recorded)
    with atomic_write(out) as temporary:
        temporary.write_text(text, encoding="utf-8")
    print(f"{text.count('## C')} findings -> {out}")
