"""Citations, links, headings and sections are found where a reader would see them, and nowhere else."""

from collections.abc import Callable
from pathlib import Path

import pytest

from egptlib.documents._markdown import Markdown, check_citations, check_links, plain

Write = Callable[[str], Markdown]

TEXT = """# A title with `code`

See [@one, Table 2; @two_3] and [@one]. Not `[@code]`, not an address me@example.org.

```python
[@fenced](missing.md)
```

## First part: p/q

[a link](other.md#some-heading), [@two_3](not a link), ![picture](figure.png), [within [brackets]](x.md).

### Deeper

text

## First part: p/q

~~~
## not a heading
~~~
"""


def test_citations(markdown: Write) -> None:
    document = markdown(TEXT)
    assert [(cited.text, cited.line) for cited in document.citations()] == [
        ("one", 3),
        ("two_3", 3),
        ("one", 3),
        ("two_3", 11),
    ]
    assert check_citations(document, {"one"}, document.path.parent) == [
        "document.md:3: two_3 is not in the bibliography",
        "document.md:11: two_3 is not in the bibliography",
    ]


def test_links_headings_and_sections(markdown: Write) -> None:
    document = markdown(TEXT)
    assert [link.text for link in document.links()] == ["other.md#some-heading", "figure.png", "x.md"]
    assert document.title == "A title with `code`"
    assert document.anchors() == {"a-title-with-code", "first-part-pq", "deeper", "first-part-pq-1"}
    assert list(document.sections()) == ["First part: p/q"]
    assert "### Deeper" in markdown("# t\n## A\n### Deeper\nx\n## B\ny\n").sections()["A"]


def test_each_broken_link_is_named(markdown: Write, tmp_path: Path) -> None:
    (tmp_path / "other.md").write_text("# Some heading\n", encoding="utf-8")
    document = markdown(
        "[ok](other.md#some-heading) [web](https://example.org/x) [here](#top)\n"
        "[gone](gone.md) [heading](other.md#no) [up](../../x.md)\n\n# Top\n"
    )
    problems = check_links(document, tmp_path)
    assert [problem.split(": ", 1) for problem in problems] == [
        ["document.md:2", "gone.md does not exist"],
        ["document.md:2", "other.md#no: no such heading"],
        ["document.md:2", "../../x.md leaves the repository"],
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [("[`a`](b.md) **bold**", "a bold"), ("plain", "plain"), ("[x [y]](z) *i*", "x [y] i")],
)
def test_plain(text: str, expected: str) -> None:
    assert plain(text) == expected
