"""Does a block drafter (DF) beat a head that runs ahead (E3) in tokens per millisecond of drafting, on the mini pair?

    python -m benchmarks.block_drafter --train DIR --test DIR --out DIR [--epochs 6] [--answers 300]

DF is DFlash (Chen et al. 2026, arXiv 2602.06036) as small as E3: layers of the target, fused, are keys and values of
every layer; the queries are a block, the last token and masks, which see one another, and one pass names all tokens of
a draft. Both are trained here on the same answers by the same trainer, as long. Then both draft five tokens at a time
along the target's answers, each keeping what it has read, in turns in one process; the drafts are those that judging
counts. Asked: DF's tokens per drafter millisecond over E3's; above 1 it is worth a level of its own.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from egptlib.adapters import (
    Adapter,
    AdapterSettings,
    FitSettings,
    Head,
    HeadRun,
    LossSettings,
    create_adapter,
    judge,
    length_gain,
    load_adapter,
    register,
    token_states,
    train_adapter,
)
from egptlib.adapters._served import _rotated, _rotation
from egptlib.hidden_states import HiddenSample, HiddenStates

GAMMA = 5
SIZES = {
    "E3": {"ffn_dim": 1024, "max_positions": 128},
    "DF": {"num_layers": 2, "ffn_dim": 320, "max_positions": 128},
}


class BlockLayer(nn.Module):
    """A Llama layer whose queries are a block, and whose keys and values are the target's rows and the block."""

    def __init__(self, settings: AdapterSettings) -> None:
        super().__init__()
        size, self.heads = settings.hidden_size, settings.num_heads
        self.norm, self.mlp_norm = nn.RMSNorm(size), nn.RMSNorm(size)
        self.q, self.k, self.v, self.out = (nn.Linear(size, size, bias=False) for _ in range(4))
        self.gate, self.up = (nn.Linear(size, settings.ffn_dim, bias=False) for _ in range(2))
        self.down = nn.Linear(settings.ffn_dim, size, bias=False)

    def keys(self, rows: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [..., t, heads, e] of rows [..., t, H] at positions [t]."""
        return self._turned(self.k(rows), places), self.v(rows).unflatten(-1, (self.heads, -1))

    def _turned(self, x: Tensor, places: Tensor) -> Tensor:
        x = x.unflatten(-1, (self.heads, -1))
        cos, sin = _rotation(places.flatten(), x.shape[-1], 10_000.0, x.dtype)
        shape = (*places.shape, 1, x.shape[-1])
        return _rotated(x, cos.view(shape), sin.view(shape))

    def forward(self, x: Tensor, places: Tensor, context: tuple[Tensor, Tensor], seen: Tensor) -> Tensor:
        """Blocks [b, t, s, H] at positions [t, s]; context keys and values [b, c, heads, e]; `seen` bool [t, c]."""
        rows = self.norm(x)
        q = self._turned(self.q(rows), places) * (x.shape[-1] // self.heads) ** -0.5
        k, v = self.keys(rows, places)
        far = torch.einsum("btshe,bche->bthsc", q, context[0]).masked_fill(~seen[:, None, None], float("-inf"))
        near = torch.einsum("btshe,btrhe->bthsr", q, k)
        weights = torch.cat([far, near], dim=-1).softmax(dim=-1)
        count = far.shape[-1]
        mixed = torch.einsum("bthsc,bche->btshe", weights[..., :count], context[1])
        mixed = mixed + torch.einsum("bthsr,btrhe->btshe", weights[..., count:], v)
        x = x + self.out(mixed.flatten(-2))
        rows = self.mlp_norm(x)
        return x + self.down(F.silu(self.gate(rows)) * self.up(rows))


@register("DF", dropout=0.0)
class BlockHead(Head):
    """DF: predicts all rows of a draft in one pass; here alone, while the table decides whether it is kept."""

    inputs = ("target_layers", "token_states")

    def __init__(self, settings: AdapterSettings) -> None:
        super().__init__(settings)
        size = settings.hidden_size
        self.fc = nn.Linear(settings.num_source_layers * size, size, bias=False)
        self.context_norm, self.norm = nn.RMSNorm(size), nn.RMSNorm(size)
        self.mask = nn.Parameter(0.5 * torch.randn(size))
        self.layers = nn.ModuleList(BlockLayer(settings) for _ in range(settings.num_layers))

    def context(self, layers: Tensor, first: int = 0) -> list[tuple[Tensor, Tensor]]:
        """By layer the keys and values of the target's rows [b, t, layers, H], the first of which is number `first`."""
        rows = self.context_norm(self.fc(layers.flatten(-2)))
        places = torch.arange(first, first + rows.shape[1])
        return [layer.keys(rows, places) for layer in self.layers]  # type: ignore[operator]

    def blocks(self, tokens: Tensor, first: int, depths: int, context: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        """States [b, t, depths, H] behind tokens [b, t, H], the first of which stands in row `first`."""
        b, t, size = tokens.shape
        x = torch.cat([tokens[:, :, None], self.mask.expand(b, t, depths, size)], dim=2)
        rows = torch.arange(first, first + t)
        places = 1 + rows[:, None] + torch.arange(depths + 1)
        seen = torch.arange(context[0][0].shape[1]) <= rows[:, None]
        for layer, own in zip(self.layers, context, strict=True):
            x = layer(x, places, own, seen)
        return self.norm(x[:, :, 1:])

    def ahead(self, *given: Tensor, depths: int, before: object = None) -> list[Tensor]:
        return list(self.blocks(given[1], 0, depths, self.context(given[0])).unbind(dim=2))

    def _enter(self, given: Sequence[Tensor], depth: int, fed: Tensor | None) -> tuple[Tensor, Tensor]:
        raise NotImplementedError("a block is one pass")

    def _leave(self, start: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        raise NotImplementedError("a block is one pass")


def train(level: str, states: HiddenStates, out: Path, epochs: int) -> Adapter:
    """Train a level, or go on where it stands; its best weights."""
    settings = FitSettings(epochs, batch_size=8, learning_rate=2e-3)
    torch.manual_seed(settings.seed)
    layers = states.config["layers"]["target"]
    size = states.target_head.lm_head.shape[1]
    adapter = create_adapter(level, size, source_layers=layers, num_source_layers=len(layers), **SIZES[level])
    train_adapter(adapter, states, out / level, settings, LossSettings(depths=GAMMA if level == "DF" else 3))
    return load_adapter(out / level)


Start = Callable[[], Callable[[Tensor, Tensor], list[int]]]
"""Begins an answer; what it returns takes new rows (states [k, layers, H], token states [k, H]) and drafts."""


def starting(head: Adapter, lm_head: Tensor) -> Start:
    """How a head drafts, row by row, keeping what it has read."""
    if isinstance(head, BlockHead):
        return lambda: _Blocks(head, lm_head)
    assert isinstance(head, Head)
    return lambda: _Steps(head, lm_head)


class _Steps:
    def __init__(self, head: Head, lm_head: Tensor) -> None:
        self.run, self.lm_head = HeadRun(head), lm_head

    def __call__(self, layers: Tensor, tokens: Tensor) -> list[int]:
        draft, state = list[int](), self.run.read(layers, tokens)
        while True:
            draft.append(int(F.linear(state, self.lm_head).argmax()))
            if len(draft) == GAMMA:
                return draft
            state = self.run.go_on(torch.empty(0), token_states(torch.tensor([draft[-1:]]), self.lm_head)[0])


class _Blocks:
    def __init__(self, head: BlockHead, lm_head: Tensor) -> None:
        self.head, self.lm_head, self.kept = head, lm_head, list[tuple[Tensor, Tensor]]()

    def __call__(self, layers: Tensor, tokens: Tensor) -> list[int]:
        read = self.kept[0][0].shape[1] if self.kept else 0
        new = self.head.context(layers[None], read)
        if self.kept:
            new = [(torch.cat([a, c], 1), torch.cat([b, d], 1)) for (a, b), (c, d) in zip(self.kept, new, strict=True)]
        self.kept = new
        states = self.head.blocks(tokens[None, -1:], read + len(layers) - 1, GAMMA, new)[0, 0]
        drafted: list[int] = F.linear(states, self.lm_head).argmax(dim=-1).tolist()
        return drafted


def walk(sample: HiddenSample, start: Start, lm_head: Tensor) -> tuple[int, int, float]:
    """Decode along the target's answer: tokens behind the first, passes, seconds of drafting."""
    assert sample.token_ids is not None and sample.target_layers is not None
    ids, layers = sample.token_ids.tolist(), sample.target_layers.float()
    tokens = token_states(sample.token_ids[None], lm_head)[0]
    draft_of, read, i, passes, seconds = start(), 0, 0, 0, 0.0
    while i < len(ids) - 1:
        begun = time.perf_counter()
        draft = draft_of(layers[read : i + 1], tokens[read : i + 1])
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
    heads["E3, as shipped"] = load_adapter("mini-E3")
    verdicts = {name: judge(head, test, lm_head, (GAMMA,)) for name, head in heads.items()}
    sequences = [note["sequence"] for note in test.metadata()]
    numbers = range(0, len(test), max(1, len(test) // options.answers))
    seconds, passes = dict.fromkeys(heads, 0.0), dict.fromkeys(heads, 0)
    with torch.no_grad():
        for number in numbers:
            sample = test[number]
            for name, head in heads.items():
                *counts, spent = walk(sample, starting(head.float(), lm_head), lm_head)
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
