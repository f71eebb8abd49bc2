"""What a model reads, and where a sequence stands."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor
from transformers import DynamicCache

from egptlib.models._lean import KeyValues, LeanLlama
from egptlib.models._rules import Rules


@dataclass
class Inputs:
    """One question about one scene, ready for the model.

    Attributes:
        input_ids: int64 [1, t], with placeholders for the visual tokens.
        pixel_values: the tower's input, in the layout of the model.
        visual: the visual tokens, as the model keeps them, filled by the first `embed`, so that further questions about
            the scene (see `Model.encode(..., like=)`) do not run the tower again.
    """

    input_ids: Tensor
    pixel_values: Tensor
    visual: Any = None


@dataclass
class Prompt:
    """What the language model reads first.

    Attributes:
        embeds: [1, T, H], visual tokens in place.
        given: what else the class hands to its language model together with them: `position_ids` that are not
            0, 1, 2, ... (M-RoPE), an `attention_mask` that is not causal, visual inputs of further layers (DeepStack).
        ids: int64 [t], the prompt's ids where the rules of a generation_config.json look back at them, as in
            `generate` called with ids. None: they see the answer alone, as in `generate` called with embeddings.
    """

    embeds: Tensor
    given: dict[str, Any] = field(default_factory=dict)
    ids: Tensor | None = None

    @classmethod
    def of(cls, embedded: Tensor | Prompt) -> Prompt:
        return embedded if isinstance(embedded, Prompt) else cls(embedded)

    @property
    def offset(self) -> int:
        """Position of the first token behind the prompt, less its number.

        It follows the prompt's last one, as in `generate`, even where a clip's seconds (M-RoPE) have run further.
        """
        positions = self.given.get("position_ids")
        return 0 if positions is None else int(positions.flatten()[-1]) + 1 - self.embeds.shape[1]


@dataclass
class State:
    """Where a sequence stands.

    Attributes:
        logits: [1, V], what the last position says about the next token; here and in every `Step` after the rules of
            the checkpoint's generation_config.json (`rules`), as `generate` chooses from them.
        hidden: [1, 1, H], last hidden state (after the final norm) of the prompt's last position; [1, T, H] where it
            was read `whole`.
        cache: keys and values of all positions read; `KeyValues` where the model takes the lean pass.
        length: how many that are.
        layers: numbers of decoder layers -> states [n, H] of the n positions read last (of a prompt the last one
            alone, unless it was read `whole`), after so many layers and before the final norm; as asked for at the
            prefill (`Model.prefill(layers=)`), mostly none.
        offset: position of the next token, less `length` (`Prompt.offset`).
        rules: what the generation_config.json does to logits here; mostly None.
        lean: the lean pass that reads into `cache`, if it is `KeyValues`: a sequence stays with the pass that began it.
        prompt_ids: int64 [T], where the prompt was read `whole` for whom builds on its states.
        tree: where the last positions are the nodes of a tree, the parent of each (`Model.read`); empty after `settle`.
    """

    logits: Tensor
    hidden: Tensor
    cache: DynamicCache | KeyValues
    length: int
    layers: dict[int, Tensor] = field(default_factory=dict)
    offset: int = 0
    rules: Rules | None = None
    lean: LeanLlama | None = None
    tree: list[int] = field(default_factory=list)
    prompt_ids: Tensor | None = None


class Step(NamedTuple):
    """What n tokens read in one pass give: logits [1, n, V] and last hidden states [1, n, H]."""

    logits: Tensor
    hidden: Tensor


@dataclass(frozen=True)
class Answer:
    """A greedy answer.

    Attributes:
        token_ids: int64 [n] on the CPU, the end token included where it was reached.
        text: the same as words.
        hidden: [n, H]; row t is the last hidden state that predicts token t.
        times: seconds per stage (load, preprocess, vision, prefill, decode).
    """

    token_ids: Tensor
    text: str
    hidden: Tensor
    times: dict[str, float]
