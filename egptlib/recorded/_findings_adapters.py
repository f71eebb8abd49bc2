"""Findings about the earlier adapters: their times, what their cosine means, what they were shown (C14, C17 to C20)."""

from collections import Counter
from statistics import fmean

from egptlib.metrics import token_acceptance
from egptlib.recorded._findings_files import FIVE_STAGE, LVL, TOKENS, Files, Finding, ms
from egptlib.recorded._findings_tokens import blocks, position_majority


def c14(files: Files) -> Finding:
    rows = {i: files(LVL).method(f"L{i}+VL") for i in range(1, 5)}
    times = [ms(r["drafter_stages"]["adapter"] for r in method) for method in rows.values()]
    plain = files(LVL).method("baseline")
    step = sum(r["target_stages"]["decode"] for r in plain) / sum(r["num_tokens"] - 1 for r in plain)
    l3 = files("adapters/L3_config.json").rows[0]
    return Finding(
        "C14",
        '"Adapters cost 1.5, 4, 10 and 56 ms"; "L3 has 16.8 M parameters"',
        "L1 to L4 measured: " + ", ".join(f"{t:.2f}" for t in times) + " ms a sample, against "
        f"{1e3 * step:.1f} ms for one step of the target. The L3 that was trained has {l3['params'] / 1e6:.2f} M "
        f"parameters in {l3['num_blocks']} blocks.",
        "The notes' times were guesses, and the notes' L3 is another one (two blocks) than the one that was trained.",
        "None: an adapter's own time does not matter next to that step.",
    )


def c17(files: Files) -> Finding:
    rows = {level: files.adapter(level) for level in ("L1", "L4", "L5F", "B1")}
    listed = "; ".join(
        f"{level} cosine {r['cos_sim_mean']:.3f}, top-1 {r['token_top1_match']:.3f}, r {r['cosim_token_pearson_r']:.2f}"
        for level, r in rows.items()
    )
    return Finding(
        "C17",
        '"A higher cosine is a better drafter"',
        listed + ".",
        "Cosine does not order the levels by token match; within B1 and L5F the positions with the higher cosine even "
        "match less often.",
        "Train and choose adapters by accepted tokens on the target's path.",
    )


def c18(files: Files) -> Finding:
    parts = []
    for level in ("B1", "L5F"):
        row, config = files.adapter(level), files(f"adapters/{level}_config.json").config
        ahead = files(f"adapters/two_phase_results_{level}_only.json").rows[0]["next_token_top1"]
        parts.append(
            f"{level} ({config['data']['alignment'].split(' (')[0]}): cosine {row['cos_sim_mean']:.3f} and "
            f"{row['accept_90']:.0%} above 0.9, but the same position's token in {row['token_top1_match']:.0%}, the "
            f"next one's in {ahead:.0%}, {row['token_consecutive_mean']:.2f} in a row"
        )
    best = max(("L1", "L2", "L3", "L4"), key=lambda level: files.adapter(level)["token_consecutive_mean"])
    return Finding(
        "C18",
        '"B1 and L5F are the upper bound: cosine 0.91 and 0.90, 61 and 66 % above 0.9"',
        "; ".join(parts)
        + f". {best}, which sees the drafter alone, has {files.adapter(best)['token_consecutive_mean']:.2f} in a row.",
        "By their own settings both read the target's states, and they are judged by the cosine with the very state "
        "they were given: they return h_t + s (o - h_t), and returning h_t untouched would score 1.0. That their "
        "tokens are right in a fifth to a quarter of the places, where h_t itself would be right everywhere, says that "
        "training drew them away from it.",
        "What does a head accept at depth 1, 2, ... when it predicts h_{t+1} from states up to t? Judge it only on "
        "positions it has not seen.",
    )


def c19(files: Files) -> Finding | None:
    """Only where a checkpoint of the earlier L4 is at hand."""
    if files.l4 is None:
        return None
    import torch

    width = files.l4.settings.hidden_size  # type: ignore[attr-defined]
    states = torch.randn(2, 9, width, generator=torch.Generator().manual_seed(0))
    states, other = states[:1], torch.cat([states[:1, :-1], states[1:, -1:]], dim=1)
    with torch.no_grad():
        moved = (files.l4(states) - files.l4(other)).norm(dim=-1)[0]
    return Finding(
        "C19",
        '"L4, with attention, is the best aligner"',
        f"Only the last of {len(moved)} states was changed, and of an L4 checkpoint of the earlier trainer "
        f"{int((moved[:-1] > 0).sum())} of the {len(moved) - 1} outputs before it changed as well.",
        "Its attention has no mask, so each row was translated with the whole answer in view, later words included. A "
        "drafter that has not written these words yet cannot do that.",
        "How much of L4's lead is left behind a causal mask? `egptlib train` has one.",
    )


def c20(files: Files) -> Finding:
    free = token_acceptance(files(TOKENS).column("drafter_ids"), files(TOKENS).column("target_ids"))
    longer = token_acceptance(files(FIVE_STAGE).column("drafter_ids"), files(FIVE_STAGE).column("target_ids"))
    answers = files(TOKENS).column("target_ids")
    first = Counter(ids[0] for ids in answers).most_common(1)[0]
    own = fmean(a[0] == b[0] for a, b in zip(files(TOKENS).column("drafter_ids"), answers))
    l4 = files.adapter("L4")
    return Finding(
        "C20",
        '"A cosine of 0.78 means that the adapter translates"',
        f"Beside a token of the target stands another word of the drafter in {1 - free['positional_match_rate']:.1%} "
        f"of the places (one second; {1 - longer['positional_match_rate']:.1%} at two). Token 0: the drafter's own is "
        f"the target's in {own:.0%}, L4 has it right in {l4['position_token_accept'][0]:.0%}, and "
        f"{first[1] / len(answers):.0%} of the target's answers to one question begin with the same token. Over all "
        f"positions L4 has {l4['token_top1_match']:.1%}; the most frequent token of the position, on the one question "
        f"at hand, {position_majority(answers, blocks([0, len(answers) // 2, len(answers)])):.1%}.",
        "The hidden states came from two free answers cut to the shorter length, so row t stands after other words in "
        "each. An adapter can then win by learning what the target usually says at position t, with the drafter's "
        "state telling it little more than t.",
        "How far is an adapter above the mean target state of its position, along the target's path? "
        "`adapters.judge_baselines` sets both side by side.",
    )
