"""The written part: bibliography, reading notes, roadmap. What can be checked is checked; the index is generated."""

from egptlib.documents._bibliography import Entry, old_preprints, read_bibliography
from egptlib.documents._fetch import Fetched, fetch_papers
from egptlib.documents._papers import Papers, check_papers
from egptlib.documents._roadmap import INDEX, Roadmap, check_roadmap, render_index, statistics

__all__ = [
    "INDEX",
    "Entry",
    "Fetched",
    "Papers",
    "Roadmap",
    "check_papers",
    "check_roadmap",
    "fetch_papers",
    "old_preprints",
    "read_bibliography",
    "render_index",
    "statistics",
]
