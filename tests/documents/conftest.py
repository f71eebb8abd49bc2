"""Small documents written to a folder, and a PDF of one page with a given text."""

import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from egptlib.documents._markdown import Markdown

Write = Callable[[str], Markdown]


@pytest.fixture
def markdown(tmp_path: Path) -> Write:
    """markdown(text) -> a document with that text, in a folder of its own."""

    def write(text: str) -> Markdown:
        path = tmp_path / "document.md"
        path.write_text(text, encoding="utf-8")
        return Markdown(path)

    return write


@pytest.fixture
def pdf_with() -> Callable[[str], bytes]:
    """pdf_with(text) -> a PDF of one page with that text."""
    return _pdf


def _pdf(text: str) -> bytes:
    """Write a PDF by hand: the text in Helvetica, compressed as real files are."""
    stream = zlib.compress(f"BT /F1 12 Tf 72 720 Td ({text}) Tj ET".encode("latin-1"))
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R "
        b"/Resources << /Font << /F1 5 0 R >> >> >>",
        b"<< /Length %d /Filter /FlateDecode >>\nstream\n%s\nendstream" % (len(stream), stream),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    out, places = b"%PDF-1.4\n", []
    for number, content in enumerate(objects, 1):
        places.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, content)
    table = len(out)
    out += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    out += b"".join(b"%010d 00000 n \n" % place for place in places)
    return out + b"trailer << /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (len(objects) + 1, table)
