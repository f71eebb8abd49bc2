"""Fetching, against a server on this machine: what is kept bears the title, what fails leaves no file."""

from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from typer.testing import CliRunner

from egptlib.cli import app
from egptlib.documents import Entry, fetch_papers
from egptlib.documents._fetch import bears_title


def entry(key: str, title: str, arxiv: str | None) -> Entry:
    return Entry(key, "misc", {"title": title} | ({"eprint": arxiv} if arxiv else {"doi": "10.1/x"}), 1)


ENTRIES = [
    entry("eagle2024", "EAGLE: Speculative Sampling Requires Rethinking Feature Uncertainty", "2401.15077"),
    entry("wrong", "A Title that is not There at All", "2401.00001"),
    entry("missing", "Nothing", "2401.00002"),
    entry("page", "A Web Page", "2401.00003"),
    entry("dagr2024", "Low-latency automotive vision with event cameras", None),
]


@pytest.fixture
def server(pdf_with: Callable[[str], bytes]) -> Iterator[tuple[str, list[str]]]:
    """Address of a server that answers like arXiv, and the paths it was asked for."""
    title = "EAGLE: Speculative Sampling Requires Re- thinking Feature Uncertainty, by Li and others"
    pages = {"/2401.15077": pdf_with(title), "/2401.00001": pdf_with(title), "/2401.00003": b"<html>busy</html>"}
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            content = pages.get(self.path)
            self.send_response(200 if content else 404)
            self.end_headers()
            self.wfile.write(content or b"")

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}/", asked
        running.shutdown()
        thread.join()


def test_papers_are_fetched_checked_and_kept(server: tuple[str, list[str]], tmp_path: Path) -> None:
    address, asked = server
    pauses: list[float] = []
    fetch = partial(fetch_papers, ENTRIES, tmp_path, address, 3.0, pauses.append)
    first = {fetched.key: fetched for fetched in fetch()}
    assert {key: fetched.state for key, fetched in first.items()} == {
        "eagle2024": "fetched",
        "wrong": "failed",
        "missing": "failed",
        "page": "failed",
        "dagr2024": "skipped",
    }
    assert "does not bear the title" in first["wrong"].detail and "404" in first["missing"].detail
    assert "not a PDF" in first["page"].detail
    assert [path.name for path in tmp_path.iterdir()] == ["eagle2024.pdf"]
    assert pauses == [3.0, 3.0, 3.0]

    asked.clear()
    assert next(iter(fetch())).state == "kept" and asked == []


def test_without_a_network_there_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ConnectionError, match="only be fetched where there is a network"):
        list(fetch_papers(ENTRIES[:1], tmp_path, "http://127.0.0.1:9/"))
    assert list(tmp_path.iterdir()) == []


def test_titles(tmp_path: Path, pdf_with: Callable[[str], bytes]) -> None:
    path = tmp_path / "a.pdf"
    path.write_bytes(pdf_with("FASTER CASCADES VIA SPECU- LATIVE DECODING"))
    assert bears_title(path, "Faster Cascades via Speculative Decoding")
    assert not bears_title(path, "Hydra: Sequentially-Dependent Draft Heads for Medusa Decoding")
    path.write_bytes(b"%PDF-1.4 broken")
    assert not bears_title(path, "Faster Cascades via Speculative Decoding")


def test_an_unknown_key_is_refused() -> None:
    result = CliRunner().invoke(app, ["papers", "fetch", "no_such_paper"])
    assert result.exit_code == 2 and "no entry 'no_such_paper'" in result.stderr
