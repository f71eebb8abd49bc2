"""Where traces come from: stored hidden states, timed runs, recorded agreement and trees; and the one of a run folder.

Models, generations and stored samples are taken by what they hold, since this room imports only `metrics`.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from egptlib._clock import READING, Event, stage_seconds
from egptlib.traces._trace import Trace, TraceRow


def trace_from_hidden_states(samples: Iterable[Any], **header: Any) -> Trace:
    """Return the trace in stored hidden states: what `extract` left, read again without a model.

    The stages carry no times: extraction works in batches, and a sample's share of one is not what it takes alone.

    Args:
        samples: a `HiddenStates` folder or samples of it; each has `token_ids`, `drafter_top1`, `metadata`, and
            `overlap` and `drafter_confidence` where they were stored.
        header: further fields of `Trace` (`path`, `pair`, `device`, `end_token_ids`, ...). Along the path "free" the
            rows hold each model's whole answer, and neither overlap nor confidence.

    Raises:
        ValueError: a sample holds no token ids (folders of the earlier writer).
    """
    rows = []
    for i, sample in enumerate(samples):
        if sample.token_ids is None or sample.drafter_top1 is None:
            raise ValueError(f"sample {i} holds no token ids: this folder was left by the earlier writer")
        metadata = sample.metadata
        free = header.get("path") == "free"
        rows.append(
            TraceRow(
                sample=str(metadata.get("scene", i)),
                question=str(metadata.get("question", "")),
                target_ids=metadata["target_ids"] if free else sample.token_ids.tolist(),
                drafter_ids=metadata["drafter_ids"] if free else sample.drafter_top1.tolist(),
                overlap=None if free else _listed(sample.overlap),
                confidence=None if free else _listed(sample.drafter_confidence),
            )
        )
    return Trace(rows, **header)


def trace_from_agreement(agreement: Any, prompts: Sequence[tuple[Any, str]], **header: Any) -> Trace:
    """Return the trace of what a drafter would have said along the target's answers, without times.

    Args:
        agreement: of `record_agreement`: `token_ids`, `drafter_ids` and `confidence`, one row a prompt.
        prompts: scene (or its id) and question of each.
        header: further fields of `Trace`; `replay` needs the `end_token_ids` of the pair's common vocabulary.
    """
    told = zip(agreement.token_ids, agreement.drafter_ids, agreement.confidence, prompts, strict=True)
    rows = [
        TraceRow(*_names(prompt), answer, said, confidence=sure[: len(answer)].tolist())
        for answer, said, sure, prompt in told
    ]
    return Trace(rows, **header)


def trace_from_trees(recorded: Any, prompts: Sequence[tuple[Any, str]], **header: Any) -> Trace:
    """Return the trace of what a drafter would have grown along the target's answers, for `Trace.replay_trees`.

    Args:
        recorded: of `record_trees`.
        prompts: scene (or its id) and question of each.
        header: further fields of `Trace`.
    """
    told = zip(recorded.token_ids, recorded.branches, prompts, strict=True)
    rows = [TraceRow(*_names(prompt), answer, branches=grown) for answer, grown, prompt in told]
    trees = {"depth": recorded.depth, "width": recorded.width, "min_confidence": recorded.min_confidence}
    return Trace(rows, trees=trees, **header)


def trace_from_generations(
    generations: Iterable[Any],
    prompts: Sequence[tuple[Any, str]],
    method: str,
    seconds: Sequence[float] | None = None,
    **header: Any,
) -> Trace:
    """Return the trace of timed runs, one row a `Generation`.

    Args:
        generations: each with `token_ids`, `rounds` and `events` (lane, stage, start, end on one clock).
        prompts: scene (or its id) and question that each one answered.
        method: how they decoded.
        seconds: of each whole call; None: from a run's first event to its last one's end.
        header: further fields of `Trace`.

    Raises:
        ValueError: the numbers of generations, prompts and seconds differ.
    """
    made = list(generations)
    whole = [None] * len(made) if seconds is None else seconds
    rows = [_timed(*row, method) for row in zip(made, prompts, whole, strict=True)]
    return Trace(rows, **header)


def trace_from_runs(runs: Mapping[str, Any], prompts: Sequence[tuple[Any, str]], **header: Any) -> Trace:
    """Return the trace of several methods on the same prompts, as `measuring.run_methods` timed them.

    Args:
        runs: by method: `seconds`, `token_ids`, and `generations`, which may be empty.
        prompts: scene (or its id) and question of each.
        header: further fields of `Trace`.

    Raises:
        ValueError: another number of answers than of prompts.
    """
    rows: list[TraceRow] = []
    for method, run in runs.items():
        if run.generations:
            rows += trace_from_generations(run.generations, prompts, method, run.seconds).rows
            continue
        for ids, took, prompt in zip(run.token_ids, run.seconds, prompts, strict=True):
            rows.append(
                TraceRow(
                    *_names(prompt), list(ids), method=method, tag="measured (sequential)", total_seconds=float(took)
                )
            )
    return Trace(rows, **header)


def _timed(generation: Any, prompt: tuple[Any, str], seconds: float | None, method: str) -> TraceRow:
    events = sorted(generation.events, key=lambda event: event.start)
    begin = events[0].start if events else 0.0
    kept = [
        Event(
            e.lane,
            e.stage,
            e.start - begin,
            e.end - begin,
            {name: value for name, value in e.info.items() if type(value) is int},
        )
        for e in events
    ]
    stages: dict[str, dict[str, float]] = {"target": {}, "drafter": {}}
    for (lane, stage), took in stage_seconds(kept).items():
        stages[lane][stage] = took
    if seconds is None:
        seconds = max((event.end for event in kept), default=None)
    return TraceRow(
        *_names(prompt),
        generation.token_ids.tolist(),
        method=method,
        tag="measured (overlapped)" if _overlapped(kept) else "measured (sequential)",
        rounds=[(r.drafted, r.accepted, r.gained) for r in generation.rounds],
        events=kept,
        target_stages=stages["target"],
        drafter_stages=stages["drafter"],
        total_seconds=seconds,
    )


def _overlapped(events: Sequence[Event]) -> bool:
    """Whether the drafter worked while the target read its prompt."""
    reads = [event for event in events if event.lane == "target" and event.stage in READING]
    return any(
        event.lane == "drafter" and event.start < read.end and event.end > read.start
        for event in events
        for read in reads
    )


def _names(prompt: tuple[Any, str]) -> tuple[str, str]:
    scene, question = prompt
    return str(getattr(scene, "id", scene)), question


def _listed(values: Any) -> list[float] | None:
    return None if values is None else values.tolist()


TRACE, AGREEMENT = "trace.parquet", "agreement.parquet"


def find_traces(source: str | Path) -> tuple[Trace, Trace | None]:
    """Find what the drafter would have said along the target's answers, and the timed runs of the same prompts.

    Args:
        source: a run folder of notebook 07 or 08, a folder of hidden states, or a trace file of either. A run keeps
            what the drafter would have said beside its trace; where it does not, the extraction of the same prompts
            in its folder of runs is taken.

    Returns:
        The trace to replay, of the timed prompts alone where there are any; and the timed one, or None.

    Raises:
        FileNotFoundError: there is no trace.
        ValueError: the trace to replay is missing; the message says what makes it.
    """
    path = Path(source)
    path = path / TRACE if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(f"{path}: not found; expected a run, a folder of hidden states, or a trace")
    trace = Trace.load(path)
    if not trace.methods:
        _ = trace.match  # refuses a trace that cannot be replayed
        return trace, None
    prompts = {(row.sample, row.question) for row in trace.rows}
    if (kept_by_run := path.with_name(AGREEMENT)).is_file():
        told = Trace.load(kept_by_run)
        if other := next((row for row in told.rows if (row.sample, row.question) not in prompts), None):
            raise ValueError(f"{kept_by_run}: {other.sample}, {other.question!r}: not among those timed in {path}")
        return told, trace
    for beside in sorted(path.parent.parent.glob(f"shared/hidden_states/*/{TRACE}")):
        told = Trace.load(beside)
        limit = trace.max_new_tokens or told.max_new_tokens or 0
        if (told.path, told.pair) != ("target", trace.pair) or limit > (told.max_new_tokens or 0):
            continue
        kept = [i for i, row in enumerate(told.rows) if (row.sample, row.question) in prompts]
        if len(kept) == len(prompts):
            return told.select(kept).cut(limit), trace
    raise ValueError(
        f"{path}: holds what was accepted, not what the drafter would have said elsewhere, and no extraction of these "
        f"prompts along the target's path is beside it in {path.parent.parent}; `egptlib run 04` there makes one"
    )
