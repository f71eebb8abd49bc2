"""What an opened result file of the earlier experiments is, and the traps that several formats share."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Row = dict[str, Any]

FREE_PATH = "each model wrote its own answer: equal tokens at one position are no acceptance beyond the first mismatch"
TEXT_ONLY = "holds texts and no token ids: what was accepted is as recorded and cannot be recomputed"
COMPUTED_OVERLAP = "the two models ran one after the other: times with overlap were computed, not measured"
SHIFTED = "the adapter was trained on vl_tokens[1:]: compare with those (the recorded count is 0 by this shift)"
ASSUMED_TIMES = "speedup_* assume 130 and 310 ms prefill and 25 ms a token; 86, 326, 10.4 and 14.9 ms were measured"


@dataclass(frozen=True)
class Recorded:
    """One result file.

    Attributes:
        kind: which format it is; see `open_recorded`.
        path: the file.
        rows: one dict a sample (and method). Every time is in seconds, under a key that ends in `_seconds`, or in
            a dict `drafter_stages` / `target_stages` by stage; token ids are lists of int.
        traps: what one has to know before quoting a figure of this file.
        config: settings the file names.
        extra: other figures of the file (times in seconds where the key says so).
    """

    kind: str
    path: Path
    rows: list[Row]
    traps: tuple[str, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rows)

    def column(self, name: str) -> list[Any]:
        """Return one value of every row.

        Raises:
            ValueError: the rows of this file hold no such value.
        """
        if not self.rows or name not in self.rows[0]:
            raise ValueError(
                f"{self.path}: {self.kind} has no {name!r}, only {sorted(self.rows[0]) if self.rows else []}"
            )
        return [row[name] for row in self.rows]

    def method(self, name: str) -> list[Row]:
        """Return the rows of one method, of a file that holds several.

        Raises:
            ValueError: it has none (the methods it has are named).
        """
        rows = [row for row in self.rows if row.get("method") == name]
        if not rows:
            methods = dict.fromkeys(str(row["method"]) for row in self.rows if "method" in row)
            raise ValueError(f"{self.path}: no method {name!r}, only {', '.join(methods) or 'rows without one'}")
        return rows

    @property
    def why_not_replayed(self) -> str:
        """Why another gamma cannot be foretold from this file, and what would tell it; one line."""
        if self.rows and "target_ids" in self.rows[0]:
            lacks = "each model wrote its own answer; replay needs the drafter's next token along the target's"
        elif self.kind == "e2e_wallclock":
            lacks = "it holds how many draft tokens were accepted, not what the drafter would have said elsewhere"
        else:
            lacks = f"a {self.kind} file holds no answers that could be replayed"
        return f"{self.path}: {lacks}; `egptlib extract` on the pair records that, `egptlib benchmark costs` the times"
