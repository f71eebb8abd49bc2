"""HTML that runs nothing and loads nothing, whoever made it: what a report may hold.

Cleaning is left to nh3 (Ammonia, an HTML5 parser and a list of what is allowed; kept up, where bleach, which nbconvert
brings, is no longer). The policy in every page's head holds even where that should fail.
"""

import functools
import html
import re
from collections.abc import Iterable
from html.parser import HTMLParser

import nh3

# Styles stand in the page itself; pictures and films in their addresses; nothing else comes from anywhere.
POLICY = (
    "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
)

_MATH = {
    *("math", "mrow", "mi", "mo", "mn", "mtext", "ms", "mspace", "mfrac", "msqrt", "mroot", "mstyle", "mpadded"),
    *("mphantom", "menclose", "merror", "msub", "msup", "msubsup", "munder", "mover", "munderover", "mmultiscripts"),
    *("mprescripts", "mtable", "mtr", "mtd"),
}
_MATH_ATTRIBUTES = {
    *("xmlns", "display", "displaystyle", "scriptlevel", "mathvariant", "mathsize", "mathcolor", "mathbackground"),
    *("accent", "accentunder", "stretchy", "fence", "separator", "form", "symmetric", "largeop", "movablelimits"),
    *("minsize", "maxsize", "lspace", "rspace", "width", "height", "depth", "voffset", "linethickness", "notation"),
    *("columnalign", "rowalign", "columnspacing", "rowspacing", "columnlines", "rowlines", "columnspan", "rowspan"),
}
_MEDIA = {"img", "video", "audio", "source"}
_STYLES = {
    *("color", "background-color", "text-align", "vertical-align", "white-space", "line-height", "width", "max-width"),
    *("height", "font-size", "font-style", "font-weight", "font-family", "text-decoration", "border", "border-bottom"),
    *("border-collapse", "border-left", "border-radius", "border-right", "border-top", "display", "margin"),
    *("margin-bottom", "margin-left", "margin-right", "margin-top", "overflow-x", "padding", "padding-bottom"),
    *("padding-left", "padding-right", "padding-top"),
}
_LIVE = {
    "script": "a script", "iframe": "a page within the page", "frame": "a page within the page", "object": "an object",
    "embed": "an object", "applet": "an object", "form": "a form", "svg": "a drawing of SVG", "canvas": "a canvas",
    "style": "a style sheet", "link": "a style sheet", "template": "a template",
}  # fmt: skip
_SCRIPT = re.compile(r"\s*(javascript|data|vbscript):", re.IGNORECASE)
_EMBEDDED = re.compile(r"data:(image|video|audio)/[a-z0-9.+-]+;base64,[A-Za-z0-9+/=\s]*", re.IGNORECASE)


def static(text: str) -> str:
    """Return HTML without scripts, frames, forms, style sheets, event handlers, and addresses that load something."""
    return str(_cleaner().clean(text))


def noted(text: str) -> str:
    """Return `static` HTML with a line behind it that says what was taken out, where anything was."""
    found = _Live()
    found.feed(text)
    found.close()
    return static(text) + (left_out_line(found.what) if found.what else "")


def left_out_line(what: Iterable[str]) -> str:
    """Return the line that stands in the place of what is left out."""
    named = html.escape(", ".join(what))
    return f'<p class="left-out">Left out here, for a report runs and loads nothing: {named}.</p>'


@functools.cache
def _cleaner() -> nh3.Cleaner:
    attributes = {tag: set(names) for tag, names in nh3.ALLOWED_ATTRIBUTES.items()}
    attributes |= dict.fromkeys(_MATH, _MATH_ATTRIBUTES)
    attributes["*"] = {"class", "id", "style", "title", "lang", "dir", "role", "aria-label", "aria-hidden"}
    attributes["a"] = {"href"}
    for tag in _MEDIA:
        attributes[tag] = {"src", "alt", "width", "height", "controls", "type"}
    attributes["details"] = {"open"}
    attributes["ol"] = {"start", "type"}
    for tag in ("th", "td"):
        attributes[tag] |= {"valign"}
    attributes["table"] |= {"border"}
    return nh3.Cleaner(
        tags=nh3.ALLOWED_TAGS | _MATH | _MEDIA | {"section", "tfoot"},
        clean_content_tags=set(_LIVE) - {"form", "link", "frame"},
        attributes=attributes,
        attribute_filter=_address,
        filter_style_properties=_STYLES,
        url_schemes={"http", "https", "mailto", "data"},
        link_rel="noopener noreferrer",
    )


def _address(tag: str, name: str, value: str) -> str | None:
    """Links may lead anywhere on the web; what is shown in place stands in its own address."""
    if name == "href":
        return None if value.strip().lower().startswith("data:") else value
    if name == "src":
        return value if _EMBEDDED.fullmatch(value) else None
    return value


class _Live(HTMLParser):
    """Collects what will be left out, each kind once. It only tells: what goes and what stays nh3 decides."""

    def __init__(self) -> None:
        super().__init__()
        self.what: dict[str, None] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _LIVE:
            self.what[_LIVE[tag]] = None
            return
        for name, value in attrs:
            if name == "src" and tag in _MEDIA and not _EMBEDDED.fullmatch(value or ""):
                self.what[f"a picture or film from {(value or 'nowhere')[:200]}"] = None
            elif name.startswith("on") or (name == "href" and _SCRIPT.match(value or "")):
                self.what["a script"] = None
