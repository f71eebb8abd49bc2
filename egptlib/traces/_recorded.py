"""Open the result files of the earlier experiments as they are: units made seconds, each file's traps named."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Row = dict[str, Any]

# Fields of a format, by the name they have in the file.
_FIVE_STAGES = ("stage1_time", "stage2_time", "stage3_time", "stage4_time", "stage5_time")
_STAGE_NAMES = ("load", "preprocess", "vision", "prefill", "decode")
VISUAL_TOKENS = 2_048  # 8 frames of 256 tokens, which the five-stage script added a second time

FREE_PATH = "each model wrote its own answer: equal tokens at one position are no acceptance beyond the first mismatch"
TEXT_ONLY = "holds texts and no token ids: what was accepted is as recorded and cannot be recomputed"
COMPUTED_OVERLAP = "the two models ran one after the other: times with overlap were computed, not measured"
BOS_COUNTED = (
    "both texts were tokenized again with BOS, which always matches: acceptance_rate is too high by about 1/50"
)
LOAD_IN_WINDOW = "overlap_window includes reading files: it grows with the clip, the models' share of it does not"
BOTH_AS_BASELINE = "parallel_speedup compares with running both models in sequence, not with the target alone"
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
        extra: other figures of the file, as they are (aggregates of the earlier scripts, training curves).
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


def open_recorded(path: str | Path) -> Recorded:
    """Open a result file of the earlier experiments; which format it is follows from what it holds.

    Kinds: `test_tokens` (ids of both models), `five_stage` (ids and stage times), `e2e_wallclock` (one row a sample
    and method, the baseline among them), `sd_eval`, `token_adapter_benchmark`, `token_adapter_training`,
    `parallel_metrics`, `parallel_prefill`, `semantic_acceptance`, `llava15_timing`, `adapter_metrics`,
    `adapter_positions`, `adapter_config`, `two_phase`.

    Raises:
        ValueError: not JSON, none of these formats, or a field missing or not of its kind (file, row, field named).
        OSError: the file cannot be read.
    """
    path = Path(path)
    try:
        obj = json.loads(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError:
        raise ValueError(f"{path}: not a text file; expected a JSON result file") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: damaged or cut off: {error}") from None
    for kind, (recognise, read) in _FORMATS.items():
        if recognise(obj):
            return read(kind, path, obj)
    keys = sorted(obj)[:8] if isinstance(obj, dict) else type(obj).__name__
    raise ValueError(f"{path}: no known result file; expected one of {', '.join(_FORMATS)}, found {keys}")


class _Reader:
    """Takes fields out of one record; an error names file, record and field."""

    def __init__(self, path: Path, where: str, record: Any):
        if not isinstance(record, dict):
            raise ValueError(f"{path}: {where}: expected an object, found {type(record).__name__}")
        self.path, self.where, self.record = path, where, record

    def _error(self, name: str, expected: str) -> ValueError:
        found = repr(self.record[name])[:40] if name in self.record else "nothing"
        return ValueError(f"{self.path}: {self.where}: {name}: expected {expected}, found {found}")

    def number(self, name: str) -> float:
        value = self.record.get(name)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise self._error(name, "a number")
        return float(value)

    def seconds(self, name: str) -> float:
        value = self.number(name)
        if value < 0:
            raise self._error(name, "a time of 0 or more")
        return value

    def ms(self, name: str) -> float:
        return self.seconds(name) / 1e3

    def count(self, name: str) -> int:
        value = self.number(name)
        if value < 0 or value != int(value):
            raise self._error(name, "a whole number of 0 or more")
        return int(value)

    def ids(self, name: str) -> list[int]:
        value = self.record.get(name)
        if not isinstance(value, list) or not all(type(token) is int and token >= 0 for token in value):
            raise self._error(name, "a list of token ids")
        return value

    def text(self, name: str) -> str:
        value = self.record.get(name)
        if not isinstance(value, str):
            raise self._error(name, "a text")
        return value

    def part(self, name: str) -> "_Reader":
        return _Reader(self.path, f"{self.where}: {name}", self.record.get(name))


def _readers(path: Path, obj: Mapping[str, Any], name: str = "results") -> list[_Reader]:
    rows = obj.get(name)
    if not isinstance(rows, list) or not rows:
        raise ValueError(f"{path}: {name}: expected a list of records, found none")
    return [_Reader(path, f"{name}[{i}]", row) for i, row in enumerate(rows)]


def _test_tokens(kind: str, path: Path, obj: Any) -> Recorded:
    rows = [
        {
            "sample": r.count("sample_idx"),
            "question": r.text("query"),
            "drafter_ids": r.ids("egpt_tokens"),
            "target_ids": r.ids("vl_tokens"),
            "drafter_text": r.text("egpt_text"),
            "target_text": r.text("vl_text"),
        }
        for r in _readers(path, obj)
    ]
    traps = (FREE_PATH, "the target's answers are cut at 50 tokens")
    return Recorded(kind, path, rows, traps, {"questions": obj.get("questions", [])})


def _five_stage(kind: str, path: Path, obj: Any) -> Recorded:
    rows = []
    semantic = False
    for r in _readers(path, obj):
        row: Row = {"sample": r.count("sample_idx")}
        for lane, name in (("drafter", "eventgpt"), ("target", "videollava")):
            model = r.part(name)
            row[f"{lane}_ids"] = model.ids("output_tokens")
            row[f"{lane}_text"] = model.text("output_text")
            row[f"{lane}_stages"] = {s: model.seconds(f) for s, f in zip(_STAGE_NAMES, _FIVE_STAGES)}
            row[f"{lane}_prompt_length"] = model.count("prefill_length")
        # input_ids come expanded to their 2,048 visual tokens, and the script added these again.
        row["target_prompt_length"] -= VISUAL_TOKENS
        acceptance, parallel = r.part("acceptance"), r.part("parallel")
        row["recorded_acceptance"] = acceptance.number("acceptance_rate")
        semantic = "method" not in acceptance.record
        if not semantic:
            row["recorded_matches"] = acceptance.count("matched_tokens")
            row["recorded_compared"] = acceptance.count("total_tokens")
        row["recorded_window_seconds"] = parallel.seconds("overlap_window")
        row["recorded_hidden_tokens"] = parallel.count("hidden_tokens")
        row["recorded_wall_seconds"] = parallel.seconds("wall_clock_total")
        row["recorded_speedup"] = parallel.number("parallel_speedup")
        row["inference_mb"] = model.part("gpu_memory_mb").number("inference_delta")
        rows.append(row)
    scored = (
        "acceptance_rate is the retired semantic score: words in common, no acceptance" if semantic else BOS_COUNTED
    )
    length = "prefill_length of the target counted its 2,048 visual tokens twice: taken off here"
    traps = (FREE_PATH, scored, length, LOAD_IN_WINDOW, BOTH_AS_BASELINE, COMPUTED_OVERLAP)
    return Recorded(kind, path, rows, traps, obj.get("config", {}), {"dataset": obj.get("dataset_name", "")})


def _e2e_wallclock(kind: str, path: Path, obj: Any) -> Recorded:
    """Rows of method "baseline" first, then each method's, with the baseline of its sample joined on."""
    rows: list[Row] = []
    baseline: dict[tuple[int, str], Row] = {}
    for r in _readers(path, obj, "baseline_per_sample"):
        row: Row = {
            "method": "baseline",
            "sample": r.count("sample"),
            "question": r.text("question"),
            "num_tokens": r.count("n_tokens"),
            "target_stages": {"prefill": r.ms("prefill_ms"), "decode": r.ms("decode_ms")},
            "total_seconds": r.ms("total_ms"),
            "text": r.text("text"),
        }
        baseline[row["sample"], row["question"]] = row
        rows.append(row)
    really_shared = False
    for method, records in obj["sd_per_sample"].items():
        for i, record in enumerate(records):
            r = _Reader(path, f"sd_per_sample[{method!r}][{i}]", record)
            key = (r.count("sample"), r.text("question"))
            if key not in baseline:
                raise ValueError(f"{path}: {r.where}: no baseline for sample {key[0]}, question {key[1]!r}")
            row = {
                "method": method,
                "sample": key[0],
                "question": key[1],
                "num_tokens": r.count("n_tokens"),
                "text": r.text("text"),
                "drafted": r.count("drafted"),
                "accepted": r.count("accepted"),
                "drafter_stages": {"prefill": r.ms("egpt_prefill_ms"), "decode": r.ms("egpt_decode_ms")},
                "target_stages": {"prefill": r.ms("vl_prefill_ms"), "decode": r.ms("sd_decode_ms")},
                "prefill_seconds": r.ms("parallel_prefill_ms"),
                "decode_seconds": r.ms("sd_decode_ms"),
                "total_seconds": r.ms("sd_total_ms"),
                "baseline_seconds": r.ms("bl_total_ms"),
                "recorded_speedup": r.number("speedup"),
                "baseline_num_tokens": baseline[key]["num_tokens"],
                "baseline_decode_seconds": baseline[key]["target_stages"]["decode"],
                "identical": baseline[key]["text"] == r.text("text"),
            }
            if "gap_ms" in record:
                row["gap_seconds"] = r.ms("gap_ms")
                row["free_tokens"] = r.count("num_free_tok")
                row["drafter_step_seconds"] = r.ms("egpt_per_token_ms")
                row["drafter_stages"]["adapter"] = r.ms("adapter_ms")
                row["target_stages"]["decode"] = r.ms("vl_decode_ms")
            else:
                really_shared = True
            rows.append(row)
    overlap = "overlap_ms is the drafter's prefill, not the window: left out here"
    how = (
        "both models shared one GPU: parallel_prefill_ms is the target's prefill beside the drafter's"
        if really_shared
        else COMPUTED_OVERLAP
    )
    traps = (TEXT_ONLY, how, overlap)
    return Recorded(kind, path, rows, traps, obj.get("config", {}), {"stage_timing": obj.get("stage_timing", {})})


