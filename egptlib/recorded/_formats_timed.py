"""Recorded formats with times: five-stage, end-to-end wall clock, prefills side by side, LLaVA-1.5.

`five_stage_*`, `parallel_*` and `llava15_*` are in seconds, `e2e_wallclock_*` in milliseconds.
"""

from egptlib.recorded._recorded import COMPUTED_OVERLAP, FREE_PATH, TEXT_ONLY, Record, Recorded, Row

_FIVE_STAGES = ("stage1_time", "stage2_time", "stage3_time", "stage4_time", "stage5_time")
_STAGE_NAMES = ("load", "preprocess", "vision", "prefill", "decode")
_VISUAL_TOKENS = 2_048  # 8 frames of 256 tokens, which the five-stage script added a second time

_BOS_COUNTED = (
    "both texts were tokenized again with BOS, which always matches: acceptance_rate is too high by about 1/50"
)
_SEMANTIC = "acceptance_rate is the retired semantic score: words in common, no acceptance"
_COUNTED_TWICE = "prefill_length of the target counted its 2,048 visual tokens twice: taken off here"
_LOAD_IN_WINDOW = "overlap_window includes reading files: it grows with the clip, the models' share of it does not"
_BOTH_AS_BASELINE = "parallel_speedup compares with running both models in sequence, not with the target alone"
_SHARED_GPU = (
    "both models shared one GPU: parallel_prefill_ms is the target's prefill beside the drafter's",
    "drafts of 5 were compared one position off: accept_rate says nothing about the drafter",
    "total_seconds charge the drafter's whole own answer before the target decodes (B1-only: no drafter at all)",
)


def read_five_stage(kind: str, file: Record) -> Recorded:
    """One row a clip: ids, texts and five stages of both models."""
    rows: list[Row] = []
    semantic = False
    for r in file.records("results"):
        row: Row = {"sample": r.count("sample_idx")}
        for lane, name in (("drafter", "eventgpt"), ("target", "videollava")):
            model = r.part(name)
            row[f"{lane}_ids"] = model.ids("output_tokens")
            row[f"{lane}_text"] = model.text("output_text")
            row[f"{lane}_stages"] = {s: model.seconds(f) for s, f in zip(_STAGE_NAMES, _FIVE_STAGES)}
            row[f"{lane}_step_seconds"] = model.seconds("avg_token_time")
            row[f"{lane}_prompt_length"] = model.count("prefill_length")
        row["recorded_target_prompt_length"] = row["target_prompt_length"]
        # input_ids come expanded to their 2,048 visual tokens, and the script added these again.
        row["target_prompt_length"] -= _VISUAL_TOKENS
        if row["target_prompt_length"] < 0:
            raise model.error("prefill_length", f"at least the {_VISUAL_TOKENS} visual tokens it counts twice")
        acceptance, parallel = r.part("acceptance"), r.part("parallel")
        row["recorded_acceptance"] = acceptance.number("acceptance_rate")
        semantic = "method" not in acceptance
        if not semantic:
            row["recorded_matches"] = acceptance.count("matched_tokens")
            row["recorded_compared"] = acceptance.count("total_tokens")
        row["recorded_window_seconds"] = parallel.seconds("overlap_window")
        row["recorded_hidden_tokens"] = parallel.count("hidden_tokens")
        row["recorded_wall_seconds"] = parallel.seconds("wall_clock_total")
        row["recorded_speedup"] = parallel.number("parallel_speedup")
        row["inference_mb"] = model.part("gpu_memory_mb").number("inference_delta")
        rows.append(row)
    scored = _SEMANTIC if semantic else _BOS_COUNTED
    traps = (FREE_PATH, scored, _COUNTED_TWICE, _LOAD_IN_WINDOW, _BOTH_AS_BASELINE, COMPUTED_OVERLAP)
    extra = {"dataset": file.text("dataset_name") if "dataset_name" in file else ""}
    return Recorded(kind, file.path, rows, traps, file.optional("config").fields, extra)


