"""Run both models along one answer per question and keep what each position looks like to them."""

from __future__ import annotations

import dataclasses
import os
import time
from collections import Counter, defaultdict
from collections.abc import Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from logging import getLogger
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch

from egptlib._ahead import ahead
from egptlib._processes import stop_on_signals
from egptlib._terminal import progress
from egptlib._whole import several, whole
from egptlib.hidden_states._failures import FAILURES, Failures
from egptlib.hidden_states._heads import Head
from egptlib.hidden_states._index import INDEX
from egptlib.hidden_states._prompts import PromptRows
from egptlib.hidden_states._reader import HiddenStates
from egptlib.hidden_states._samples import Layers, SampleMaker, Seen
from egptlib.hidden_states._trace import write_trace
from egptlib.hidden_states._writer import HiddenStateWriter
from egptlib.scenes import SceneFolder

if TYPE_CHECKING:  # reading stored states must not cost the import of both models
    from egptlib.models import Pair
    from egptlib.scenes import Scene

log = getLogger(__name__)
READ_AHEAD = 8  # scenes, whose pictures take some 12 MB each
TokenPath = Literal["target", "free"]


@dataclass(frozen=True)
class Extraction:
    """What a run of `extract` did; `str()` of it is the line it logs.

    Attributes:
        folder: the chunk folder.
        num_extracted: samples added by this run.
        num_present: samples of these scenes that were there before.
        num_failed: samples set aside, by this run or an earlier one, listed with reasons in `failures.jsonl`
            (of each worker in `shards/`).
        seconds: wall-clock time of this run.
        num_ties: positions read by this run whose two likeliest tokens are equal up to rounding: another batch, or
            the model alone, may say the other one there.
    """

    folder: Path
    num_extracted: int
    num_present: int
    num_failed: int
    seconds: float
    num_ties: int = 0

    def __str__(self) -> str:
        rate = self.num_extracted / self.seconds if self.seconds else 0.0
        text = f"extracted {self.num_extracted} pairs in {duration(self.seconds)} ({rate:.1f} a second)"
        if self.num_present:
            text += f", {self.num_present} were there already"
        if self.num_failed:
            reasons = f"shards/*/{FAILURES}" if (self.folder / "shards").is_dir() else FAILURES  # of each worker
            text += f", {self.num_failed} set aside (see {reasons})"
        if self.num_ties:
            text += f", {self.num_ties} positions tied within rounding"
        return f"{text} -> {self.folder}"