def _sd_eval(kind: str, path: Path, obj: Any) -> Recorded:
    rows = [
        {
            "sample": r.count("sample_idx"),
            "question": r.text("question"),
            "target_ids": r.ids("vl_output_tokens"),
            "drafter_ids": r.ids("egpt_draft_tokens"),
            "adapted_ids": r.ids("adapted_draft_tokens"),
            "output_ids": r.ids("sd_output_tokens"),
            "accepted": r.count("accepted_tokens"),
            "baseline_seconds": r.ms("vl_time_ms"),
            "total_seconds": r.ms("sd_time_ms"),
            "verify_seconds": r.ms("vl_verify_ms"),
            "drafter_stages": {"prefill": r.ms("egpt_prefill_ms"), "decode": r.ms("egpt_draft_ms")},
            "target_stages": {"prefill": r.ms("vl_prefill_ms"), "decode": r.ms("vl_decode_ms")},
            "identical": bool(r.record.get("output_matches")),
            "recorded_speedup": r.number("speedup"),
        }
        for r in _readers(path, obj)
    ]
    traps = (
        SHIFTED,
        "the outputs differ from the target's own and may stop early: speedup compares answers of unequal length",
        "total_seconds leaves out the drafter's prefill and drafting",
    )
    return Recorded(kind, path, rows, traps, obj.get("config", {}))


