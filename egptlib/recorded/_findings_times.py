"""Findings about times: prefills, windows, estimates against the clock (C6 to C13, C15, C16)."""

from statistics import fmean

from egptlib.metrics import least_alpha, leviathan_speedup, prefill_hiding_seconds
from egptlib.recorded._findings_files import (
    ALL_CONFIGS,
    FIVE_STAGE,
    FIVE_STAGE_LONG,
    LLAVA15,
    LVL,
    PARALLEL,
    PREFILLS,
    SEMANTIC,
    SHARED_GPU,
    Files,
    Finding,
    ms,
    ratio_of_sums,
)
from egptlib.recorded._recorded import Row


def c6(files: Files) -> Finding:
    rows = files(PARALLEL).rows
    honest = [r["baseline_seconds"] / _charged(r, len(r["target_ids"])) for r in rows]
    shortest = min(len(r["target_ids"]) for r in rows)
    one_length = fmean(r["baseline_seconds"] / _charged(r, shortest) for r in rows)
    above = sum(r["recorded_speedup"] > r["recorded_ideal"] + 1e-9 for r in rows)
    return Finding(
        "C6",
        '"9.34x at 40 % acceptance"',
        f"Mean {fmean(r['recorded_speedup'] for r in rows):.2f}, above its own ideal of "
        f"{fmean(r['recorded_ideal'] for r in rows):.2f} in {above} of {len(rows)} samples. With the target's prefill "
        f"and the rest of its decoding charged, each answer by its own length: {fmean(honest):.3f}x on average, "
        f"{min(honest):.2f} to {max(honest):.2f} [estimated], verification still free. (Taking all answers to be "
        f"{shortest} tokens long, as the shortest are, gives {one_length:.3f}x; they have up to "
        f"{max(len(r['target_ids']) for r in rows)}.)",
        "The formula left out the target's prefill and decoding; 40 % was a constant.",
        "What bound does a method have? `metrics.Prediction` refuses figures above it.",
    )


def _charged(row: Row, num_tokens: int) -> float:
    """Seconds with the accepted drafts for nothing, and everything else paid for."""
    rest = row["target_stages"]["decode"] * (1 - row["accepted"] / num_tokens)
    return prefill_hiding_seconds(row["target_stages"]["prefill"], row["drafter_prefill_seconds"], 0.0, 0.0, rest)


def c7(files: Files) -> Finding:
    rows = files(LLAVA15).rows
    drafter = [r["stages"] for r in rows if r["lane"] == "drafter"]
    target = [r["stages"] for r in rows if r["lane"] == "target"]
    read, write = ms(s["vision"] + s["prefill"] for s in target), ms(s["decode"] for s in target)
    window = ms(s["prefill"] for s in target) - ms(s["prefill"] for s in drafter)
    step = ms(s["decode"] for s in drafter) / files(LLAVA15).extra["decoded_tokens"]
    plain = files(LVL).method("baseline")
    prefill, total = ms(r["target_stages"]["prefill"] for r in plain), ms(r["total_seconds"] for r in plain)
    return Finding(
        "C7",
        '"The drafter prefills 8.59 times as fast; 502 ms, 27 free tokens; prefill is 80 % of the time"',
        f"That file: {ms(s['prefill'] for s in drafter):.0f} against {ms(s['prefill'] for s in target):.0f} ms "
        f"({ms(s['prefill'] for s in target) / ms(s['prefill'] for s in drafter):.2f}x), {window:.0f} ms or "
        f"{window / step:.1f} tokens of {step:.1f} ms, {read / (read + write):.1%} of a call. Video-LLaVA in NF4 "
        f"prefills in {prefill:.0f} ms, {prefill / total:.0%} of a call with "
        f"{fmean(r['num_tokens'] for r in plain):.0f} tokens.",
        f"The script loaded llava-1.5-7b with eight images ({max(r['prompt_length'] for r in rows):,} tokens) in "
        "bfloat16, and decoded five tokens.",
        "How does the share fall with the length of the answer? Prefill hiding saves at most that share.",
    )


def c8(files: Files) -> Finding:
    row = files(FIVE_STAGE).rows[0]
    positions = fmean(files(FIVE_STAGE).column("inference_mb")) / 0.5
    return Finding(
        "C8",
        '"Video-LLaVA reads 4,124 tokens"',
        f"{row['recorded_target_prompt_length']:,} recorded, {row['target_prompt_length']:,} in truth: its memory grew "
        f"by {positions:,.0f} positions (0.5 MB each), which are the prompt and the "
        f"{positions - row['target_prompt_length']:.0f} tokens of the answer that were read.",
        "input_ids come expanded; 8 x 256 visual tokens were added a second time.",
        "None.",
    )


