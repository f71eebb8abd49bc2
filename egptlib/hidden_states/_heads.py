"""Final norm and language-model head of a model, saved once beside its hidden states."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from egptlib._paths import atomic_write
from egptlib.hidden_states._format import MappedFile, as_bytes, file_header


@dataclass(frozen=True)
class Head:
    """What turns hidden states into logits, so that token-level figures need no model.

    Attributes:
        lm_head: [V, H] in the model's dtype; no bias.
        norm: [H], weight of the final RMS norm. Stored hidden states stand behind it already.
        norm_eps: its epsilon.
        tokens: int64 [V], which token each row of a trimmed head is for; None: one row a token, in their order.
        size: of the vocabulary, where `tokens` is given.
    """

    lm_head: Tensor
    norm: Tensor
    norm_eps: float
    tokens: Tensor | None = None
    size: int = 0

    @classmethod
    def of(cls, model: Any) -> Head:
        """Of a `Model`.

        Raises:
            ValueError: its head is quantized (no plain weight) or has a bias, or its final norm is no RMS norm.
        """
        head, norm = model.lm_head, model.final_norm
        if not head.weight.is_floating_point() or head.bias is not None:
            raise ValueError(f"{model.name}: expected a plain lm head without bias, found {head}")
        epsilon = getattr(norm, "variance_epsilon", getattr(norm, "eps", None))
        weight, tokens = norm.weight.detach(), getattr(head, "tokens", None)
        told = {} if tokens is None else {"tokens": tokens.cpu(), "size": head.out_features}
        trial = torch.randn(2, len(weight), generator=torch.Generator().manual_seed(0)).to(weight)
        with torch.no_grad():
            for scale in (weight, 1 + weight.float()):  # Gemma keeps what is added to 1
                made = cls(head.weight.detach().cpu(), scale.cpu(), float(epsilon or 0.0), **told)
                if torch.allclose(made.normalise(trial.cpu()).float(), norm(trial).cpu().float(), rtol=0.02, atol=1e-3):
                    return made
        raise ValueError(f"{model.name}: expected an RMS norm before the lm head, found {type(norm).__name__}")

    def logits(self, hidden: Tensor) -> Tensor:
        """[..., H] -> [..., V] in the head's dtype, of states behind the final norm, as they are stored; a trimmed
        head's over the whole vocabulary, -inf where it has no row."""
        logits = F.linear(hidden.to(self.lm_head.dtype), self.lm_head)
        if self.tokens is None:
            return logits
        from egptlib.models import spread

        return spread(logits, self.tokens, self.size)

    def normalise(self, hidden: Tensor) -> Tensor:
        """[..., H] -> [..., H]: the final norm, for states that stand before it (such as `target_layers`)."""
        wide = hidden.float()
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.norm_eps)
        return self.norm * wide.to(self.norm.dtype)

    def save(self, path: Path) -> dict[str, Any]:
        """Write it as safetensors, atomically; returns its entry for the index."""
        tensors = {"lm_head.weight": [self.lm_head.contiguous()], "norm.weight": [self.norm.contiguous()]}
        told = {"norm_eps": repr(self.norm_eps)}
        if self.tokens is not None:
            tensors["tokens"] = [self.tokens]
            told["size"] = str(self.size)
        data = [as_bytes(parts[0]) for parts in tensors.values()]
        head = file_header(tensors, told | {"checksum": _checksum("".join(told.values()), data)})
        digest = hashlib.sha256()
        with atomic_write(path) as temporary, temporary.open("wb") as file:
            for part in (memoryview(head), *(part.data for part in data)):
                file.write(part)
                digest.update(part)
        return {"path": path.name, "bytes": path.stat().st_size, "sha256": digest.hexdigest()}

    @classmethod
    def load(cls, path: Path) -> Head:
        """Read it, checked.

        Raises:
            ValueError: the file is damaged.
        """
        file = MappedFile(path)
        lm_head, norm = file.tensor("lm_head.weight").clone(), file.tensor("norm.weight").clone()
        eps, size = file.told.get("norm_eps", ""), file.told.get("size", "")
        tokens = file.tensor("tokens").clone() if size else None
        data = [as_bytes(each) for each in (lm_head, norm, tokens) if each is not None]
        if file.told.get("checksum") != _checksum(eps + size, data):
            raise ValueError(f"{path}: damaged: another checksum than its header says")
        return cls(lm_head, norm, float(eps), tokens, int(size or 0))


def _checksum(told: str, data: list[Any]) -> str:
    digest = hashlib.sha256(told.encode())
    for part in data:
        digest.update(part)
    return digest.hexdigest()