def _token_adapter_benchmark(kind: str, path: Path, obj: Any) -> Recorded:
    rows = [
        {
            "sample": r.count("sample_idx"),
            "question": r.text("question"),
            "drafter_ids": r.ids("egpt_tokens"),
            "adapted_ids": r.ids("adapter_tokens"),
            "target_ids": r.ids("vl_tokens"),
            "recorded_consecutive": r.count("consecutive_matches"),
            "recorded_matches": r.count("total_matches"),
        }
        for r in _readers(path, obj)
    ]
    return Recorded(kind, path, rows, (SHIFTED, FREE_PATH), obj.get("config", {}))


def _token_adapter_training(kind: str, path: Path, obj: Any) -> Recorded:
    rows: list[Row] = []
    for stage in ("baseline", "final"):
        for split in ("train", "test"):
            r = _Reader(path, stage, obj[stage]).part(split)
            correct, total = r.count("total_correct"), r.count("total_tokens")
            rows.append({"stage": stage, "split": split, "correct": correct, "compared": total})
    traps = (
        "baseline compares with vl_tokens, final with vl_tokens[1:]: not the same positions",
        "the stage times are zeros: nothing was timed",
        "a predictor that knows only the position scores about as much: see `position_majority`",
    )
    return Recorded(kind, path, rows, traps, obj.get("config", {}), {"history": obj.get("training_history", [])})