@dataclass(frozen=True)
class ExtractionSettings:
    """What `extract` takes by name.

    Attributes:
        path: along whose tokens, "target" or "free".
        max_new_tokens: longest answer; an end token counts as one.
        num_questions: the first so many questions of each scene.
        questions: asked of every scene instead of its own.
        dtype: of the stored hidden states: "float32", "bfloat16", "float16"; None: the target's own.
        chunk_size: samples per file.
        commit_every: most samples that a crash can cost.
        batch_size: samples per batch.
        layers: states to keep besides the last ones, as {"drafter": (1,), "target": (3, 6, 9)}: those after so many
            decoder layers, before the final norm, as EAGLE-3 fuses them (Li et al. 2025).
        prompt_rows: keep the target's states along the prompts too (`read_prompt`), as heads that are to be served
            and other trainers want whole sequences; needs layers of the target. What a scene's prompts have in
            common is kept once.
        retry_failed: try again what an earlier run set aside.
        max_failures_in_row: so many failures without a success between them stop the run.

    Raises:
        ValueError: an unknown path, a count below 1, one text in place of questions, or `prompt_rows` without the
            target's path and layers.
    """

    path: TokenPath = "target"
    max_new_tokens: int = 50
    num_questions: int = 10
    questions: Sequence[str] | None = None
    dtype: str | None = None
    chunk_size: int = 1000
    commit_every: int = 50
    batch_size: int = 64
    layers: Layers | None = None
    prompt_rows: bool = False
    retry_failed: bool = False
    max_failures_in_row: int = 100

    def __post_init__(self) -> None:
        if self.path not in get_args(TokenPath):
            raise ValueError(f"path {self.path!r}: expected one of {', '.join(get_args(TokenPath))}")
        if self.questions is not None:
            object.__setattr__(self, "questions", several(self.questions, "questions"))
        for name in ("max_new_tokens", "num_questions", "batch_size"):
            object.__setattr__(self, name, whole(getattr(self, name), name))
        if min(self.max_new_tokens, self.num_questions, self.batch_size) < 1:
            raise ValueError(
                f"max_new_tokens {self.max_new_tokens}, num_questions {self.num_questions}, batch_size "
                f"{self.batch_size}: expected at least 1"
            )
        if self.prompt_rows and (self.path != "target" or not (self.layers or {}).get("target")):
            raise ValueError("prompt_rows: expected the target's path and layers of the target")

    @property
    def scenes_per_batch(self) -> int:
        """Scenes whose questions fill a batch; shards are cut between batches."""
        return max(1, self.batch_size // (len(self.questions or ()) or self.num_questions))


def extract(pair: Pair, scenes: Sequence[Scene], out: str | os.PathLike[str], **options: Any) -> Extraction:
    """Extract paired hidden states of `scenes` into the chunk folder `out`, or continue there.

    Along ``path="target"`` the target answers greedily and the drafter reads the same tokens (one pass, teacher
    forcing): position t of both stands after the same words, and `drafter_top1 == token_ids` is the exact
    acceptance of greedy speculative decoding. Along ``path="free"`` each answers by itself and the positions are
    cut to the shorter answer, as the earlier work did: position t stands after different words, `drafter_top1` is
    the drafter's own token there, and the full answers are in the metadata as `drafter_ids` and `target_ids`.

    `overlap` is sum(min(p, q)), p and q each the softmax in float32 of a model's logits, the target's after the rules
    of its generation_config.json, the drafter's over the tokens that both have: the chance that sampling at
    temperature 1 accepts a draft token. `drafter_top1` is in the target's ids; where the two have different
    vocabularies, it is -1 on the free path for a token the target lacks, and along the target's path the drafter has
    read the same words in its own tokens.

    Scenes are visited once, in batches that depend on the list of scenes alone. A batch that a stop cut in two is
    computed again whole, so a run that was killed and run again ends with the same bytes as one that was not. Where
    memory runs out the batch is halved, and stays halved.

    A run that comes to its end leaves `trace.parquet` beside the chunks, which `egptlib.traces.Trace` opens: token ids,
    agreement, overlap and confidence without the states, for replay.

    A sample that fails (a damaged clip, a prompt that is too long) is written to `failures.jsonl` with its reason
    and the run goes on. Ctrl-C and SIGTERM commit what is there and end the run after the batch at work.

    Args:
        pair: from `load_pair`.
        scenes: from `open_scenes`, or any sequence of scenes; with an attribute `ids`, scenes that are complete
            in `out` are not read again.
        out: chunk folder; see `HiddenStates.open`.
        options: fields of `ExtractionSettings`.

    Raises:
        ValueError: an unknown path or dtype, a list with two scenes of one id, or `out` was extracted under another
            configuration.
        RuntimeError: too many failures in a row; the last one is its cause.
        KeyboardInterrupt: Ctrl-C or SIGTERM, after the commit.

    Example:
        >>> from egptlib import HiddenStates, load_pair, open_scenes
        >>> scenes = open_scenes("streets", num_sequences=1)
        >>> extraction = extract(load_pair(), scenes.spread(1), "states", num_questions=2)
        >>> len(HiddenStates.open("states"))
        2
    """
    settings = ExtractionSettings(**options)
    if isinstance(scenes, list | tuple):
        counts = Counter(scene.id for scene in scenes)
        if again := [f"{count} of {id!r}" for id, count in counts.items() if count > 1]:
            raise ValueError(f"scenes: expected one of each id, found {', '.join(again[:3])}; `id=` names one")
    fewest = getattr(scenes, "num_questions", settings.num_questions)
    if settings.questions is None and fewest < settings.num_questions:
        log.info(
            f"num_questions: {settings.num_questions} asked for, and some scenes have {fewest}: those are asked all "
            "they have"
        )
    start = time.perf_counter()
    layers = settings.layers or {}
    config = _configuration(pair, scenes, settings.path, settings.max_new_tokens, layers)
    if settings.prompt_rows:
        config["prompt_rows"] = True
    maker = SampleMaker(pair, settings.path, settings.max_new_tokens, layers, settings.prompt_rows)
    dtype = settings.dtype or str(pair.target.dtype).removeprefix("torch.")
    ids: Sequence[str] = getattr(scenes, "ids", ())
    with HiddenStateWriter(out, config, settings.chunk_size, dtype, settings.commit_every) as writer:
        writer.add_heads(target=Head.of(pair.target), drafter=Head.of(pair.drafter))
        run = _Run(maker, writer, Failures(Path(out)), settings)
        known, asked, per_batch = _own_questions(out), range(settings.num_questions), settings.scenes_per_batch
        batches = [range(first, min(first + per_batch, len(scenes))) for first in range(0, len(scenes), per_batch)]
        own = bool(ids) and settings.questions is None
        complete = [own and all(known[ids[i]].issuperset(asked) for i in numbers) for numbers in batches]
        read = run.read(scenes, [i for numbers, done in zip(batches, complete) if not done for i in numbers], ids)
        if isinstance(scenes, SceneFolder):  # a user's own may be tied to this thread
            read = ahead(read, READ_AHEAD)
        bar = progress(total=len(scenes), desc=f"extract ({settings.path})", unit="scene")
        with bar, closing(read), stop_on_signals() as stop:
            for numbers, done in zip(batches, complete):
                if done:
                    run.num_present += len(asked) * len(numbers)
                else:
                    run.batch(islice(read, len(numbers)))
                bar.update(len(numbers))
                if stop.requested:
                    break
    result = Extraction(
        Path(out), run.num_extracted, run.num_present, run.num_failed, time.perf_counter() - start, maker.num_ties
    )
    log.info("%s%s", "stopped: " if stop.requested else "", result)
    if stop.requested:
        raise KeyboardInterrupt
    if len(writer):
        write_trace(out, pair)
    return result


class _Run:
    """The state of one run: what is done, what failed, how large a batch may be."""

    def __init__(
        self, maker: SampleMaker, writer: HiddenStateWriter, failures: Failures, settings: ExtractionSettings
    ) -> None:
        self.maker, self.writer, self.failures, self.settings = maker, writer, failures, settings
        self.batch_size = settings.batch_size
        self.num_extracted = self.num_present = self.num_failed = self._in_row = 0

    def read(
        self, scenes: Sequence[Scene], numbers: Sequence[int], ids: Sequence[str]
    ) -> Generator[tuple[str, Scene | Exception | None]]:
        """Scenes by name; None for one that was set aside, or the error."""
        for i in numbers:
            name, scene = ids[i] if ids else f"number {i}", None
            try:
                if self.settings.retry_failed or (name, "") not in self.failures:
                    scene = scenes[i]
            except Exception as error:
                yield name, error
            else:
                yield name, scene

    def batch(self, scenes: Iterable[tuple[str, Scene | Exception | None]]) -> None:
        """Store what is missing of some scenes."""
        rows: list[tuple[Seen, str]] = []
        retry = self.settings.retry_failed
        for name, scene in scenes:
            if scene is None:
                self.num_failed += 1
                continue
            try:
                if isinstance(scene, Exception):
                    raise scene
                asked = (self.settings.questions or scene.questions)[: self.settings.num_questions]
                seen = self.maker.look(scene, asked[0])
            except Exception as error:
                self._failed(name, "", error)
                continue
            rows += [(seen, question) for question in asked]
        keys = [(seen.scene.id, question) for seen, question in rows]
        wanted = {key for key in keys if key not in self.writer and (retry or key not in self.failures)}
        self.num_present += sum(key in self.writer for key in keys)
        self.num_failed += sum(key not in self.writer and key not in wanted for key in keys)
        # All or nothing: the composition of a batch, and so the last bits, must not depend on where a run stopped.
        if wanted:
            self._store(rows, wanted)

    def _store(self, rows: list[tuple[Seen, str]], wanted: set[tuple[str, str]]) -> None:
        """Read rows together; where that fails, in halves, down to the row that is to blame."""
        if len(rows) > self.batch_size:
            for first in range(0, len(rows), self.batch_size):
                self._store(rows[first : first + self.batch_size], wanted)
            return
        try:
            samples = self.maker.make(rows)
        except Exception as error:
            if len(rows) == 1:
                seen, question = rows[0]
                if (seen.scene.id, question) in wanted:
                    self._failed(seen.scene.id, question, error)
                return
            half = (len(rows) + 1) // 2
            if isinstance(error, torch.OutOfMemoryError):
                error.__traceback__ = None  # it holds the tensors that are to be freed
                torch.cuda.empty_cache()
                self.batch_size = half
                log.warning("out of memory with %d samples at once; going on with %d", len(rows), half)
        else:
            prompts: dict[str, dict[str, PromptRows]] = {}
            for (seen, question), sample in zip(rows, samples):
                if "prompt" in sample:
                    prompts.setdefault(seen.scene.id, {})[question] = sample.pop("prompt")
            for scene, own in prompts.items():
                self.writer.add_prompts(scene, own)
            for (seen, question), sample in zip(rows, samples):
                if (seen.scene.id, question) in wanted:
                    self._keep(seen.scene.id, question, sample)
            return
        self._store(rows[:half], wanted)
        self._store(rows[half:], wanted)

    def _keep(self, scene: str, question: str, sample: dict[str, Any]) -> None:
        try:
            self.writer.add(**sample)
        except ValueError as error:  # not finite; a full disk, an OSError, ends the run
            self._failed(scene, question, error)
            return
        self.failures.remove(scene, question)
        self.num_extracted += 1
        self._in_row = 0

    def _failed(self, scene: str, question: str, error: Exception) -> None:
        self.failures.add(scene, question, error)
        self.num_failed += 1
        self._in_row += 1
        if self._in_row >= self.settings.max_failures_in_row:
            raise RuntimeError(f"{self._in_row} failures in a row, the last one: scene {scene}: {error}") from error


def is_complete(out: str | os.PathLike[str], scenes: Sequence[Scene], num_questions: int = 10) -> bool:
    """Whether `out` holds the first `num_questions` questions of every scene, so that no model is needed to go on.

    Args:
        out: chunk folder, which may be missing.
        scenes: with an attribute `ids`, as `open_scenes` gives them; none is read.
        num_questions: as for `extract`. Scenes that have fewer questions count as incomplete.
    """
    known = _own_questions(out)
    ids: Sequence[str] = scenes.ids  # type: ignore[attr-defined]
    return all(known[scene_id].issuperset(range(num_questions)) for scene_id in ids)


def _own_questions(out: str | os.PathLike[str]) -> defaultdict[str, set[int]]:
    """Return, by scene, which of its own questions the folder `out` has: known without reading the scene."""
    known: defaultdict[str, set[int]] = defaultdict(set)
    if (Path(out) / INDEX).is_file():
        for record in HiddenStates.open(out).metadata():
            if record.get("question_index") is not None:
                known[record["scene"]].add(record["question_index"])
    return known


def _configuration(
    pair: Pair, scenes: Sequence[Scene], path: str, max_new_tokens: int, layers: Layers
) -> dict[str, Any]:
    """What a stored sample depends on, in plain values; a folder holds samples of one such configuration."""
    from egptlib.models import fingerprint

    config: dict[str, Any] = {"path": path, "max_new_tokens": max_new_tokens, "pair": pair.name}
    config["layers"] = {side: list(numbers) for side, numbers in layers.items()}
    quantization = getattr(getattr(pair.target.module, "config", None), "quantization_config", None)
    config["quantization"] = None if quantization is None else str(getattr(quantization, "quant_method", quantization))
    if rules := pair.target.rule_settings:
        config["generation_config"] = rules
    config["dataset"] = getattr(scenes, "name", None)
    config["drafter_weights"] = fingerprint(pair.drafter.module)
    config["target_weights"] = fingerprint(pair.target.module)
    options = getattr(scenes, "options", None)
    if dataclasses.is_dataclass(options) and not isinstance(options, type):
        config |= dataclasses.asdict(options)
        if callable(config.get("sampling")):
            config["sampling"] = "own"  # the target's, whose weights are told
    return config


def duration(seconds: float) -> str:
    """Return a time as a person says it: ``1.5 s``, ``3 min 12 s``, ``2 h 5 min``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
