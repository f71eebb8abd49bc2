"""Run both models along one answer per question and keep what each position looks like to them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor
from tqdm import tqdm

from egptlib._paths import atomic_write
from egptlib.hidden_states._heads import Head
from egptlib.hidden_states._reader import HiddenStates
from egptlib.hidden_states._writer import HiddenStateWriter

if TYPE_CHECKING:  # reading stored states must not cost the import of both models
    from egptlib.models import Inputs, Model, Pair
    from egptlib.scenes import Scene

TokenPath = Literal["target", "free"]
FAILURES = "failures.jsonl"


@dataclass(frozen=True)
class Extraction:
    """What a run of `extract` did; `str()` of it is the line it prints.

    Attributes:
        folder: the chunk folder.
        num_extracted: samples added by this run.
        num_present: samples of these scenes that were there before.
        num_failed: samples set aside by this run, listed with reasons in `failures.jsonl`.
        seconds: wall-clock time of this run.
    """

    folder: Path
    num_extracted: int
    num_present: int
    num_failed: int
    seconds: float

    def __str__(self) -> str:
        rate = self.num_extracted / self.seconds if self.seconds else 0.0
        text = f"extracted {self.num_extracted} pairs in {_duration(self.seconds)} ({rate:.1f} a second)"
        if self.num_present:
            text += f", {self.num_present} were there already"
        if self.num_failed:
            text += f", {self.num_failed} set aside (see {FAILURES})"
        return f"{text} -> {self.folder}"


def extract(
    pair: Pair,
    scenes: Sequence[Scene],
    out: str | os.PathLike[str],
    path: TokenPath = "target",
    max_new_tokens: int = 50,
    num_questions: int = 10,
    questions: Sequence[str] | None = None,
    dtype: str = "float32",
    chunk_size: int = 1000,
    commit_every: int = 50,
) -> Extraction:
    """Extract paired hidden states of `scenes` into the chunk folder `out`, or continue there.

    Along ``path="target"`` the target answers greedily and the drafter reads the same tokens (one pass, teacher
    forcing): position t of both stands after the same words, and `drafter_top1 == token_ids` is the exact
    acceptance of greedy speculative decoding. Along ``path="free"`` each answers by itself and the positions are
    cut to the shorter answer, as the earlier work did: position t stands after different words, `drafter_top1` is
    the drafter's own token there, and the full answers are in the metadata as `drafter_ids` and `target_ids`.

    `overlap` is sum(min(p, q)) over the shared vocabulary, p and q each the softmax in float32 of a model's raw
    logits over its whole vocabulary: the chance that sampling at temperature 1 accepts a draft token.

    A sample that fails (a damaged clip, a prompt that is too long) is written to `failures.jsonl` with its reason
    and the run goes on; the next run tries it again.

    Args:
        pair: from `load_pair`.
        scenes: from `open_scenes`, or any sequence of scenes; with an attribute `ids`, scenes that are complete
            in `out` are not read again.
        out: chunk folder; see `HiddenStates.open`.
        path: along whose tokens.
        max_new_tokens: longest answer; an end token counts as one.
        num_questions: the first so many questions of each scene.
        questions: asked of every scene instead of its own.
        dtype: of the stored hidden states: "float32", "bfloat16", "float16".
        chunk_size: samples per file.
        commit_every: most samples that a crash can cost.

    Raises:
        ValueError: an unknown path or dtype, or `out` was extracted under another configuration.
    """
    if path not in get_args(TokenPath):
        raise ValueError(f"path {path!r}: expected one of {', '.join(get_args(TokenPath))}")
    if max_new_tokens < 1 or num_questions < 1:
        raise ValueError(f"max_new_tokens {max_new_tokens}, num_questions {num_questions}: expected at least 1")
    config = _configuration(pair, scenes, path, max_new_tokens)
    failures = _Failures(Path(out) / FAILURES)
    extracted = present = failed = 0
    start = time.perf_counter()
    ids: Sequence[str] = getattr(scenes, "ids", ())
    with HiddenStateWriter(out, config, chunk_size, dtype, commit_every) as writer:
        writer.add_heads(target=Head.of(pair.target), drafter=Head.of(pair.drafter))
        known = _own_questions(out)
        for i in tqdm(range(len(scenes)), desc=f"extract ({path})", unit="scene", leave=False):
            if ids and questions is None and known[ids[i]].issuperset(range(num_questions)):
                present += num_questions
                continue
            try:
                scene = scenes[i]
            except Exception as error:
                failures.add(ids[i] if ids else f"number {i}", "", error)
                failed += 1
                continue
            reader = _SceneReader(pair, scene, max_new_tokens)
            for question in (questions or scene.questions)[:num_questions]:
                if (scene.id, question) in writer:
                    present += 1
                    continue
                try:
                    sample = reader.target_path(question) if path == "target" else reader.free_path(question)
                except Exception as error:
                    failures.add(scene.id, question, error)
                    failed += 1
                    continue
                try:
                    writer.add(**sample)
                except ValueError as error:  # not finite; a full disk, an OSError, ends the run
                    failures.add(scene.id, question, error)
                    failed += 1
                    continue
                failures.remove(scene.id, question)
                extracted += 1
    result = Extraction(Path(out), extracted, present, failed, time.perf_counter() - start)
    print(result, flush=True)
    return result


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
    if (Path(out) / "index.json").is_file():
        for record in HiddenStates.open(out).metadata():
            if record.get("question_index") is not None:
                known[record["scene"]].add(record["question_index"])
    return known


class _SceneReader:
    """Both models before one scene; its pictures go through each vision tower once for all questions."""

    def __init__(self, pair: Pair, scene: Scene, max_new_tokens: int) -> None:
        self.pair, self.scene, self.max_new_tokens = pair, scene, max_new_tokens
        self._seen: dict[str, Inputs] = {}

    def target_path(self, question: str) -> dict[str, Any]:
        """Both along the target's greedy answer."""
        drafter, target = self.pair.drafter, self.pair.target
        ids, target_hidden = self._answer("target", question)
        if int(ids.max()) >= self.pair.num_shared_tokens:
            raise ValueError(
                f"the target's answer holds token {int(ids.max())}, which the drafter does not have "
                f"(shared are the first {self.pair.num_shared_tokens})"
            )
        drafter_hidden, drafter_logits = drafter.forward_answer(self._inputs("drafter", question), ids)
        return {
            "drafter_hidden": drafter_hidden,
            "target_hidden": target_hidden,
            "token_ids": ids,
            "drafter_top1": drafter_logits.argmax(dim=-1),
            **figures(drafter_logits, _logits(target, target_hidden), self.pair.num_shared_tokens),
            "metadata": self._metadata(question) | {"target_text": target.decode_text(ids)},
        }

    def free_path(self, question: str) -> dict[str, Any]:
        """Each along its own greedy answer, cut to the shorter."""
        drafter, target = self.pair.drafter, self.pair.target
        drafter_ids, drafter_hidden = self._answer("drafter", question)
        target_ids, target_hidden = self._answer("target", question)
        n = min(len(drafter_ids), len(target_ids))
        drafter_hidden, target_hidden = drafter_hidden[:n], target_hidden[:n]
        drafter_logits, target_logits = _logits(drafter, drafter_hidden), _logits(target, target_hidden)
        answers = {
            "drafter_text": drafter.decode_text(drafter_ids),
            "target_text": target.decode_text(target_ids),
            "drafter_ids": drafter_ids.tolist(),
            "target_ids": target_ids.tolist(),
        }
        return {
            "drafter_hidden": drafter_hidden,
            "target_hidden": target_hidden,
            "token_ids": target_ids[:n],
            "drafter_top1": drafter_ids[:n],
            **figures(drafter_logits, target_logits, self.pair.num_shared_tokens),
            "metadata": self._metadata(question) | answers,
        }

    def _inputs(self, side: Literal["drafter", "target"], question: str) -> Inputs:
        model: Model = getattr(self.pair, side)
        inputs = model.encode(self.scene, question, like=self._seen.get(side))
        self._seen[side] = inputs  # its visual tokens are filled by the model when it first embeds them
        return inputs

    def _answer(self, side: Literal["drafter", "target"], question: str) -> tuple[Tensor, Tensor]:
        """Greedy answer: token ids [n] on the CPU, hidden states [n, hidden] that predict them."""
        model: Model = getattr(self.pair, side)
        state = model.prefill(self._inputs(side, question))
        ids, hidden = model.decode_greedy(state, self.max_new_tokens)
        return ids.cpu(), hidden

    def _metadata(self, question: str) -> dict[str, Any]:
        scene = self.scene
        number = scene.questions.index(question) if question in scene.questions else None
        return {
            "scene": scene.id,
            "sequence": scene.sequence,
            "question": question,
            "question_index": number,
            "reference": scene.answers[number] if scene.answers and number is not None else None,
        }