def c9(files: Files) -> Finding:
    rows = files(FIVE_STAGE).rows
    alone = fmean(sum(r["target_stages"].values()) / r["recorded_wall_seconds"] for r in rows)
    effective = 1 + fmean(r["recorded_hidden_tokens"] * r["recorded_acceptance"] for r in rows)
    shared = files(SHARED_GPU).method("L4+VL")
    return Finding(
        "C9",
        '"Parallel speedup 1.46 to 1.50x"; "effective 2.36x at 3.4 %"',
        f"{fmean(r['recorded_speedup'] for r in rows):.2f}x over running both models one after the other; against "
        f"the target alone {alone:.3f}x [computed overlap]. One and the hidden tokens times the recorded acceptance is "
        f"{effective:.2f}. With both really at once on one GPU "
        f"{ratio_of_sums(shared):.3f}x [measured (overlapped)].",
        "The baseline was work that nobody would do. No draft is verified in these files, so the target's own time is "
        'all there is to save, and none of it was. The "effective" figure counts tokens, of which one, BOS, was '
        "accepted for nothing (C2), and calls them a speedup.",
        "None: the baseline is plain decoding by the target, always.",
    )


def c10(files: Files) -> Finding:
    texts = []
    for name in (FIVE_STAGE, FIVE_STAGE_LONG):
        rows = files(name).rows
        own = [_reading(r["target_stages"]) - _reading(r["drafter_stages"]) for r in rows]
        free = fmean(window / r["drafter_step_seconds"] for window, r in zip(own, rows))
        texts.append(
            f"{files(name).extra['dataset'].split('_')[-1]}: {ms(r['recorded_window_seconds'] for r in rows):.0f} ms "
            f"recorded, of which the models' own (vision and prefill) are {ms(own):.0f} ms or {free:.1f} tokens"
        )
    return Finding(
        "C10",
        '"The window grows with the clip, to 3.99x at 20 s"',
        "; ".join(texts) + " [computed overlap].",
        "Reading and decoding the video counted as the target's prefill.",
        "Is loading really serial in a deployed system? If so, it is hidden without any drafter.",
    )


def _reading(stages: dict[str, float]) -> float:
    return stages["vision"] + stages["prefill"]


def c11(files: Files) -> Finding:
    row, none, few = files.adapter("L1"), files.adapter("L5F"), files.adapter("B1")
    plain = files(LVL).method("baseline")
    return Finding(
        "C11",
        '"Predicted 5.77x"',
        f"L1's own file holds three estimates, {row['speedup_prefill']:.2f}x by prefill, "
        f"{row['speedup_decode_gamma5']:.2f}x by decoding and {row['speedup_e2e']:.2f}x end to end, where the clock "
        f"has {ratio_of_sums(files(LVL).method('L1+VL')):.3f}x [computed overlap]. They assume 25 ms a token and 130 "
        f"and 310 ms of prefill; measured were {1e3 * files.step_seconds('drafter'):.1f} and "
        f"{1e3 * files.step_seconds('target'):.1f} ms, "
        f"{1e3 * files(LVL).extra['stage_timing']['drafter']['prefill']:.0f} and "
        f"{ms(r['target_stages']['prefill'] for r in plain):.0f} ms. The last one jumps: it gives L5F, with "
        f"{none['consecutive_mean_90']:.2f} tokens in a row, {none['speedup_e2e']:.2f}x, and B1, with "
        f"{few['consecutive_mean_90']:.2f}, {few['speedup_e2e']:.2f}x.",
        "Three formulas that contradict one another, on assumed times, with acceptance of the first positions taken "
        "for all and verification for free.",
        "Does a model of measured costs predict the clock? See below.",
    )


def c12(files: Files) -> Finding:
    names = ["B1_only", "L1_L5F", "L2_L5F", "L3_L5F", "L4_L5F", "L5F_only"]
    estimates = [files(f"adapters/two_phase_results_{name}.json").rows[0] for name in names]
    ratios = [row["recorded_speedup"] for row in estimates]
    alone = files("adapters/two_phase_results_L5F_only.json").rows[0]
    step = (alone["total_seconds"] - 0.31) / 50 / 0.025  # of its assumed 310 ms, 50 tokens and 25 ms
    methods = ["B1-only", "L5F-only", "L1+L5F", "L2+L5F", "L3+L5F", "L4+L5F"]
    measured = [ratio_of_sums(files(ALL_CONFIGS).method(method)) for method in methods]
    prompts = len(files(ALL_CONFIGS).method("baseline"))
    return Finding(
        "C12",
        '"Two phases give 1.31 to 1.56x"',
        f"Estimated {min(ratios):.2f} to {max(ratios):.2f}x; timed {min(measured):.2f} to {max(measured):.2f}x "
        f"[measured (overlapped)] on {prompts} prompts of one clip, both models on one GPU.",
        f"The estimate is 1 + tokens in a row over the passes: L5F's {alone['recorded_consecutive']:.2f} make "
        f"{step:.3f} assumed steps a token, that is {step * (1 + alone['recorded_consecutive']):.2f} steps for a whole "
        "round of five drafts and their verification. And the tokens in a row were counted where the head is shown the "
        "target's own states (C18).",
        "What does a head that runs ahead accept per depth on its own features?",
    )


