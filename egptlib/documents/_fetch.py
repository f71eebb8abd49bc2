"""Papers from arXiv: downloaded by id, kept outside git, and only when page one bears the title."""

import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from egptlib._paths import atomic_write
from egptlib.documents._bibliography import Entry

ARXIV = "https://arxiv.org/pdf/"
SECONDS_BETWEEN = 3.0  # what arXiv asks of programs
TITLE_SHARE = 0.85  # extraction tears some words apart, and titles change a little between versions
_MAX_BYTES = 200 * 2**20


@dataclass(frozen=True)
class Fetched:
    """What became of one paper: `kept` was there already, `skipped` has no arXiv id."""

    key: str
    state: Literal["fetched", "kept", "skipped", "failed"]
    detail: str


def fetch_papers(
    entries: list[Entry],
    folder: Path,
    base_url: str = ARXIV,
    seconds_between: float = SECONDS_BETWEEN,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[Fetched]:
    """Download each entry's PDF to `folder`/KEY.pdf, one at a time, and yield what became of it.

    A file that is there and bears the title is kept, so an interrupted run goes on where it stopped. A PDF whose
    first page lacks the title is not stored.

    Raises:
        ConnectionError: the server cannot be reached at all.
    """
    asked = False
    for entry in entries:
        path = folder / f"{entry.key}.pdf"
        if entry.arxiv is None:
            yield Fetched(entry.key, "skipped", f"no arXiv id; {entry.fields.get('doi', 'no DOI either')}")
            continue
        if path.is_file() and bears_title(path, entry.title):
            yield Fetched(entry.key, "kept", str(path))
            continue
        if asked:
            sleep(seconds_between)
        asked = True
        yield _fetch(entry, base_url + entry.arxiv, path)


def bears_title(pdf: Path, title: str) -> bool:
    """Tell whether the first page of a PDF holds the title: nearly all of its words, wherever they stand."""
    from pypdf import PdfReader
    from pypdf.errors import PyPdfError

    try:
        pages = PdfReader(pdf).pages
        text = pages[0].extract_text() if pages else ""
    except (PyPdfError, ValueError, KeyError, OSError):
        return False
    # Words are looked for in the text without its spaces: extraction tears and joins words as the layout has it.
    page = "".join(_words(text))
    words = [word for word in _words(title) if len(word) > 2]
    found = sum(word in page for word in words)
    return bool(words) and found >= TITLE_SHARE * len(words)


def _fetch(entry: Entry, url: str, path: Path) -> Fetched:
    request = urllib.request.Request(url, headers={"User-Agent": "egptlib papers fetch"})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            content = answer.read(_MAX_BYTES + 1)
    except urllib.error.HTTPError as error:
        return Fetched(entry.key, "failed", f"{url}: {error.code} {error.reason}")
    except urllib.error.URLError as error:
        raise ConnectionError(f"{url}: {error.reason}; papers can only be fetched where there is a network") from error
    except (TimeoutError, ConnectionError) as error:
        return Fetched(entry.key, "failed", f"{url}: {error or 'timed out'}")
    if not content.startswith(b"%PDF-") or len(content) > _MAX_BYTES:
        return Fetched(entry.key, "failed", f"{url}: not a PDF of at most {_MAX_BYTES >> 20} MB")
    try:
        with atomic_write(path) as temporary:
            temporary.write_bytes(content)
            if not bears_title(temporary, entry.title):
                raise _WrongPaper
    except _WrongPaper:
        return Fetched(entry.key, "failed", f"{url}: page one does not bear the title {entry.title!r}")
    return Fetched(entry.key, "fetched", str(path))


class _WrongPaper(Exception):
    """Leaves `atomic_write` without keeping the file."""


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.lower())
