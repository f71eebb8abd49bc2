"""The timed runs of a trace as totals, each moment counted once: reading, verifying, drafting, the rest."""

from collections.abc import Sequence

from egptlib._clock import READING, Event
from egptlib.metrics import RunTotals
from egptlib.traces._trace import Trace, TraceRow

_PARTS = ("reading", "target", "draft")  # in the order in which a moment counts


def trace_totals(trace: Trace) -> list[RunTotals]:
    """Return one total a method that was timed; plain decoding has one token a pass and no gamma.

    Raises:
        ValueError: no method was timed, or one has answers without rounds or seconds.
    """
    made = [_method(trace, name) for name in trace.methods]
    if not made:
        raise ValueError(f"trace {trace.source}: no run in it was timed")
    return made


def _method(trace: Trace, name: str) -> RunTotals:
    rows = trace.method(name).rows
    if any(row.total_seconds is None or not (row.rounds or row.num_tokens == 1) for row in rows):
        raise ValueError(f"trace {trace.source}: {name!r} has answers whose rounds or total_seconds are not known")
    tokens, seconds = sum(row.num_tokens for row in rows), sum(row.total_seconds or 0.0 for row in rows)
    rounds = [r for row in rows for r in row.rounds]
    gained, longest = sum(r[2] for r in rounds), max((r[0] for r in rounds), default=0)
    parts = [sum(own) for own in zip(*(_seconds(row) for row in rows))] if all(row.events for row in rows) else None
    if not rounds or not gained:
        raise ValueError(f"trace {trace.source}: {name!r} has no round beyond its first tokens")
    drafts = [r for r in rounds if r[0]]
    return RunTotals(
        float(tokens),
        seconds,
        name,
        tokens_per_pass=gained / len(rounds) if longest else 1.0,
        gamma=sum(r[0] for r in rounds) / len(rounds) if longest else None,
        accepted_at=tuple(sum(r[1] >= n for r in drafts) / len(rounds) for n in range(1, longest + 1)),
        step_seconds=(seconds - parts[0]) / gained if parts else None,
        draft_seconds=parts[2] / len(rounds) if parts and longest else None,
        verify_seconds=parts[1] / len(rounds) if parts and longest else None,
        answers=float(tokens - gained) if parts else 0.0,
    )


def _seconds(row: TraceRow) -> list[float]:
    """Seconds of each part; where two models worked at once, the earlier part counts."""
    of = {part: [e for e in row.events if _part(e) == part] for part in _PARTS}
    covered: list[tuple[float, float]] = []
    seconds = []
    for part in _PARTS:
        before = _length(covered)
        covered = [*covered, *((e.start, e.end) for e in of[part])]
        seconds.append(_length(covered) - before)
    return seconds


def _part(event: Event) -> str:
    if event.stage in READING:
        return "reading"
    return "target" if event.lane == "target" else "draft"


def _length(spans: Sequence[tuple[float, float]]) -> float:
    """Length of the union."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total
