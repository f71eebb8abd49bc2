"""Recorded formats with token ids or texts and what was said to be accepted of them; those of the earlier adapters."""

from egptlib.recorded._recorded import ASSUMED_TIMES, FREE_PATH, SHIFTED, TEXT_ONLY, Record, Recorded, Row


def read_test_tokens(kind: str, file: Record) -> Recorded:
    """One row a clip: the ids of both models' own answers."""
    rows: list[Row] = [
        {
            "sample": r.count("sample_idx"),
            "question": r.text("query"),
            "drafter_ids": r.ids("egpt_tokens"),
            "target_ids": r.ids("vl_tokens"),
            "drafter_text": r.text("egpt_text"),
            "target_text": r.text("vl_text"),
        }
        for r in file.records("results")
    ]
    traps = (FREE_PATH, "the target's answers are cut at 50 tokens")
    return Recorded(kind, file.path, rows, traps, {"questions": file.fields.get("questions", [])})


def read_sd_eval(kind: str, file: Record) -> Recorded:
    """Drafts that were really verified, in milliseconds."""
    rows: list[Row] = [
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
            "identical": r.flag("output_matches"),
            "recorded_speedup": r.number("speedup"),
        }
        for r in file.records("results")
    ]
    traps = (
        SHIFTED,
        "the outputs differ from the target's own and may stop early: speedup compares answers of unequal length",
        "total_seconds leaves out the drafter's prefill and drafting",
    )
    return Recorded(kind, file.path, rows, traps, file.optional("config").fields)


def read_token_adapter_benchmark(kind: str, file: Record) -> Recorded:
    """One row an answer: the drafter's, the adapter's and the target's ids."""
    rows: list[Row] = [
        {
            "sample": r.count("sample_idx"),
            "question": r.text("question"),
            "drafter_ids": r.ids("egpt_tokens"),
            "adapted_ids": r.ids("adapter_tokens"),
            "target_ids": r.ids("vl_tokens"),
            "recorded_consecutive": r.count("consecutive_matches"),
            "recorded_matches": r.count("total_matches"),
        }
        for r in file.records("results")
    ]
    return Recorded(kind, file.path, rows, (SHIFTED, FREE_PATH), file.optional("config").fields)


def read_token_adapter_training(kind: str, file: Record) -> Recorded:
    """Counts before and after training, on both splits."""
    rows: list[Row] = []
    for stage in ("baseline", "final"):
        for split in ("train", "test"):
            r = file.part(stage).part(split)
            correct, total = r.count("total_correct"), r.count("total_tokens")
            rows.append({"stage": stage, "split": split, "correct": correct, "compared": total})
    traps = (
        "baseline compares with vl_tokens, final with vl_tokens[1:]: not the same positions",
        "the stage times are zeros: nothing was timed",
        "a predictor that knows only the position scores about as much: see `position_majority`",
    )
    history = file.fields.get("training_history", [])
    return Recorded(kind, file.path, rows, traps, file.optional("config").fields, {"history": history})


def read_semantic_acceptance(kind: str, file: Record) -> Recorded:
    """Texts, token counts and times of both models, and the retired similarity score."""
    rows: list[Row] = [
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
        for r in file.records("results")
    ]
    traps = (TEXT_ONLY, "acceptance_estimate is the mean of two text similarities: no token was ever accepted")
    return Recorded(kind, file.path, rows, traps, file.optional("config").fields)


_METRICS = (
    "total_valid_positions", "cos_sim_mean", "accept_90", "consecutive_mean_90", "token_top1_match",
    "token_consecutive_mean", "cosim_token_pearson_r", "speedup_prefill", "speedup_decode_gamma5", "speedup_e2e",
    "token_sd_e2e_speedup",
)  # fmt: skip


def read_adapter_metrics(kind: str, file: Record) -> Recorded:
    """One row, the fields as they are in the file."""
    for name in _METRICS:
        file.number(name)
    traps = (
        ASSUMED_TIMES,
        "two free answers set side by side, cut to the shorter: position t of one text beside t of another",
        "B1 and L5F were given the state they are compared with: their cosine is no upper bound",
    )
    adapter = file.path.name.removesuffix("_acceptance_metrics.json")
    return Recorded(kind, file.path, [dict(file.fields)], traps, {"adapter": adapter})


def read_adapter_positions(kind: str, file: Record) -> Recorded:
    """One row a position, the fields as they are in the file."""
    rows: list[Row] = []
    for r in file.records("positions"):
        r.number("mean"), r.number("accept_90")
        rows.append(dict(r.fields) | {"position": r.count("position"), "num_samples": r.count("num_samples")})
    return Recorded(kind, file.path, rows, (), {"adapter": file.path.name.removesuffix("_position_stats.json")})


def read_adapter_config(kind: str, file: Record) -> Recorded:
    """One row, the adapter's own settings; `config` is the whole file."""
    return Recorded(kind, file.path, [dict(file.part("adapter").fields)], (), file.fields)


def read_two_phase(kind: str, file: Record) -> Recorded:
    """One row: an estimate of two adapters one after the other."""
    row: Row = {
        "baseline_seconds": file.ms("baseline_time_ms"),
        "total_seconds": file.ms("sd_time_ms"),
        "recorded_speedup": file.number("e2e_speedup"),
        "recorded_consecutive": file.number("phase2_decode_consecutive"),
        "next_token_top1": file.number("phase2_shifted_top1"),
        "method": file.text("label"),
    }
    traps = ("every figure is estimated; measured were 0.31 to 0.37x", ASSUMED_TIMES)
    return Recorded(kind, file.path, [row], traps, file.fields)
