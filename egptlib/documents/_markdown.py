"""What the checks need of a Markdown file: prose without code, citations, links, headings, sections."""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

_FENCE = re.compile(r"^(?P<mark>`{3,}|~{3,})(?P<language>[\w-]*)[^\n]*\n(?P<body>.*?)^(?P=mark)[ \t]*$", re.M | re.S)
_CODE = re.compile(r"(?P<mark>`+)(?!`).+?(?<!`)(?P=mark)(?!`)")
_CITATION = re.compile(r"\[(?P<inside>@[^\]\[]+)\]")
_CITED_KEY = re.compile(r"@([A-Za-z0-9_:.-]*[A-Za-z0-9])")
_LINK = re.compile(r"(?<!\!)\[(?P<text>(?:[^\[\]]|\[[^\]]*\])*)\]\((?P<target>[^()\s]+(?:\([^()\s]*\))?)\)")
_PICTURE = re.compile(r"\!\[[^\]]*\]\((?P<target>[^()\s]+)\)")
_HEADING = re.compile(r"^(?P<level>#{1,6})[ \t]+(?P<text>.+?)[ \t]*#*$", re.M)


@dataclass(frozen=True)
class Fence:
    """A fenced block of code."""

    language: str
    body: str
    line: int


@dataclass(frozen=True)
class Found:
    """A piece of text and the line it stands on, counted from 1."""

    text: str
    line: int


class Markdown:
    """One Markdown file, read once. Lines are counted from 1; code is blanked in `prose`, so that places stay."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.text = self.path.read_text(encoding="utf-8")
        self.fences = [
            Fence(match["language"], match["body"], self.line_of(match.start())) for match in _FENCE.finditer(self.text)
        ]
        self.prose = _CODE.sub(_blank, _FENCE.sub(_blank, self.text))

    def line_of(self, offset: int) -> int:
        """The line a place in the text is on."""
        return self.text.count("\n", 0, offset) + 1

    @property
    def title(self) -> str:
        """The first heading of level one, or an empty string."""
        headings = _HEADING.finditer(_FENCE.sub(_blank, self.text))
        return next((match["text"] for match in headings if match["level"] == "#"), "")

    def citations(self) -> list[Found]:
        """Every key cited like ``[@key]`` or ``[@one, Table 2; @two]``, in order."""
        return [
            Found(key, self.line_of(match.start()))
            for match in _CITATION.finditer(self.prose)
            for key in _CITED_KEY.findall(match["inside"])
        ]

    def links(self) -> list[Found]:
        """Targets of links and pictures, as written."""
        matches = [*_LINK.finditer(self.prose), *_PICTURE.finditer(self.prose)]
        return [
            Found(match["target"], self.line_of(match.start())) for match in sorted(matches, key=lambda m: m.start())
        ]

    def anchors(self) -> set[str]:
        """The fragments GitHub gives to the headings."""
        seen: dict[str, int] = {}
        result = set()
        for match in _HEADING.finditer(_FENCE.sub(_blank, self.text)):
            slug = re.sub(r"[^\w\- ]", "", plain(match["text"]).lower()).replace(" ", "-")
            count = seen.get(slug, 0)
            seen[slug] = count + 1
            result.add(f"{slug}-{count}" if count else slug)
        return result

    def sections(self, level: int = 2) -> dict[str, str]:
        """Heading -> text below it, down to the next heading of this level or a higher one; code included."""
        marks = [match for match in _HEADING.finditer(self.prose) if len(match["level"]) <= level]
        ends = [match.start() for match in marks[1:]] + [len(self.text)]
        return {
            mark["text"]: self.text[mark.end() : end].strip("\n")
            for mark, end in zip(marks, ends)
            if len(mark["level"]) == level
        }


def plain(text: str) -> str:
    """Markdown of one line without its marks: links keep their text, code its content."""
    text = _LINK.sub(lambda match: match["text"], text)
    return re.sub(r"[`*]", "", text)


def check_links(document: Markdown, root: Path) -> list[str]:
    """Return one line per relative link whose file or heading is missing, or that leaves `root`.

    Links with a scheme (https:, mailto:) are not followed.
    """
    problems = []
    for link in document.links():
        if re.match(r"[a-z][a-z0-9+.-]*:", link.text, re.I):
            continue
        where = f"{_shown(document.path, root)}:{link.line}"
        name, _, fragment = unquote(link.text).partition("#")
        target = (document.path.parent / name).resolve() if name else document.path.resolve()
        if not target.is_relative_to(root.resolve()):
            problems.append(f"{where}: {link.text} leaves the repository")
        elif not target.exists():
            problems.append(f"{where}: {link.text} does not exist")
        elif fragment and target.suffix == ".md" and fragment not in Markdown(target).anchors():
            problems.append(f"{where}: {link.text}: no such heading")
    return problems


def check_citations(document: Markdown, keys: set[str], root: Path) -> list[str]:
    """Return one line per cited key that the bibliography lacks."""
    return [
        f"{_shown(document.path, root)}:{cited.line}: {cited.text} is not in the bibliography"
        for cited in document.citations()
        if cited.text not in keys
    ]


def _shown(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)


def _blank(match: re.Match[str]) -> str:
    return re.sub(r"[^\n]", " ", match[0])