def _parallel_metrics(kind: str, path: Path, obj: Any) -> Recorded:
    rows = [
        {
            "sample": r.count("sample_idx"),
            "target_ids": r.ids("output_tokens"),
            "drafter_stages": {
                "vision": r.seconds("vision_time"),
                "prefill": r.seconds("prefill_time"),
                "decode": r.seconds("draft_time"),
            },
            "target_stages": {"prefill": r.seconds("vl_prefill_time"), "decode": r.seconds("vl_generation_time")},
            "drafter_prefill_seconds": r.seconds("egpt_complete_time"),
            "baseline_seconds": r.seconds("vl_total_time"),
            "drafted": r.count("draft_tokens"),
            "verified": r.count("tokens_to_verify"),
            "accepted": r.count("accepted_tokens"),
            "recorded_speedup": r.number("speedup"),
            "recorded_ideal": r.number("ideal_speedup"),
        }
        for r in _readers(path, obj)
    ]
    traps = (
        "estimated_acceptance_rate is a constant, 0.4: nothing was accepted by any model",
        "speedup leaves out the target's prefill and the rest of its decoding",
        COMPUTED_OVERLAP,
    )
    return Recorded(kind, path, rows, traps, obj.get("config", {}))


def _parallel_prefill(kind: str, path: Path, obj: Any) -> Recorded:
    rows: list[Row] = []
    for r in _readers(path, obj):
        drafter, target = r.part("eventgpt"), r.part("videollava")
        rows.append(
            {
                "sample": r.count("sample_idx"),
                "drafter_ids": drafter.ids("output_tokens"),
                "target_ids": target.ids("output_tokens"),
                "drafter_stages": {
                    "vision": drafter.seconds("vision_time"),
                    "prefill": drafter.seconds("prefill_time"),
                    "decode": drafter.seconds("draft_time"),
                },
                "target_stages": {
                    "vision": target.seconds("vision_time"),
                    "prefill": target.seconds("prefill_time"),
                    "decode": target.seconds("generation_time"),
                },
                "recorded_window_seconds": r.part("parallel").seconds("overlap_window"),
                "recorded_free_tokens": r.part("parallel").number("theoretical_draft_tokens"),
            }
        )
    return Recorded(kind, path, rows, (FREE_PATH, "the first sample warmed the device up"), obj.get("config", {}))


def _semantic_acceptance(kind: str, path: Path, obj: Any) -> Recorded:
    rows = [
        {
            "sample": r.count("sample_idx"),
            "num_tokens": r.count("vl_tokens"),
            "drafter_num_tokens": r.count("egpt_tokens"),
            "drafter_total_seconds": r.seconds("egpt_time"),
            "total_seconds": r.seconds("vl_time"),
            "drafter_text": r.text("egpt_text"),
            "target_text": r.text("vl_text"),
            "word_overlap": r.number("word_overlap"),
            "char_similarity": r.number("char_similarity"),
            "acceptance_estimate": r.number("acceptance_estimate"),
        }
        for r in _readers(path, obj)
    ]
    traps = (TEXT_ONLY, "acceptance_estimate is the mean of two text similarities: no token was ever accepted")
    return Recorded(kind, path, rows, traps, obj.get("config", {}))


def _llava15_timing(kind: str, path: Path, obj: Any) -> Recorded:
    rows: list[Row] = []
    for lane, name in (("drafter", "eventgpt"), ("target", "videollava")):
        for i, record in enumerate(obj[name]["samples"]):
            r = _Reader(path, f"{name}.samples[{i}]", record)
            stages = {"vision": r.seconds("s3_time"), "prefill": r.seconds("s4_time"), "decode": r.seconds("s5_time")}
            rows.append({"lane": lane, "sample": i, "prompt_length": r.count("prefill_len"), "stages": stages})
    traps = (
        "the target is llava-1.5-7b on eight images (4,643 tokens, bfloat16), not Video-LLaVA",
        "decode is five tokens long, so the share of the prefill is far too large",
    )
    return Recorded(kind, path, rows, traps, obj.get("config", {}))


