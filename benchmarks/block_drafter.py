"""Does a block drafter (DF) beat a head that runs ahead (E3) in tokens per millisecond of drafting, on the mini pair?

    python -m benchmarks.block_drafter --train DIR --test DIR --out DIR [--epochs 6] [--answers 300]

DF is DFlash (Chen et al. 2026, arXiv 2602.06036) as small as E3: layers of the target, fused, are keys and values of
every layer; the queries are a block, the last token and masks, which see one another, and one pass names all tokens of
a draft. Both are trained here on the same answers by the same trainer, as long. Then both draft five tokens at a time
along the target's answers, each keeping what it has read, in turns in one process; the drafts are those that judging
counts. Asked: DF's tokens per drafter millisecond over E3's.
"""

import argparse
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from egptlib.adapters import (
    BlockRun,
    FitSettings,
    Head,
    HeadRun,
    LossSettings,
    create_adapter,
    head_run,
    judge,
    length_gain,
    load_adapter,
    token_states,
    train_adapter,
)
from egptlib.hidden_states import HiddenSample, HiddenStates

GAMMA = 5
SIZES = {
    "E3": {"ffn_dim": 1024, "max_positions": 128},
    "DF": {"num_layers": 2, "ffn_dim": 320, "max_positions": 128},
}


def opened(name: Path | str) -> Head:
    head = load_adapter(name).float()
    assert isinstance(head, Head)
    return head


def train(level: str, states: HiddenStates, out: Path, epochs: int) -> Head:
    """Train a level, or go on where it stands; its best weights."""
    settings = FitSettings(epochs, batch_size=8, learning_rate=2e-3)
    torch.manual_seed(settings.seed)
    layers = states.config["layers"]["target"]
    size = states.target_head.lm_head.shape[1]
    adapter = create_adapter(level, size, source_layers=layers, num_source_layers=len(layers), **SIZES[level])
    train_adapter(adapter, states, out / level, settings, LossSettings(depths=GAMMA if level == "DF" else 3))
    return opened(out / level)


def draft_of(run: BlockRun | HeadRun, layers: Tensor, tokens: Tensor, lm_head: Tensor) -> list[int]:
    """Read new rows (states [k, layers, H], token states [k, H]) and draft."""
    if isinstance(run, BlockRun):
        drafted: list[int] = F.linear(run.read(layers, tokens, depths=GAMMA), lm_head).argmax(dim=-1).tolist()
        return drafted
    draft, state = list[int](), run.read(layers, tokens)
    while True:
        draft.append(int(F.linear(state, lm_head).argmax()))
        if len(draft) == GAMMA:
            return draft
        state = run.go_on(torch.empty(0), token_states(torch.tensor([draft[-1:]]), lm_head)[0])


def walk(sample: HiddenSample, run: BlockRun | HeadRun, lm_head: Tensor) -> tuple[int, int, float]:
    """Decode along the target's answer: tokens behind the first, passes, seconds of drafting."""
    assert sample.token_ids is not None and sample.target_layers is not None
    ids, layers = sample.token_ids.tolist(), sample.target_layers.float()
    tokens = token_states(sample.token_ids[None], lm_head)[0]
    read, i, passes, seconds = 0, 0, 0, 0.0
    while i < len(ids) - 1:
        begun = time.perf_counter()
        draft = draft_of(run, layers[read : i + 1], tokens[read : i + 1], lm_head)
        seconds += time.perf_counter() - begun
        read, right = i + 1, 0
        while right < GAMMA and i + 1 + right < len(ids) and draft[right] == ids[i + 1 + right]:
            right += 1
        i, passes = min(i + right + 1, len(ids) - 1), passes + 1
    return len(ids) - 1, passes, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--answers", type=int, default=300, help="of the test samples, evenly taken, that are timed")
    options = parser.parse_args()
    torch.set_num_threads(1)
    states, test = HiddenStates.open(options.train), HiddenStates.open(options.test)
    lm_head = states.target_head.lm_head.float()
    heads = {f"{level}, trained here": train(level, states, options.out, options.epochs) for level in SIZES}
    heads["E3, as shipped"] = opened("mini-E3")
    verdicts = {name: judge(head, test, lm_head, (GAMMA,)) for name, head in heads.items()}
    sequences = [note["sequence"] for note in test.metadata()]
    numbers = range(0, len(test), max(1, len(test) // options.answers))
    seconds, passes = dict.fromkeys(heads, 0.0), dict.fromkeys(heads, 0)
    with torch.no_grad():
        for number in numbers:
            sample = test[number]
            for name, head in heads.items():
                *counts, spent = walk(sample, head_run(head), lm_head)
                assert tuple(counts) == verdicts[name].answers[number], f"{name}: answer {number} was judged otherwise"
                seconds[name] += spent
                passes[name] += counts[1]
    base = verdicts["E3, trained here"]
    print(f"{len(states)} answers, {options.epochs} epochs; judged on {len(test)}, timed on {len(numbers)}")
    print(f"{'':<18} {'parameters':>10} {'tokens/pass':>12} {'over E3 [95 %]':>24} {'ms/draft':>9} {'tokens/ms':>10}")
    rates = {}
    for name, verdict in verdicts.items():
        over = length_gain(verdict.answers, base.answers, sequences)
        length, spent = verdict.mean_acceptance_length[GAMMA], 1e3 * seconds[name] / passes[name]
        rates[name] = length / spent
        gain = f"{over.value:+.2f} [{over.low:+.2f}, {over.high:+.2f}]"
        count = verdict.num_parameters
        print(f"{name:<18} {count:>10,} {length:>12.3f} {gain:>24} {spent:>9.3f} {rates[name]:>10.2f}")
    for name in ("E3, trained here", "E3, as shipped"):
        ratio = rates["DF, trained here"] / rates[name]
        print(f"DF over {name}: {ratio:.2f}x tokens per drafter millisecond (asked: above 1)")


if __name__ == "__main__":
    main()
