"""Findings about tokens: vocabularies, what is accepted, the token adapter (C1 to C5)."""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from statistics import fmean, median

from egptlib.metrics import token_acceptance
from egptlib.recorded._findings_files import (
    ADAPTER,
    ADAPTER_TRAINING,
    FIVE_STAGE,
    FIVE_STAGE_LONG,
    SD_EVAL,
    SD_EVAL_AGAIN,
    TOKENS,
    Files,
    Finding,
)

_BOS, _EOS = 1, 2
_CUT = 550  # where the earlier script cut the clips of one second in two


def position_majority(answers: Sequence[Sequence[int]], folds: Iterable[tuple[Sequence[int], Sequence[int]]]) -> float:
    """Share of tokens 1, 2, ... that the most frequent token at that position predicts, fitted on other answers.

    Args:
        answers: equally long lists of ids.
        folds: (indices to fit on, indices to judge).
    """
    right = total = 0
    for fit, judged in folds:
        for position in range(1, len(answers[0])):
            guess = Counter(answers[i][position] for i in fit).most_common(1)[0][0]
            right += sum(answers[i][position] == guess for i in judged)
            total += len(judged)
    return right / total


def blocks(bounds: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Folds for `position_majority`: runs of neighbours that begin at `bounds`; each is judged by all the others."""
    everyone = range(bounds[0], bounds[-1])
    return [
        ([i for i in everyone if not first <= i < last], list(range(first, last))) for first, last in pairwise(bounds)
    ]


def c1(files: Files) -> Finding | None:
    """Only where a tokenizer is at hand."""
    if files.encode is None:
        return None
    same = total = highest = 0
    for name in (TOKENS, FIVE_STAGE, FIVE_STAGE_LONG):
        for row in files(name).rows:
            for lane in ("drafter", "target"):
                ids = [token for token in row[f"{lane}_ids"] if token not in (_BOS, _EOS)]
                same += files.encode(row[f"{lane}_text"]) == ids
                total += 1
                highest = max(highest, *ids)
    return Finding(
        "C1",
        '"The tokenizers do not match: 2 % acceptance"',
        f"The stock LLaMA-2 tokenizer gives {same:,} of {total:,} recorded texts of both models back as exactly the "
        f"recorded ids; the highest id is {highest:,} of 32,000.",
        "Nothing is mapped wrongly: both models share one vocabulary, and what differs is their wording. (Only the "
        "width of the target's lm head is larger, and the ids beyond 32,000 are never written.)",
        "How does the drafter's distribution differ from the target's after the same words? That is `overlap` in a "
        "trace along the target's path.",
    )


def c2(files: Files) -> Finding:
    rows = files(FIVE_STAGE).rows
    free = token_acceptance([r["drafter_ids"] for r in rows], [r["target_ids"] for r in rows])
    recorded = fmean(r["recorded_acceptance"] for r in rows)
    honest = fmean((r["recorded_matches"] - 1) / (r["recorded_compared"] - 1) for r in rows)
    only = fmean(r["recorded_matches"] == 1 for r in rows)
    tokens = token_acceptance(files(TOKENS).column("drafter_ids"), files(TOKENS).column("target_ids"))
    return Finding(
        "C2",
        '"2 to 3 % of tokens are accepted"',
        f"Two seconds: {recorded:.2%} recorded, {honest:.2%} of the target's tokens without BOS, which was the only "
        f"match in {only:.0%} of the clips ({free['positional_matches']} of {free['positions_compared']:,} positions "
        f"that both answers have). One second: {tokens['positional_matches']} of {tokens['positions_compared']:,} = "
        f"{tokens['positional_match_rate']:.2%}; the accepted prefix of its {tokens['num_samples']} answers is "
        f"{tokens['accepted_prefix_histogram']}.",
        "Texts were tokenized again with BOS, so one token always matched. And equal tokens at equal positions of two "
        "free answers are not what a verifier accepts: that is the prefix, which is almost always 0.",
        "How often does EventGPT's next token match along the target's own answer? No recorded file says; "
        "`egptlib extract --path target` records it.",
    )


def c3(files: Files) -> Finding:
    answers = files(TOKENS).column("target_ids")
    count, every = len(answers), range(len(answers))
    tenths = blocks([count * i // 10 for i in range(11)])
    mixed = [(every[0::2], every[1::2]), (every[1::2], every[0::2])]
    by_question = next(r for r in files(ADAPTER_TRAINING).rows if (r["stage"], r["split"]) == ("final", "test"))
    first = max(Counter(ids[0] for ids in answers).values()) / count
    return Finding(
        "C3",
        '"The token adapter reaches 27.9 %"',
        f"{by_question['correct']:,} of {by_question['compared']:,} = "
        f"{by_question['correct'] / by_question['compared']:.1%} of vl_tokens[1:]. The most frequent token at each "
        f"position, which sees no input, scores {position_majority(answers, blocks([0, _CUT, count])):.1%} when fitted "
        f"on the other part of the clips, cut at clip {_CUT}, "
        f"{position_majority(answers, blocks([0, count // 2, count])):.1%} when cut in the middle, "
        f"{position_majority(answers, tenths):.1%} in tenths; on every other clip it is "
        f"{position_majority(answers, mixed):.1%}. "
        f"(Token 0, which the adapter is not asked for, is the same in {first:.0%} of the answers.)",
        "There was no baseline that ignores the input. Windows of a sequence overlap, so a split has to keep a "
        "sequence together; the file does not name sequences, and runs of neighbours are the nearest to it. How much "
        "they differ says how few sequences there are; every other clip, which is what a random split does, is the "
        "kindest of all.",
        "What does the drafter's answer add to position and question? Only the gain over that predictor counts, on "
        "sequences that were not trained on.",
    )


def c4(files: Files) -> Finding:
    file = files(ADAPTER)
    shifted = token_acceptance(file.column("adapted_ids"), [ids[1:] for ids in file.column("target_ids")])
    raw = token_acceptance(file.column("drafter_ids"), file.column("target_ids"))
    zeros = sum(count == 0 for count in file.column("recorded_consecutive"))
    verified = files(SD_EVAL).rows + files(SD_EVAL_AGAIN).rows
    prefixes = token_acceptance([r["adapted_ids"] for r in verified], [r["target_ids"][1:] for r in verified])
    return Finding(
        "C4",
        '"The adapter has 0 consecutive matches in 100 of 100"',
        f"{zeros} of {len(file)} recorded as 0; compared with vl_tokens[1:], which it was trained on: mean "
        f"{shifted['accepted_prefix_mean']:.2f}, {shifted['accepted_prefix_histogram']}, "
        f"{shifted['positional_match_rate']:.1%} of positions. The drafter's own answer, without any adapter, has a "
        f"prefix of {raw['accepted_prefix_mean']:.2f}. In the {len(verified)} runs with verification the adapter's "
        f"prefix, shifted, is {prefixes['accepted_prefix_histogram']}, and {sum(r['accepted'] for r in verified)} "
        "drafts were accepted.",
        "An off-by-one between training and benchmark.",
        "With the shift mended in the loop as well, is a prefix of 2.5 worth the pass that verifies it?",
    )


def c5(files: Files) -> Finding:
    rows, again = files(SD_EVAL).rows, files(SD_EVAL_AGAIN).rows
    ratios = [r["recorded_speedup"] for r in rows]
    best = max(rows, key=lambda r: r["recorded_speedup"])
    others = fmean(r["recorded_speedup"] for r in rows if r is not best)
    return Finding(
        "C5",
        '"1.078x with verification"',
        f"Mean {fmean(ratios):.3f} [measured (sequential)], median {median(ratios):.3f}; the largest, "
        f"{best['recorded_speedup']:.2f}, stopped after {len(best['output_ids'])} tokens, and without it the mean is "
        f"{others:.3f}. Another five runs: {fmean(r['recorded_speedup'] for r in again):.3f}. Outputs equal to the "
        f"target's: {sum(r['identical'] for r in rows + again)} of {len(rows + again)}.",
        "Answers of different length were compared, and nobody checked that they were the same answers.",
        "None: a timed run has to check identity in the same run.",
    )
