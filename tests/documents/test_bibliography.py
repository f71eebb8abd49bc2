"""BibTeX is read as BibTeX means it, and every fault a record can have is named."""

from datetime import date
from pathlib import Path

import pytest

from egptlib.documents._bibliography import (
    Entry,
    check_bibliography,
    old_preprints,
    read_bibliography,
    well_formed_arxiv,
)

GOOD = """% a comment with an @misc{not_an_entry,
@inproceedings{eagle2024,
  title = {{EAGLE}: Speculative {S}ampling},
  author = "Li, Yuhui and {\\'E}mile, A.",
  booktitle = {ICML
    2024},
  YEAR = 2024,
  eprint = {2401.15077},
  archiveprefix = {arXiv}
}
@article{dagr2024, title={Events}, journal={Nature}, year={2024}, doi={10.1038/s41586-024-07409-w},}
"""


def read(tmp_path: Path, text: str) -> list[Entry]:
    path = tmp_path / "references.bib"
    path.write_text(text, encoding="utf-8")
    return read_bibliography(path)


def test_entries_are_read(tmp_path: Path) -> None:
    first, second = read(tmp_path, GOOD)
    assert (first.key, first.kind, first.line) == ("eagle2024", "inproceedings", 2)
    assert first.title == "EAGLE: Speculative Sampling" and first.arxiv == "2401.15077"
    assert first.fields["author"] == "Li, Yuhui and {\\'E}mile, A." and first.fields["year"] == "2024"
    assert first.venue == "ICML 2024"
    assert second.arxiv is None and second.venue == "Nature" and second.line == 11
    assert check_bibliography([first, second]) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("@misc{a, title = {x}", r"bib:1: a: the entry is not closed"),
        ("\n@misc{a, title = {x, year = {2020}", r"bib:2: a: title: the value is not closed"),
        ("@misc{a, title {x}}", "expected a field like"),
        ("@misc{a, title = x}", 'title: expected \\{...\\}, "..." or a number'),
        ("@misc{a, year = 2020, Year = 2021}", "year is given twice"),
        ("@misc title", "bib:1: expected an entry"),
    ],
)
def test_broken_text_is_one_error_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read(tmp_path, text)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("{2401.15077}", "{2413.15077}", "is no arXiv id"),
        ("{2401.15077}", "{2401.15077v3}", "is no arXiv id"),
        ("archiveprefix = {arXiv}", "", "without archiveprefix"),
        ("YEAR = 2024", "YEAR = 2023", "year 2023 is before its arXiv id"),
        ("YEAR = 2024", "", "no year"),
        ("{10.1038/s41586-024-07409-w}", "{s41586}", "is no DOI"),
        (", doi={10.1038/s41586-024-07409-w}", "", "neither eprint nor doi"),
        ("journal={Nature}, ", "", "no booktitle"),
        ("title={Events}, ", "", "no title"),
        ("{dagr2024", "{eagle2024", "key used before"),
        ("{dagr2024", "{Dagr-2024", "a key is lower-case"),
        ("doi={10.1038/s41586-024-07409-w}", "eprint={2401.15077}, archiveprefix={arXiv}", "is also eagle2024"),
    ],
)
def test_each_fault_of_a_record_is_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in GOOD
    problems = check_bibliography(read(tmp_path, GOOD.replace(old, new)))
    assert len(problems) >= 1 and any(message in problem for problem in problems), problems


@pytest.mark.parametrize(
    ("identifier", "good"),
    [
        ("0704.0001", True),
        ("0703.0001", False),
        ("1412.1234", True),
        ("1412.12345", False),
        ("1501.00001", True),
        ("1501.0001", False),
        ("2600.00001", False),
        ("2613.00001", False),
        ("hep-th/9901001", False),
    ],
)
def test_arxiv_ids(identifier: str, good: bool) -> None:
    assert well_formed_arxiv(identifier) is good


def test_a_preprint_older_than_a_year_is_named_and_a_paper_with_a_venue_is_not(tmp_path: Path) -> None:
    """It may have appeared since, or have a newer version: `papers check` says so, and fails nobody for it."""
    preprint = "@misc{%s, title={T}, author={A, B}, howpublished={arXiv preprint}, year={20%s}, eprint={%s.00001},}\n"
    entries = read(tmp_path, GOOD + preprint % ("new", "25", "2511") + preprint % ("old", "25", "2510"))

    assert [entry.key for entry in old_preprints(entries, date(2026, 11, 29))] == ["old"]
    assert [entry.key for entry in old_preprints(entries, date(2026, 12, 1))] == ["old", "new"]