def _adapter_metrics(kind: str, path: Path, obj: Any) -> Recorded:
    r = _Reader(path, "file", obj)
    for name in ("batch_size", "total_valid_positions", "cos_sim_mean"):
        r.number(name)
    traps = (
        ASSUMED_TIMES,
        "two free answers set side by side, cut to the shorter: position t of one text beside t of another",
        "B1 and L5F were given the state they are compared with: their cosine is no upper bound",
    )
    return Recorded(kind, path, [dict(obj)], traps, {"adapter": path.name.removesuffix("_acceptance_metrics.json")})


def _adapter_positions(kind: str, path: Path, obj: Any) -> Recorded:
    rows: list[Row] = []
    for i, record in enumerate(obj):
        r = _Reader(path, f"[{i}]", record)
        rows.append(dict(record) | {"position": r.count("position"), "num_samples": r.count("num_samples")})
    return Recorded(kind, path, rows, (), {"adapter": path.name.removesuffix("_position_stats.json")})


def _adapter_config(kind: str, path: Path, obj: Any) -> Recorded:
    return Recorded(kind, path, [dict(obj["adapter"])], (), obj)


def _two_phase(kind: str, path: Path, obj: Any) -> Recorded:
    r = _Reader(path, "file", obj)
    r.number("e2e_speedup")
    times = {
        "baseline_seconds": r.ms("baseline_time_ms"),
        "total_seconds": r.ms("sd_time_ms"),
        "recorded_speedup": r.number("e2e_speedup"),
        "method": r.text("label"),
    }
    return Recorded(kind, path, [times], ("every figure is estimated; measured were 0.31 to 0.37x", ASSUMED_TIMES), obj)


def _has(*names: str) -> Callable[[Any], bool]:
    return lambda obj: isinstance(obj, dict) and all(name in obj for name in names)


def _first_has(*names: str, of: str = "results") -> Callable[[Any], bool]:
    def recognise(obj: Any) -> bool:
        rows = obj.get(of) if isinstance(obj, dict) else None
        return isinstance(rows, list) and bool(rows) and isinstance(rows[0], dict) and all(n in rows[0] for n in names)

    return recognise


def _is_positions(obj: Any) -> bool:
    return (
        isinstance(obj, list) and bool(obj) and isinstance(obj[0], dict) and {"position", "num_samples"} <= set(obj[0])
    )


_FORMATS: dict[str, tuple[Callable[[Any], bool], Callable[[str, Path, Any], Recorded]]] = {
    "e2e_wallclock": (_has("baseline_per_sample", "sd_per_sample"), _e2e_wallclock),
    "five_stage": (_first_has("eventgpt", "videollava", "acceptance"), _five_stage),
    "sd_eval": (_first_has("sd_output_tokens", "adapted_draft_tokens"), _sd_eval),
    "token_adapter_benchmark": (_first_has("adapter_tokens", "vl_tokens"), _token_adapter_benchmark),
    "token_adapter_training": (_has("baseline", "final", "training_history"), _token_adapter_training),
    "parallel_metrics": (_first_has("tokens_to_verify", "ideal_speedup"), _parallel_metrics),
    "parallel_prefill": (_first_has("eventgpt", "videollava", "parallel"), _parallel_prefill),
    "semantic_acceptance": (_first_has("acceptance_estimate", "word_overlap"), _semantic_acceptance),
    "test_tokens": (_first_has("egpt_tokens", "vl_tokens"), _test_tokens),
    "llava15_timing": (
        lambda obj: _has("eventgpt", "videollava")(obj) and "samples" in obj["eventgpt"],
        _llava15_timing,
    ),
    "adapter_metrics": (_has("cos_sim_mean", "total_valid_positions"), _adapter_metrics),
    "adapter_positions": (_is_positions, _adapter_positions),
    "adapter_config": (_has("adapter", "task"), _adapter_config),
    "two_phase": (_has("e2e_speedup", "label"), _two_phase),
}
