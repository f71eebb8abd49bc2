"""BibTeX as we write it: entries with braced or quoted values, no macros, no string concatenation."""

import os
import re
from dataclasses import dataclass
from datetime import date
from pathlib import Path

REQUIRED = ("title", "year")
_ENTRY = re.compile(r"@(?P<kind>\w+)\s*\{\s*(?P<key>[^\s,{}]+)\s*,")
_FIELD = re.compile(r"\s*(?P<name>[A-Za-z][\w-]*)\s*=\s*")
_KEY = re.compile(r"[a-z][a-z0-9_]*\Z")
_ARXIV = re.compile(r"(?P<year>\d{2})(?P<month>\d{2})\.(?P<number>\d{4,5})\Z")
_DOI = re.compile(r"10\.\d{4,9}/\S+\Z")


@dataclass(frozen=True)
class Entry:
    """One record of the bibliography. Field names are in lower case; values keep their inner braces."""

    key: str
    kind: str
    fields: dict[str, str]
    line: int

    @property
    def title(self) -> str:
        """The title as it reads, without the braces that protect capitals."""
        return self.fields.get("title", "").replace("{", "").replace("}", "")

    @property
    def arxiv(self) -> str | None:
        """The arXiv identifier without version, or None."""
        return self.fields.get("eprint")

    @property
    def venue(self) -> str:
        """Where it appeared."""
        for name in ("booktitle", "journal", "howpublished"):
            if name in self.fields:
                return self.fields[name]
        return ""


def read_bibliography(path: str | os.PathLike[str]) -> list[Entry]:
    """Read every entry of a BibTeX file, in order, duplicates included.

    Text between entries is a comment, as in BibTeX.

    Raises:
        ValueError: an entry that is not closed, a field without value, a field given twice; the line is named.
    """
    path = Path(path)
    text = path.read_text(encoding="utf-8")
    entries, at = [], 0
    # A line starting with % hides nothing from BibTeX, but nobody means an @ in it as an entry.
    text = re.sub(r"(?m)^%.*$", lambda comment: " " * len(comment[0]), text)
    while (found := text.find("@", at)) >= 0:
        line = text.count("\n", 0, found) + 1
        match = _ENTRY.match(text, found)
        if match is None:
            raise ValueError(f"{path}:{line}: expected an entry like @misc{{key, ...}}")
        fields, at = _fields(text, match.end(), f"{path}:{line}: {match['key']}")
        entries.append(Entry(match["key"], match["kind"].lower(), fields, line))
    return entries


def check_bibliography(entries: list[Entry]) -> list[str]:
    """Return one line per fault: keys or ids used twice, ill-formed ids, missing fields."""
    problems = []
    seen: dict[str, str] = {}
    keys: set[str] = set()
    for entry in entries:
        where = f"line {entry.line}, {entry.key}"
        if not _KEY.match(entry.key):
            problems.append(f"{where}: a key is lower-case letters, digits and _, beginning with a letter")
        if entry.key in keys:
            problems.append(f"{where}: key used before")
        keys.add(entry.key)
        problems += [f"{where}: no {name}" for name in REQUIRED if not entry.fields.get(name)]
        if not entry.venue:
            problems.append(f"{where}: no booktitle, journal or howpublished")
        if not re.fullmatch(r"(19|20)\d\d", entry.fields.get("year", "")):
            problems.append(f"{where}: year {entry.fields.get('year')!r} is not a year")
        problems += [f"{where}: {problem}" for problem in _identifier_problems(entry)]
        for identifier in filter(None, (entry.arxiv, entry.fields.get("doi"))):
            if identifier in seen:
                problems.append(f"{where}: {identifier} is also {seen[identifier]}")
            seen[identifier] = entry.key
    return problems


def old_preprints(entries: list[Entry], today: date) -> list[Entry]:
    """Return entries without a venue that came out over a year ago, oldest first: they may have appeared since."""
    limit = f"{today.year % 100 - 1:02}{today.month:02}"
    preprints = [(entry.arxiv, entry) for entry in entries if entry.arxiv and entry.venue.lower().startswith("arxiv")]
    return [entry for number, entry in sorted(preprints, key=lambda pair: pair[0]) if number[:4] < limit]


def well_formed_arxiv(identifier: str) -> bool:
    """Tell whether this is an arXiv identifier of the scheme in use since April 2007, without version."""
    match = _ARXIV.match(identifier)
    if match is None:
        return False
    year, month = int(match["year"]), int(match["month"])
    digits = 5 if year >= 15 else 4
    return 1 <= month <= 12 and (year, month) >= (7, 4) and len(match["number"]) == digits


def _identifier_problems(entry: Entry) -> list[str]:
    problems = []
    doi = entry.fields.get("doi")
    if entry.arxiv is None and doi is None:
        problems.append("neither eprint nor doi")
    if entry.arxiv is not None:
        if entry.fields.get("archiveprefix") != "arXiv":
            problems.append("eprint without archiveprefix = {arXiv}")
        if not well_formed_arxiv(entry.arxiv):
            problems.append(f"eprint {entry.arxiv!r} is no arXiv id like 2401.15077")
        elif entry.fields.get("year", "").isdigit() and int(entry.fields["year"]) < 2000 + int(entry.arxiv[:2]):
            problems.append(f"year {entry.fields['year']} is before its arXiv id {entry.arxiv}")
    if doi is not None and not _DOI.match(doi):
        problems.append(f"doi {doi!r} is no DOI like 10.3390/s25216580")
    return problems


def _fields(text: str, at: int, where: str) -> tuple[dict[str, str], int]:
    """Read `name = value` pairs up to the entry's closing brace; return them and the place behind it."""
    fields: dict[str, str] = {}
    while True:
        while at < len(text) and text[at] in " \t\r\n,":
            at += 1
        if at >= len(text):
            raise ValueError(f"{where}: the entry is not closed")
        if text[at] == "}":
            return fields, at + 1
        match = _FIELD.match(text, at)
        if match is None:
            raise ValueError(f"{where}: expected a field like year = {{2025}}, got {text[at : at + 20]!r}")
        name = match["name"].lower()
        if name in fields:
            raise ValueError(f"{where}: {name} is given twice")
        fields[name], at = _value(text, match.end(), f"{where}: {name}")


def _value(text: str, at: int, where: str) -> tuple[str, int]:
    opening = text[at : at + 1]
    if opening.isdigit():
        number = re.compile(r"\d+").match(text, at)
        assert number is not None
        return number[0], number.end()
    if opening not in ("{", '"'):
        raise ValueError(f'{where}: expected {{...}}, "..." or a number')
    depth, start = 0, at + 1
    for here in range(at + 1, len(text)):
        character = text[here]
        if depth == 0 and character == ("}" if opening == "{" else '"'):
            return " ".join(text[start:here].split()), here + 1
        depth += {"{": 1, "}": -1}.get(character, 0)
        if depth < 0:
            break
    raise ValueError(f"{where}: the value is not closed")
