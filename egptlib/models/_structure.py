"""What the passes written here are exact for, decided by what a model is made of, part by part.

Names tell little: a Qwen3 has a Llama's projections and norms on queries and keys besides. So a model is taken only
where each of its parts is of a class whose code was read, and where nobody listens to them. All others keep the pass
of their own class.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer
from transformers.models.llama import modeling_llama as llama
from transformers.models.mistral import modeling_mistral as mistral
from transformers.models.qwen2 import modeling_qwen2 as qwen2

# model -> decoder layer, attention, MLP, norm, rotary embedding. Their `forward`s are one, but for the window that
# Mistral and Qwen2 may have.
LLAMAS = {
    llama.LlamaModel: (
        llama.LlamaDecoderLayer, llama.LlamaAttention, llama.LlamaMLP, llama.LlamaRMSNorm, llama.LlamaRotaryEmbedding
    ),
    mistral.MistralModel: (
        mistral.MistralDecoderLayer, mistral.MistralAttention, mistral.MistralMLP, mistral.MistralRMSNorm,
        mistral.MistralRotaryEmbedding,
    ),
    qwen2.Qwen2Model: (
        qwen2.Qwen2DecoderLayer, qwen2.Qwen2Attention, qwen2.Qwen2MLP, qwen2.Qwen2RMSNorm, qwen2.Qwen2RotaryEmbedding
    ),
}  # fmt: skip
GROWTH = 256  # positions by which a cache grows; twice its length would be 3 GiB while a 7B model's is copied
STEADY_ROPES = ("default", "linear", "llama3")  # others turn by angles that change with the longest position seen
PARTS = {
    "model": {"embed_tokens", "layers", "norm", "rotary_emb"},
    "layer": {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"},
    "attention": {"q_proj", "k_proj", "v_proj", "o_proj"},
    "mlp": {"gate_proj", "up_proj", "down_proj", "act_fn"},
}
# What a language model's `forward` may take without a prompt of pictures needing it.
USUAL_ARGUMENTS = {
    "input_ids", "attention_mask", "position_ids", "past_key_values", "inputs_embeds", "use_cache",
    "cache_position", "output_attentions", "output_hidden_states", "return_dict", "logits_to_keep",
}  # fmt: skip


def is_llama(model: Any) -> bool:
    """Whether a language model computes what a Llama does: causal attention over all positions, turned by steady
    angles, and a gated MLP, in evaluation mode. Its projections may be quantized, adapted (LoRA) or have biases."""
    if type(model) not in LLAMAS or model.training or is_watched(model):
        return False
    layer_class, attention_class, mlp_class, norm_class, rotary_class = LLAMAS[type(model)]
    config = model.config
    norms = [model.norm]
    for layer in model.layers:
        if type(layer) is not layer_class or _parts(layer) != PARTS["layer"]:
            return False
        attention, mlp = layer.self_attn, layer.mlp
        if type(attention) is not attention_class or _parts(attention) != PARTS["attention"] or not attention.is_causal:
            return False
        if attention.scaling != attention.head_dim**-0.5 or type(mlp) is not mlp_class or _parts(mlp) != PARTS["mlp"]:
            return False
        norms += [layer.input_layernorm, layer.post_attention_layernorm]
    return (
        _parts(model) == PARTS["model"]
        and len(model.layers) == config.num_hidden_layers
        and all(type(norm) is norm_class and norm.variance_epsilon == config.rms_norm_eps for norm in norms)
        and type(model.rotary_emb) is rotary_class
        and config.rope_parameters["rope_type"] in STEADY_ROPES
        and getattr(config, "sliding_window", None) is None
        and set(getattr(config, "layer_types", None) or ["full_attention"]) == {"full_attention"}
    )


def _parts(module: nn.Module) -> set[str]:
    return {name for name, _ in module.named_children()}


def is_watched(model: nn.Module) -> bool:
    """Whether somebody wants to see the passes of a module within, or has put another `forward` there.

    Hooks that transformers left behind do not count (`is_left_behind`).
    """
    everywhere = torch.nn.modules.module
    if everywhere._global_forward_hooks or everywhere._global_forward_pre_hooks:
        return True
    return any(
        "forward" in vars(module)
        or any(
            not is_left_behind(hook) for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
        )
        for module in model.modules()
    )


def is_left_behind(hook: Any) -> bool:
    """Whether transformers left a hook there after `output_hidden_states=True`; it does nothing in other passes."""
    return getattr(hook, "__module__", "") == "transformers.utils.output_capturing"


class GrowingLayer(DynamicLayer):
    """Keys and values of one layer with room for more; transformers' own copies all of them at each token.

    `keys` and `values` are what stands in the room so far, so that forgetting only makes them shorter.
    """

    keys: Any
    values: Any
    _room: tuple[Tensor, ...] = ()

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Take n more positions, [batch, heads, n, d] each; all that are there now."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self._room = ()
        new, past = (key_states, value_states), self.get_seq_length()
        length = past + key_states.shape[-2]
        if not self._room or length > self._room[0].shape[-2]:
            room = tuple(x.new_empty(*x.shape[:-2], length + GROWTH, x.shape[-1]) for x in new)
            if past:
                for place, held in zip(room, (self.keys, self.values), strict=True):
                    place[..., :past, :] = held
            self._room = room
        for place, states in zip(self._room, new, strict=True):
            place[..., past:length, :] = states
        self.keys, self.values = (place[..., :length, :] for place in self._room)
        return self.keys, self.values


def whole_cache(model: Any) -> DynamicCache:
    """An empty cache that holds every position, so that any number of them can be forgotten.

    transformers' cache of a sliding window drops what has left the window, and a roll-back would need it again; with
    all keys at hand the mask alone keeps to the window.

    Raises:
        ValueError: layers whose state is not keys and values by position (linear attention, convolutions).
    """
    own = DynamicCache(config=model.config)
    if other := {type(layer) for layer in own.layers} - {DynamicLayer, DynamicSlidingWindowLayer}:
        names = ", ".join(sorted(kind.__name__ for kind in other))
        raise ValueError(f"{type(model).__name__}: expected a cache of keys and values by position, found {names}")
    cache = DynamicCache()
    cache.layer_class_to_replicate = GrowingLayer
    return cache


def check_length(model: Any, length: int) -> None:
    """Raise ValueError where a sequence is so long that its angles would depend on how many tokens a pass reads."""
    ropes = getattr(model.config, "rope_parameters", None) or {}
    each = list(ropes.values()) if ropes and all(isinstance(rope, dict) for rope in ropes.values()) else [ropes]
    for rope in each:
        if rope.get("rope_type") in ("dynamic", "longrope"):
            limit = rope.get("original_max_position_embeddings") or model.config.max_position_embeddings
            if length > limit:
                raise ValueError(
                    f"{type(model).__name__}: with rope_type {rope['rope_type']!r} passes over several tokens are "
                    f"exact up to {limit} positions alone, found {length}"
                )


def check_given(module: Any, language_model: nn.Module, given: dict[str, Any]) -> None:
    """See that a prompt holds all that its class hands to its language model beside the embeddings.

    Raises:
        ValueError: something is not there; class and argument are named.
    """
    taken = inspect.signature(language_model.forward).parameters.values()
    wanted = {one.name for one in taken if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)} - USUAL_ARGUMENTS
    if any(hasattr(part, "get_rope_index") for part in (module, getattr(module, "model", None))):
        wanted.add("position_ids")
    if hasattr(module, "create_masks_for_generate"):
        wanted.add("attention_mask")
    if missing := sorted(wanted - set(given)):
        raise ValueError(
            f"{type(module).__name__}: its language model reads more than embeddings: expected `embed` to give a "
            f"Prompt with {', '.join(missing)} in `given`"
        )


@contextmanager
def layers_taken(model: nn.Module, taken: dict[int, Tensor]) -> Iterator[None]:
    """Put the states [n, H] after the layers numbered by `taken` into it, during one pass of batch 1."""

    def keep(number: int) -> Any:
        def hook(module: nn.Module, arguments: Any, output: Any) -> None:
            taken[number] = (output[0] if isinstance(output, tuple) else output)[0]

        return hook

    hooks = [model.layers[number - 1].register_forward_hook(keep(number)) for number in taken]  # type: ignore[index,union-attr]
    try:
        yield
    finally:
        for handle in hooks:
            handle.remove()


def end_token_ids(module: Any, tokenizer: Any) -> frozenset[int]:
    """What ends an answer: the tokens of the generation_config, else the tokenizer's."""
    ids = getattr(getattr(module, "generation_config", None), "eos_token_id", None)
    ids = tokenizer.eos_token_id if ids is None else ids
    return frozenset([] if ids is None else [ids] if isinstance(ids, int) else ids)
