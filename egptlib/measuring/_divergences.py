"""Where greedy answers part from transformers' own `generate`, and how near a tie that is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from egptlib.decoding import Divergence, first_divergence
from egptlib.measuring._baselines import transformers_generate
from egptlib.measuring._methods import Method, token_ids_of
from egptlib.models import Model


@dataclass(frozen=True)
class Parted:
    """One answer that is not `generate`'s.

    Attributes:
        scene, question: the prompt.
        length: tokens of `generate`'s answer.
        at: where they part, the tokens there, and the gap between the two best logits.
        ours, theirs: these tokens as text; None where the answer had ended.
    """

    scene: str
    question: str
    length: int
    at: Divergence
    ours: str | None
    theirs: str | None


@dataclass(frozen=True)
class Divergences:
    """Greedy answers compared with `generate`'s.

    Attributes:
        prompts, tokens: answers compared, and tokens of `generate`'s.
        parted: method -> its answers that differ.
        gaps: gap between the two best logits at every token of `generate`'s answers, smallest first.
    """

    prompts: int
    tokens: int
    parted: dict[str, list[Parted]]
    gaps: list[float]

    def gap_rank(self, gap: float) -> float:
        """Share of all tokens whose two best logits are at most `gap` apart."""
        return sum(other <= gap for other in self.gaps) / len(self.gaps)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        median, low = self.gaps[len(self.gaps) // 2], self.gaps[len(self.gaps) // 100]
        lines = [
            f"{self.prompts} prompts, {self.tokens} tokens; gap of the two best logits, over all tokens: median "
            f"{median:.3g}, 1 % below {low:.3g}"
        ]
        for name, parted in self.parted.items():
            lines.append(f"  {name}: {len(parted)} of {self.prompts} answers part from generate's")
            for one in parted:
                at = one.at
                ours, theirs = ("nothing" if text is None else repr(text) for text in (one.ours, one.theirs))
                lines.append(
                    f"    {one.scene}, {one.question!r}: token {at.position + 1} of {one.length}, {ours} for {theirs}, "
                    f"gap {at.gap:.3g} ({at.gap / at.spacing:.0f} spacings of the dtype; {self.gap_rank(at.gap):.1%} "
                    "of all tokens are as near)"
                )
        return "\n".join(lines)


@torch.no_grad()
def find_divergences(
    target: Model, methods: Mapping[str, Method], prompts: Sequence[tuple[Any, str]], max_new_tokens: int = 50
) -> Divergences:
    """Compare each method's greedy answers with transformers' `target.generate(do_sample=False)`.

    In float32 there are none but at ties. In bfloat16 and 4 bit, sums over one token and over several are rounded in
    another order, so an answer may part from `generate`'s where the two best logits are within that rounding.

    Raises:
        ValueError: no prompt.
    """
    if not prompts:
        raise ValueError("divergences: expected at least one prompt, found none")
    generate, parted = transformers_generate(target, max_new_tokens), {name: list[Parted]() for name in methods}
    gaps: list[float] = []
    tokens = 0
    for scene, question in prompts:
        reference = token_ids_of(generate(scene, question))
        tokens += len(reference)
        best = target.forward_answer(target.encode(scene, question), reference)[1].float().topk(2).values
        gaps += (best[:, 0] - best[:, 1]).tolist()
        for name, method in methods.items():
            at = first_divergence(target, scene, question, token_ids_of(method(scene, question)), reference)
            if at is not None:
                texts = (None if i is None else target.tokenizer.decode([i]) for i in (at.token, at.reference))
                parted[name].append(Parted(getattr(scene, "id", ""), question, len(reference), at, *texts))
    return Divergences(len(prompts), tokens, parted, sorted(gaps))
