"""What one model's token ids mean to another: one vocabulary with added specials, or two that share some tokens."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Any, Literal

import torch
from torch import Tensor
from transformers.convert_slow_tokenizer import bytes_to_unicode

from egptlib.models._device import ids_on
from egptlib.models._interface import Model

Matching = Literal["tokens", "text"]
"""How drafted words become the target's tokens: the tokens that both vocabularies have, or the text, split anew."""


class Vocabulary:
    """Maps between a drafter's and a target's ids.

    Args:
        pairs: int64 [m, 2], drafter id and target id of each token that both have; no id twice.
        drafter_tokenizer, target_tokenizer: to spell out, in the drafter's tokens, a target token it lacks.
        target_size: width V of the target's logits.
        end_token_ids: the target's end tokens.
        drafted: the drafter's ids that its lm head has a row for; None: all.
    """

    def __init__(
        self,
        pairs: Tensor,
        drafter_tokenizer: Any,
        target_tokenizer: Any,
        target_size: int,
        end_token_ids: frozenset[int],
        drafted: Tensor | None = None,
    ):
        self.drafter_ids, self.target_ids = pairs.unbind(dim=1)
        self.drafter_tokenizer, self.target_tokenizer = drafter_tokenizer, target_tokenizer
        self.target_size, self.end_token_ids = target_size, end_token_ids
        self._theirs = dict(pairs.tolist())
        self._there: dict[torch.device, tuple[Tensor, Tensor, Tensor]] = {}
        drafts = pairs if drafted is None else pairs[torch.isin(pairs[:, 0], drafted.cpu())]
        self._drafts = frozenset(drafts[:, 1].tolist())
        self._spelled = {theirs: [mine] for mine, theirs in self._theirs.items()}
        # One vocabulary with added specials: ids are the same up to some number, and a slice does the mapping.
        self._prefix = len(pairs) if torch.equal(pairs, torch.arange(len(pairs))[:, None].expand(-1, 2)) else None

    @property
    def is_shared(self) -> bool:
        """Whether an id means the same to both, added specials apart."""
        return self._prefix is not None

    def __len__(self) -> int:
        """How many tokens both have."""
        return len(self.target_ids)

    def writable(self, token_ids: Iterable[int]) -> float:
        """Share of some target tokens that the drafter can write at all, in one token of its own; 1 of none."""
        known = [token in self._drafts for token in token_ids]
        return sum(known) / len(known) if known else 1.0

    def to_drafter(self, tokens: Sequence[int]) -> list[int]:
        """Target ids to drafter ids; a token that the drafter lacks is spelled in its tokens, or left out."""
        return [mine for token in tokens for mine in self._spell(token)]

    def one_to_one(self, tokens: Tensor) -> Tensor:
        """Target ids [n] to drafter ids, on their device and unknown to the host; 0 where the drafter lacks one."""
        return self._on(tokens.device)[2][tokens]

    def _on(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """On a device, put there once: drafter ids and target ids [m], and by target id the drafter's or 0."""
        if device not in self._there:
            table = torch.zeros(self.target_size, dtype=torch.long)
            table[self.target_ids] = self.drafter_ids
            drafter_ids, target_ids, table = (ids_on(device, ids) for ids in (self.drafter_ids, self.target_ids, table))
            self._there[device] = drafter_ids, target_ids, table
        return self._there[device]

    def places(self, tokens: Sequence[int]) -> list[int]:
        """How many of `to_drafter(tokens)` stand before each of the tokens."""
        lengths = [len(self._spell(token)) for token in tokens]
        return list(accumulate(lengths[:-1], initial=0)) if lengths else []

    def from_drafter(self, tokens: Sequence[int]) -> list[int]:
        """Drafter ids to target ids, one by one; -1 where the target has no such token."""
        return [self._theirs.get(token, -1) for token in tokens]

    def _spell(self, token: int) -> list[int]:
        if token not in self._spelled:
            text = spelling(self.target_tokenizer, token).decode(errors="ignore")
            self._spelled[token] = list(self.drafter_tokenizer(text, add_special_tokens=False).input_ids)
        return self._spelled[token]

    def to_target(self, logits: Tensor) -> Tensor:
        """Drafter logits [..., V_drafter] to [..., V_target]; -inf at tokens the drafter lacks.

        A softmax of it is the drafter's distribution confined to the common tokens and normalised again
        (token-level intersection, Timor et al. 2025, algorithm 4), which rejection sampling takes as its q.
        """
        if self._prefix is not None:
            return torch.nn.functional.pad(
                logits[..., : self._prefix], (0, self.target_size - self._prefix), value=-torch.inf
            )
        mapped = logits.new_full((*logits.shape[:-1], self.target_size), -torch.inf)
        drafter_ids, target_ids, _ = self._on(logits.device)
        mapped[..., target_ids] = logits[..., drafter_ids]
        return mapped


def match_vocabularies(drafter: Model, target: Model) -> Vocabulary:
    """The one vocabulary of two models, told by comparing it token by token, or else the tokens that both have."""
    shared, trained = _same_ids(drafter, target)
    return shared_vocabulary(drafter, target) if shared >= trained else common_vocabulary(drafter, target)


def shared_vocabulary(drafter: Model, target: Model) -> Vocabulary:
    """One vocabulary, in which a model may have added specials of its own.

    Raises:
        ValueError: the vocabularies differ within the tokens both were trained with; the first is named.
    """
    shared, trained = _same_ids(drafter, target)
    if shared < trained:
        theirs, ours = (model.tokenizer.convert_ids_to_tokens(shared) for model in (drafter, target))
        raise ValueError(
            f"pair: {drafter.name} and {target.name} need one vocabulary; they differ from id {shared} on: "
            f"{theirs!r} and {ours!r}"
        )
    return first_ids_shared(shared, drafter, target)


def common_vocabulary(drafter: Model, target: Model) -> Vocabulary:
    """The tokens that two vocabularies both have, by what they spell; their end tokens count as one.

    Each tokenizer writes a space and a byte in its own way ("\u2581the" and "\u0120the" are both " the"), so bytes
    count. Other special tokens are common where they have one name.

    Raises:
        ValueError: they have none in common.
    """
    theirs = _by_spelling(target)
    ends = set(drafter.eos_token_ids)
    pairs = {mine: theirs[key] for key, mine in _by_spelling(drafter).items() if mine not in ends and key in theirs}
    taken = set(pairs.values())
    pairs |= {
        mine: end for mine, end in zip(sorted(ends), sorted(target.eos_token_ids), strict=False) if end not in taken
    }
    if not pairs:
        raise ValueError(f"{drafter.name} and {target.name} have no token in common")
    return _between(torch.tensor(sorted(pairs.items())), drafter, target)


def spelling(tokenizer: Any, token: int) -> bytes:
    """The bytes that a token stands for in a text; none for a special token."""
    name = tokenizer.convert_ids_to_tokens(token)
    if name is None or name in tokenizer.all_special_tokens:
        return b""
    return _spelled(name, _is_byte_level(tokenizer))


def _same_ids(drafter: Model, target: Model) -> tuple[int, int]:
    """How many ids, from 0 on, are the same token to both; and of how many tokens both were trained with."""
    size = min(len(drafter.tokenizer), len(target.tokenizer), drafter.vocab_size, target.vocab_size)
    theirs, ours = (model.tokenizer.convert_ids_to_tokens(list(range(size))) for model in (drafter, target))
    shared = next((i for i in range(size) if theirs[i] != ours[i]), size)
    return shared, min(drafter.tokenizer.vocab_size, target.tokenizer.vocab_size, size)


def _by_spelling(model: Model) -> dict[bytes | str, int]:
    """What each token of a model spells -> its id, the lowest where several do; a special token goes by its name."""
    special, byte_level = set(model.tokenizer.all_special_tokens), _is_byte_level(model.tokenizer)
    found: dict[bytes | str, int] = {}
    for name, token in sorted(model.tokenizer.get_vocab().items(), key=lambda item: item[1]):
        if token < model.vocab_size:
            found.setdefault(name if name in special else _spelled(name, byte_level), token)
    return found


_BYTES = {character: byte for byte, character in bytes_to_unicode().items()}
_BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")


def _spelled(name: str, byte_level: bool) -> bytes:
    """The bytes of a token by its name in the vocabulary: byte-level BPE, or SentencePiece with byte fallback."""
    if byte_level and all(character in _BYTES for character in name):
        return bytes(_BYTES[character] for character in name)
    if match := _BYTE_TOKEN.fullmatch(name):
        return bytes([int(match[1], 16)])
    return name.replace("\u2581", " ").encode()


def _is_byte_level(tokenizer: Any) -> bool:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return "ByteLevel" in repr(getattr(backend, "decoder", None))


def first_ids_shared(count: int, drafter: Model, target: Model) -> Vocabulary:
    """The vocabulary of two models to whom the first `count` ids mean the same; ValueError where one has fewer."""
    if not 0 < count <= (most := min(drafter.vocab_size, target.vocab_size)):
        raise ValueError(f"vocabulary: expected 1 to {most} first ids that both models have, found {count}")
    return _between(torch.arange(count)[:, None].expand(-1, 2), drafter, target)


def _between(pairs: Tensor, drafter: Model, target: Model) -> Vocabulary:
    drafted = getattr(drafter.lm_head, "tokens", None)
    return Vocabulary(pairs, drafter.tokenizer, target.tokenizer, target.vocab_size, target.eos_token_ids, drafted)