@torch.no_grad()
def _logits(model: Model, hidden: Tensor) -> Tensor:
    return model.lm_head(hidden)


def figures(drafter_logits: Tensor, target_logits: Tensor, num_shared_tokens: int) -> dict[str, Tensor]:
    """Return what the two next-token distributions say at each position, float32 [n] on the CPU each.

    `overlap` is sum(min(p, q)), `drafter_confidence` max(q), `target_entropy` that of p in nats.

    Args:
        drafter_logits, target_logits: [n, V] of each model's own vocabulary.
        num_shared_tokens: ids below it mean the same to both; the rest can never agree.
    """
    q, log_p = drafter_logits.float().softmax(dim=-1), target_logits.float().log_softmax(dim=-1)
    p = log_p.exp()
    # The heads may sit on two devices.
    shared = torch.minimum(p[:, :num_shared_tokens], q[:, :num_shared_tokens].to(p.device)).sum(dim=-1)
    entropy = -(p * log_p.clamp(min=-1e4)).sum(dim=-1)  # 0 * -inf would be NaN
    return {
        "overlap": shared.clamp(max=1.0).cpu(),  # rounding of the sums may exceed 1 by 1e-7
        "drafter_confidence": q.amax(dim=-1).cpu(),
        "target_entropy": entropy.cpu(),
    }