def c13(files: Files) -> Finding:
    rows, shared = files(LVL).method("L4+VL"), files(SHARED_GPU).method("L4+VL")
    ones = [r["recorded_speedup"] for r in rows]
    beside = ms(r["prefill_seconds"] for r in shared)
    alone = ms(r["target_stages"]["prefill"] for r in files(SHARED_GPU).method("baseline"))
    before = ms(r["drafter_stages"]["decode"] for r in shared)
    sums = ", ".join(f"L{i} {ratio_of_sums(files(LVL).method(f'L{i}+VL')):.4f}" for i in range(1, 5))
    return Finding(
        "C13",
        '"Measured 1.02 to 1.03x"',
        f"Ratio of sums {sums} [computed overlap]. L4's mean of ratios is {fmean(ones):.4f}, with "
        f"{sum(r < 1 for r in ones) / len(ones):.0%} of samples slower and {sum(r['identical'] for r in rows)} of "
        f"{len(rows)} texts identical. Both models on one GPU: {ratio_of_sums(shared):.3f}x [measured (overlapped)]; "
        f"the target's prefill takes {beside:.0f} instead of {alone:.0f} ms there, {before:.0f} ms go by while the "
        f"drafter ends an answer of its own, and then {fmean(r['drafted'] for r in shared):.0f} drafts, one position "
        "off, are judged for each answer.",
        "The models ran in sequence and the overlap was computed, as if each had a device of its own; the mean of "
        "ratios favours short answers; and a method that changes one text in six is not lossless.",
        "What is the contention on one GPU with streams, and on two? `egptlib.decoding` stamps both lanes.",
    )


def c15(files: Files) -> Finding:
    drafter = [r["stages"]["decode"] for r in files(LLAVA15).rows if r["lane"] == "drafter"]
    prefills, semantic, five = files(PREFILLS).rows, files(SEMANTIC).rows, files(FIVE_STAGE).rows
    sources = {
        "two-second five-stage runs": fmean(r["drafter_step_seconds"] for r in five),
        "wall-clock runs": files.step_seconds("drafter"),
        "100 runs of the semantic score": sum(r["drafter_total_seconds"] for r in semantic)
        / sum(r["drafter_num_tokens"] for r in semantic),
        "1,100 runs that stopped after five tokens": fmean(drafter) / files(LLAVA15).extra["decoded_tokens"],
        "ten runs in 4 bit": sum(r["drafter_stages"]["decode"] for r in prefills)
        / sum(r["drafter_num_tokens"] for r in prefills),
    }
    target = sum(r["target_stages"]["decode"] for r in prefills) / sum(len(r["target_ids"]) for r in prefills)
    rows = {i: files(LVL).method(f"L{i}+VL") for i in range(1, 5)}
    peaks = ", ".join(f"L{i} {max(r['recorded_speedup'] for r in method):.2f}" for i, method in rows.items())
    slower = ", ".join(
        f"{sum(r['recorded_speedup'] < 1 for r in method) / len(method):.0%}" for method in rows.values()
    )
    return Finding(
        "C15",
        '"EventGPT needs 10.4, 14, 18.5, 25 or 28.8 ms a token"; "at best 1.24x, and 31.5 % of samples slower"',
        "; ".join(f"{1e3 * step:.1f} ms ({name})" for name, step in sources.items())
        + f". The largest ratios of single samples are {peaks}; slower are {slower} [computed overlap].",
        "Each document took the figure of its own script: five tokens charge a first step's setup to each; the ten "
        f"runs in 4 bit have the target at {1e3 * target:.1f} ms as well, where the wall-clock runs have "
        f"{1e3 * files.step_seconds('target'):.1f}; and 25 was assumed. For 14 no file is at hand, nor for the 10,970 "
        "runs whose table and text disagree. A peak over samples says how short an answer was.",
        "None: a cost is measured in the process that uses it (`egptlib benchmark costs`), or fitted from its trace.",
    )


def c16(files: Files) -> Finding:
    target, drafter = files.step_seconds("target"), files.step_seconds("drafter")
    c = drafter / target
    even = least_alpha(lambda alpha: leviathan_speedup(alpha, 5, c), 1.0)
    samples = files("adapters/L4_config.json").config["data"]
    return Finding(
        "C16",
        '"c = 0.93, so more than 95 % must be accepted"',
        f"{1e3 * drafter:.1f} / {1e3 * target:.1f} ms: c = {c:.2f}. With verification for free, gamma 5 breaks even at "
        f"alpha = {even:.2f}. (The adapters were trained on {samples['train_samples']:,} answers; the notes also give "
        "52,080 for the same folder.)",
        "Times of different documents were divided.",
        "A drafter as large as the target cannot pay in steady decoding; a head of a fraction of its cost can.",
    )
