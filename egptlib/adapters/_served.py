"""E3S: an EAGLE-3 head in the very architecture that inference servers run, so that what is trained here can be served.

Names and shapes of tensors are those of the published heads (Li et al. 2025, EAGLE-3; read off speculators 0.9.0 and
vLLM's `LlamaForCausalLMEagle3`): `fc.weight` [H, n H] without bias over n layers of the target; one Llama layer
`layers.0` whose attention takes the token's embedding beside the state, 2 H wide, each with a norm of its own; `norm`.
Its output is read by the target's lm head.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from egptlib.adapters._layers import AttentionLayer, Dropout, moved, rotated, rotation
from egptlib.adapters._levels import SteppingHead, register
from egptlib.adapters._settings import AdapterSettings


class ServedLayer(AttentionLayer):
    """A Llama layer over [embedding, state], 2 H wide: RMSNorm, rotary positions, grouped heads, SwiGLU."""

    causal = True

    def __init__(self, settings: AdapterSettings) -> None:
        super().__init__()
        s, size = settings, settings.hidden_size
        self.num_heads, self.num_kv_heads = s.num_heads, s.num_kv_heads or s.num_heads
        self.width = size // s.num_heads
        self.theta, self.norm_before_residual = s.rope_theta, s.norm_before_residual
        self.input_layernorm, self.hidden_norm, self.post_attention_layernorm = (
            nn.RMSNorm(size, eps=s.norm_eps) for _ in range(3)
        )
        outs = {"q_proj": self.num_heads, "k_proj": self.num_kv_heads, "v_proj": self.num_kv_heads}
        attention = {name: nn.Linear(2 * size, count * self.width, bias=False) for name, count in outs.items()}
        self.self_attn = nn.ModuleDict(attention | {"o_proj": nn.Linear(size, size, bias=False)})
        self.mlp = nn.ModuleDict(
            {
                "gate_proj": nn.Linear(size, s.ffn_dim, bias=False),
                "up_proj": nn.Linear(size, s.ffn_dim, bias=False),
                "down_proj": nn.Linear(s.ffn_dim, size, bias=False),
            }
        )
        self.dropout = Dropout(s.dropout)

    def heads(self, x: Tensor, places: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        embedding, state = x.chunk(2, dim=-1)
        both = torch.cat([self.input_layernorm(embedding), self.hidden_norm(state)], dim=-1)
        q, k, v = (
            self.self_attn[name](both).unflatten(-1, (-1, self.width)).transpose(1, 2)
            for name in ("q_proj", "k_proj", "v_proj")
        )
        cos, sin = rotation(places, self.width, self.theta, x.dtype)
        groups = self.num_heads // self.num_kv_heads
        k, v = rotated(k, cos, sin).repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
        return rotated(q, cos, sin), k, v

    def finish(self, x: Tensor, attended: Tensor) -> Tensor:
        state = x.chunk(2, dim=-1)[1]
        if self.norm_before_residual:
            state = self.hidden_norm(state)
        state = state + self.dropout(self.self_attn["o_proj"](attended))
        inner, mlp = self.post_attention_layernorm(state), self.mlp
        return state + self.dropout(mlp["down_proj"](F.silu(mlp["gate_proj"](inner)) * mlp["up_proj"](inner)))


@register("E3S", dropout=0.0, num_heads=8)
class ServedHead(SteppingHead):
    """E3S: as E3, in the architecture of published EAGLE-3 heads; `export_head` writes it as servers open it.

    The token of a row is looked up in the target's lm head, as E3 does: the layer norms it first, so its length does
    not matter. As servers run it, it sees the prompt's rows too: they are what it is trained behind, and what a store
    has to hold (`extract(..., prompt_rows=True)`). Positions are rotary and so relative.
    """

    inputs = ("target_layers", "token_states")
    reads_prompt = True

    d2t: Tensor

    def __init__(self, settings: AdapterSettings) -> None:
        super().__init__(settings)
        size = settings.hidden_size
        self.fc = nn.Linear(settings.num_source_layers * size, size, bias=False)
        self.layers = nn.ModuleList([ServedLayer(settings)])
        self.norm = nn.RMSNorm(size, eps=settings.norm_eps)
        if settings.draft_vocab:
            self.embed_tokens = nn.Embedding(settings.target_vocab, size)
            self.lm_head = nn.Linear(size, settings.draft_vocab, bias=False)
            self.register_buffer("d2t", torch.zeros(settings.draft_vocab, dtype=torch.int64))

    def look_up(self, token_ids: Tensor, lm_head: Tensor) -> Tensor:
        own: Tensor = self.embed_tokens(token_ids) if self.settings.draft_vocab else super().look_up(token_ids, lm_head)
        return own

    def logits(self, states: Tensor, lm_head: Tensor) -> Tensor:
        if not self.settings.draft_vocab:
            return super().logits(states, lm_head)
        said = self.lm_head(states)
        out = said.new_full((*said.shape[:-1], self.settings.target_vocab), float("-inf"))
        out[..., torch.arange(said.shape[-1], device=said.device) + self.d2t] = said
        return out

    def _enter(self, given: Sequence[Tensor], depth: int, fed: Tensor | None) -> tuple[Tensor, Tensor]:
        state = self.fc(given[0].flatten(-2)) if fed is None else fed  # [b, t, layers, hidden] -> [b, t, hidden]
        return state, torch.cat([moved(given[1], depth), state], dim=-1)

    def _leave(self, start: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.norm(x), x