def _configuration(pair: Pair, scenes: Sequence[Scene], path: str, max_new_tokens: int) -> dict[str, Any]:
    """What a stored sample depends on, in plain values; a folder holds samples of one such configuration."""
    config: dict[str, Any] = {"path": path, "max_new_tokens": max_new_tokens, "pair": pair.name}
    config["dataset"] = getattr(scenes, "name", None)
    config["drafter_weights"], config["target_weights"] = _fingerprint(pair.drafter), _fingerprint(pair.target)
    options = getattr(scenes, "options", None)
    if dataclasses.is_dataclass(options) and not isinstance(options, type):
        config |= dataclasses.asdict(options)
    return config


def _fingerprint(model: Model) -> str:
    """Hash over up to 512 values of every parameter: tells retrained, requantized or recast weights apart."""
    digest = hashlib.sha256()
    for name, parameter in model.module.named_parameters():
        values = parameter.detach().flatten()
        values = values[:: max(1, values.numel() // 512)]
        digest.update(f"{name} {tuple(parameter.shape)} {parameter.dtype}".encode())
        digest.update(values.cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:12]


class _Failures:
    """`failures.jsonl`: one line per sample that is missing, whole at any time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._records: dict[tuple[str, str], dict[str, str]] = {}
        if path.is_file():
            for line in path.read_text(encoding="utf-8").splitlines():
                record = json.loads(line)
                self._records[record["scene"], record["question"]] = record

    def add(self, scene: str, question: str, error: Exception) -> None:
        """Note a failure; an empty question stands for the whole scene."""
        reason = f"{type(error).__name__}: {error}"
        self._records[scene, question] = {"scene": scene, "question": question, "reason": reason}
        self._write()

    def remove(self, scene: str, question: str) -> None:
        """Forget the failures that a sample's success makes void."""
        void = [key for key in ((scene, question), (scene, "")) if key in self._records]
        for key in void:
            del self._records[key]
        if void:
            self._write()

    def _write(self) -> None:
        lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in self._records.values()]
        with atomic_write(self._path) as temporary:
            temporary.write_text("".join(lines), encoding="utf-8")


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
