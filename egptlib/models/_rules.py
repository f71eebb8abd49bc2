"""What a checkpoint's generation_config.json does to logits, by the processors that transformers' `generate` builds.

Each looks at the tokens before a position and changes what may follow, so a draft of n tokens is judged row by row,
each row after its own prefix: speculative decoding keeps the tokens of `generate`. How a token is drawn (`do_sample`,
`temperature`, `top_p`, ...) is the caller's choice (`egptlib.decoding.Sampling`), never the file's.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from egptlib.models._trees import tree_paths

# Field -> values that ask for nothing. These change the logits of a known prefix, and are applied.
APPLIED: dict[str, tuple[Any, ...]] = {
    "repetition_penalty": (1.0,), "no_repeat_ngram_size": (0,), "encoder_repetition_penalty": (1.0,),
    "encoder_no_repeat_ngram_size": (0,), "bad_words_ids": (), "sequence_bias": (), "min_length": (0,),
    "min_new_tokens": (0,), "suppress_tokens": ([],), "begin_suppress_tokens": ([],), "forced_bos_token_id": (),
    "exponential_decay_length_penalty": (), "remove_invalid_values": (False,), "renormalize_logits": (False,),
}  # fmt: skip
# These choose tokens by more than the logits of one prefix, or end an answer by another rule than its end token.
REFUSED: dict[str, tuple[Any, ...]] = {
    "num_beams": (1,), "num_beam_groups": (1,), "num_return_sequences": (1,), "penalty_alpha": (0.0,),
    "dola_layers": (), "constraints": (), "force_words_ids": (), "guidance_scale": (1.0,), "watermarking_config": (),
    "forced_eos_token_id": (), "stop_strings": (), "max_time": (), "token_healing": (False,),
}  # fmt: skip


class Rules:
    """The processors of one prompt and the ids they look at.

    Attributes:
        processors: transformers' `LogitsProcessorList`.
        ids: int64 [t], the prompt's (as far as they count) and those read after it.
    """

    def __init__(self, processors: Any, ids: Tensor):
        self.processors, self.ids = processors, ids

    def __call__(self, logits: Tensor, tree: Sequence[int] = ()) -> Tensor:
        """Logits [n, V] after the last n prefixes of `ids`, in float32 as `generate` has them.

        Args:
            tree: parents of the last ids, where they are nodes of a tree: each row then follows its own path.
        """
        length, count = len(self.ids), len(logits)
        if tree:
            before = length - len(tree)
            paths = [[before + node for node in path] for path in tree_paths(tree)[-count:]]
            prefixes = [torch.cat([self.ids[:before], self.ids[path]]) for path in paths]
        else:
            prefixes = [self.ids[: length - count + 1 + i] for i in range(count)]
        rows = [
            self.processors(prefix[None], row.to(torch.float32, copy=True)[None])
            for prefix, row in zip(prefixes, logits, strict=True)
        ]
        return torch.cat(rows)

    def read(self, tokens: Tensor) -> None:
        self.ids = torch.cat([self.ids, tokens.to(self.ids)])

    def forget(self, count: int) -> None:
        self.ids = self.ids[: max(0, len(self.ids) - count)]

    def keep(self, count: int, rows: Sequence[int]) -> None:
        """Of the last `count` ids keep those numbered by `rows`."""
        before = len(self.ids) - count
        self.ids = torch.cat([self.ids[:before], self.ids[before:][list(rows)]])

    def after(self, tokens: Tensor) -> Rules:
        """The same rules behind further tokens [n]."""
        return Rules(self.processors, torch.cat([self.ids, tokens.to(self.ids)]))


def generation_rules(module: Any, ids: Tensor | None, length: int, device: torch.device) -> Rules | None:
    """The rules of a model's `generation_config` for one prompt, or None where it has none.

    Args:
        ids: int64 [t] of the prompt where `generate` would see them; None where it is given embeddings, and rules that
            look back see the answer alone.
        length: positions of the prompt.

    Raises:
        ValueError: a field that cannot be followed here; it is named.
    """
    settings: Any = getattr(module, "generation_config", None)
    if refused := active_fields(settings, REFUSED):
        field = refused[0]
        raise ValueError(
            f"generation_config.json: {field}: {getattr(settings, field)!r} cannot be followed while drafts are "
            "verified; take it out of the file to decode without it"
        )
    if not active_fields(settings, APPLIED):
        return None
    given = torch.empty(0, dtype=torch.long) if ids is None else ids
    given = given.to(device)
    config, _ = module._prepare_generation_config(None, do_sample=False)
    module._prepare_special_tokens(config, True, device=device, batch_size=1)
    config = module._prepare_generated_length(
        config, True, settings.min_length is None, "input_ids" if len(given) else "inputs_embeds", len(given),
        torch.empty(1, length),
    )  # fmt: skip
    with warnings.catch_warnings():  # it warns that a penalty does not see a prompt given as embeddings
        warnings.simplefilter("ignore", UserWarning)
        processors = module._get_logits_processor(
            config,
            input_ids_seq_length=len(given),
            encoder_input_ids=given[None] if len(given) else None,
            device=device,
            model_kwargs={},
        )
    return Rules(processors, given)


def active_fields(settings: Any, fields: dict[str, tuple[Any, ...]]) -> list[str]:
    """The fields among `fields` that ask for something."""
    values = {name: getattr(settings, name, None) for name in fields}
    return [name for name, value in values.items() if value is not None and value not in fields[name]]