def read_e2e_wallclock(kind: str, file: Record) -> Recorded:
    """Rows of method "baseline" first, then each method's, with the baseline of its sample joined on."""
    rows: list[Row] = []
    baseline: dict[tuple[int, str], Row] = {}
    for r in file.records("baseline_per_sample"):
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
    shared = False
    methods = file.part("sd_per_sample")
    for method in methods.fields:
        for r in methods.records(method):
            key = (r.count("sample"), r.text("question"))
            if key not in baseline:
                raise r.error("sample", f"one that baseline_per_sample has with the question {key[1]!r}")
            row = _speculative_row(r, method, baseline[key])
            shared = shared or "gap_seconds" not in row
            rows.append(row)
    traps = (TEXT_ONLY, *(_SHARED_GPU if shared else (COMPUTED_OVERLAP,)))
    traps += ("overlap_ms is the drafter's prefill, not the window: left out here",)
    extra = {"stage_timing": _stage_timing(file.part("stage_timing"))} if "stage_timing" in file else {}
    return Recorded(kind, file.path, rows, traps, file.optional("config").fields, extra)


def _speculative_row(r: Record, method: str, baseline: Row) -> Row:
    row: Row = {
        "method": method,
        "sample": baseline["sample"],
        "question": baseline["question"],
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
        "baseline_num_tokens": baseline["num_tokens"],
        "baseline_decode_seconds": baseline["target_stages"]["decode"],
        "identical": baseline["text"] == r.text("text"),
    }
    if "gap_ms" in r:
        row["gap_seconds"] = r.ms("gap_ms")
        row["free_tokens"] = r.count("num_free_tok")
        row["drafter_step_seconds"] = r.ms("egpt_per_token_ms")
        row["drafter_stages"]["adapter"] = r.ms("adapter_ms")
        row["target_stages"]["decode"] = r.ms("vl_decode_ms")
    return row


def _stage_timing(timing: Record) -> dict[str, dict[str, float]]:
    """By lane: the earlier script's own mean stages and step, in seconds."""
    return {
        lane: {
            stage: timing.part(name).ms(f"{field}_ms")
            for stage, field in (("vision", "vision"), ("prefill", "prefill"), ("step", "per_token"))
        }
        for lane, name in (("drafter", "eventgpt"), ("target", "videollava"))
    }


def read_parallel_metrics(kind: str, file: Record) -> Recorded:
    """Ten clips: the source of "9.34x"."""
    rows: list[Row] = [
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
        for r in file.records("results")
    ]
    traps = (
        "estimated_acceptance_rate is a constant, 0.4: nothing was accepted by any model",
        "speedup leaves out the target's prefill and the rest of its decoding",
        COMPUTED_OVERLAP,
    )
    return Recorded(kind, file.path, rows, traps, file.optional("config").fields)


def read_parallel_prefill(kind: str, file: Record) -> Recorded:
    """Ten clips: both models' stages in 4 bit."""
    rows: list[Row] = []
    for r in file.records("results"):
        drafter, target, parallel = r.part("eventgpt"), r.part("videollava"), r.part("parallel")
        rows.append(
            {
                "sample": r.count("sample_idx"),
                "drafter_ids": drafter.ids("output_tokens"),
                "target_ids": target.ids("output_tokens"),
                "drafter_num_tokens": drafter.count("draft_tokens"),
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
                "recorded_window_seconds": parallel.seconds("overlap_window"),
                "recorded_free_tokens": parallel.number("theoretical_draft_tokens"),
            }
        )
    traps = (FREE_PATH, "the first sample warmed the device up")
    return Recorded(kind, file.path, rows, traps, file.optional("config").fields)


def read_llava15_timing(kind: str, file: Record) -> Recorded:
    """Rows of lane "drafter", then of lane "target": prefills, and five decoded tokens."""
    rows: list[Row] = []
    for lane, name in (("drafter", "eventgpt"), ("target", "videollava")):
        for i, r in enumerate(file.part(name).records("samples")):
            stages = {"vision": r.seconds("s3_time"), "prefill": r.seconds("s4_time"), "decode": r.seconds("s5_time")}
            rows.append({"lane": lane, "sample": i, "prompt_length": r.count("prefill_len"), "stages": stages})
    traps = (
        "the target is llava-1.5-7b on eight images (4,643 tokens, bfloat16), not Video-LLaVA",
        "decode is five tokens long, so the share of the prefill is far too large",
    )
    return Recorded(kind, file.path, rows, traps, file.optional("config").fields, {"decoded_tokens": 5})
