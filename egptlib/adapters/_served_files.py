"""EAGLE-3 heads as inference servers keep them: an E3S goes out, and published ones come in.

Two forms, by name and shape the same tensors (read off speculators 0.9.0, vLLM and SGLang):

- `speculators`, which vLLM opens: `config.json` with the verifier and the layer's own configuration, `layers.0.*`;
- `sglang`: a flat `config.json` for `LlamaForCausalLMEagle3`, `midlayer.*`.

Layers of the target are counted in two ways: speculators and vLLM mean by j the states that go into layer j, that is,
after j layers, as this library does; SGLang adds one to each number it is given.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from egptlib._paths import read_json, write_json
from egptlib.adapters._build import build, fill, read_tensors, write_tensors
from egptlib.adapters._levels import Adapter, token_states
from egptlib.adapters._served import ServedHead
from egptlib.adapters._settings import level_settings
from egptlib.models import Model

FORMATS = ("speculators", "sglang")
WEIGHTS, CONFIG = "model.safetensors", "config.json"
_SPECULATORS_VERSION = "0.9.0"  # the form written here was read off, and is tested against


def export_head(
    head: Adapter,
    target: Model,
    folder: str | os.PathLike[str],
    form: str = "speculators",
    tokens: Sequence[int] | None = None,
    verifier: str | None = None,
    num_draft_tokens: int = 5,
) -> Path:
    """Write a trained E3S with all that a server needs: embeddings, an lm head over a draft vocabulary, its table.

    Args:
        head: an E3S that reads through the target's lm head.
        target: whose states it was trained on.
        folder: to write to; made when missing, and otherwise expected to be empty.
        form: of `FORMATS`.
        tokens: the target's ids that it may draft; when left out, those that it was trained to. `d2t` is id in the
            target minus id in the draft, `t2d` true where a token may be drafted.
        verifier: name or path of the target's checkpoint, for the configuration.
        num_draft_tokens: the server's default.

    Raises:
        ValueError: another level, unknown source layers, tokens that the target does not have, or a folder in use.
    """
    folder, settings = Path(folder), head.settings
    if form not in FORMATS:
        raise ValueError(f"format {form!r}: expected one of {', '.join(FORMATS)}")
    if not isinstance(head, ServedHead) or settings.draft_vocab:
        raise ValueError(f"level {settings.level}: expected an E3S that was trained here; servers run no other")
    if not settings.source_layers:
        raise ValueError("E3S: source_layers are not known; a head trained by `egptlib train` has them")
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder}: expected an empty folder to write the head to")
    weight = target.lm_head.weight.detach().float().cpu()
    if weight.shape[1] != settings.hidden_size:
        raise ValueError(f"E3S: hidden_size {settings.hidden_size}; the target's states have {weight.shape[1]}")
    tokens = settings.drafted or None if tokens is None else tokens
    chosen = torch.arange(len(weight)) if tokens is None else torch.tensor(sorted(set(tokens)), dtype=torch.int64)
    if not len(chosen) or chosen[0] < 0 or chosen[-1] >= len(weight):
        raise ValueError(f"tokens: expected ids from 0 to {len(weight) - 1}, found {chosen.tolist()[:1] or 'none'}")
    t2d = torch.zeros(len(weight), dtype=torch.bool)
    t2d[chosen] = True
    tensors = {name: tensor.detach().float().cpu() for name, tensor in head.state_dict().items()} | {
        "embed_tokens.weight": token_states(torch.arange(len(weight))[None], weight)[0],
        "lm_head.weight": weight[chosen],
        "d2t": chosen - torch.arange(len(chosen)),
        "t2d": t2d,
    }
    if form == "sglang":
        tensors = {name.replace("layers.0.", "midlayer."): tensor for name, tensor in tensors.items()}
    layer = _layer_config(head, len(weight))
    layers = list(settings.source_layers)
    draft = {"draft_vocab_size": len(chosen), "tie_word_embeddings": False, "torch_dtype": "float32"}
    if form == "sglang":
        told = {"eagle_aux_hidden_state_layer_ids": [number - 1 for number in layers], "use_aux_hidden_state": True}
        config = layer | draft | {"architectures": ["LlamaForCausalLMEagle3"], "eagle_config": told}
    else:
        proposal = {"proposal_type": "greedy", "speculative_tokens": num_draft_tokens}
        config = draft | {
            "architectures": ["Eagle3Speculator"],
            "speculators_model_type": "eagle3",
            "speculators_version": _SPECULATORS_VERSION,
            "norm_before_residual": settings.norm_before_residual,  # where it is missing, vLLM takes another than it
            "norm_before_fc": False,
            "fc_norm": False,
            "norm_output": False,
            "eagle_aux_hidden_state_layer_ids": layers,
            "transformer_layer_config": layer,
            "speculators_config": {
                "algorithm": "eagle3",
                "default_proposal_method": "greedy",
                "proposal_methods": [proposal],
                "verifier": {"name_or_path": verifier, "architectures": [type(target.module).__name__]},
            },
        }
    write_tensors(folder / WEIGHTS, tensors)
    write_json(folder / CONFIG, config)  # last: a folder without it is no head
    return folder


def _layer_config(head: ServedHead, vocab_size: int) -> dict[str, Any]:
    """The Llama configuration of the head's one layer."""
    s = head.settings
    return {
        "model_type": "llama",
        "hidden_size": s.hidden_size,
        "intermediate_size": s.ffn_dim,
        "num_hidden_layers": 1,
        "num_attention_heads": s.num_heads,
        "num_key_value_heads": s.num_kv_heads or s.num_heads,
        "head_dim": s.hidden_size // s.num_heads,
        "hidden_act": "silu",
        "max_position_embeddings": s.max_positions,
        "rms_norm_eps": s.norm_eps,
        "rope_theta": s.rope_theta,
        "attention_bias": False,
        "mlp_bias": False,
        "vocab_size": vocab_size,
    }


def load_served(folder: Path) -> ServedHead:
    """Open an EAGLE-3 head of either form, with its own lm head and embeddings.

    Raises:
        ValueError: another architecture than E3S's, or tensors that do not fit; file and field are named.
    """
    where, config = folder / CONFIG, read_json(folder / CONFIG)
    is_sglang = config.get("architectures") == ["LlamaForCausalLMEagle3"]
    if not is_sglang and config.get("speculators_model_type") != "eagle3":
        raise ValueError(
            f"{where}: expected speculators_model_type 'eagle3' or architectures ['LlamaForCausalLMEagle3']"
        )
    layer = config if is_sglang else config.get("transformer_layer_config")
    if not isinstance(layer, dict):
        raise ValueError(f"{where}: transformer_layer_config: expected an object")
    rope = layer.get("rope_parameters") or layer.get("rope_scaling") or {}
    kind = rope.get("rope_type", "default")
    expected = {
        "norm_before_fc": False, "fc_norm": False, "norm_output": False, "hidden_act": "silu", "attention_bias": False,
        "num_hidden_layers": 1, "model_type": "llama",
    }  # fmt: skip
    for name, value in expected.items():
        found = layer.get(name, config.get(name, value))
        if found != value:
            raise ValueError(f"{where}: {name}: expected {value!r}, found {found!r}")
    if kind != "default":
        raise ValueError(f"{where}: rope_type: expected 'default', found {kind!r}")
    if not is_sglang and "norm_before_residual" not in config:
        raise ValueError(f"{where}: norm_before_residual is missing: vLLM then takes true, speculators false")
    size, heads = _number(layer, "hidden_size", where), _number(layer, "num_attention_heads", where)
    if layer.get("head_dim", size // heads) * heads != size:
        raise ValueError(f"{where}: head_dim: expected {size // heads}, found {layer['head_dim']!r}")
    tensors = {
        name.replace("midlayer.", "layers.0."): tensor for name, tensor in read_tensors(folder / WEIGHTS).items()
    }
    tensors.pop("t2d", None)  # d2t says the same
    for name in ("embed_tokens.weight", "lm_head.weight"):
        if name not in tensors:
            raise ValueError(f"{folder / WEIGHTS}: tensor {name!r} is missing; a head without it takes the target's")
    vocab, drafts = (len(tensors[name]) for name in ("embed_tokens.weight", "lm_head.weight"))
    tensors.setdefault("d2t", torch.zeros(drafts, dtype=torch.int64))
    place = torch.arange(drafts) + tensors["d2t"]
    if tensors["d2t"].shape != (drafts,) or place.min() < 0 or place.max() >= vocab or len(place.unique()) < drafts:
        raise ValueError(f"{folder / WEIGHTS}: tensor 'd2t': expected {drafts} different tokens of {vocab}")
    layers = config.get("eagle_aux_hidden_state_layer_ids")
    if is_sglang:
        layers = (config.get("eagle_config") or {}).get("eagle_aux_hidden_state_layer_ids")
        layers = [number + 1 for number in layers] if layers else None
    settings = level_settings(
        "E3S",
        hidden_size=size,
        num_heads=heads,
        num_kv_heads=_number(layer, "num_key_value_heads", where, heads),
        ffn_dim=_number(layer, "intermediate_size", where),
        max_positions=_number(layer, "max_position_embeddings", where, 2048),
        num_source_layers=tensors["fc.weight"].shape[1] // size if "fc.weight" in tensors else 3,
        source_layers=tuple(layers or ()),
        rope_theta=float(rope.get("rope_theta") or layer.get("rope_theta") or 10_000.0),
        norm_eps=float(layer.get("rms_norm_eps", 1e-6)),
        norm_before_residual=bool(config.get("norm_before_residual", False)),
        draft_vocab=drafts,
        target_vocab=vocab,
    )
    head = build(settings)
    assert isinstance(head, ServedHead)
    fill(head, tensors, str(folder / WEIGHTS))
    return head


def _number(layer: dict[str, Any], name: str, where: Path, default: int | None = None) -> int:
    value = layer.get(name, default)
    if type(value) is not int or value < 1:
        raise ValueError(f"{where}: {name}: expected a whole number above 0, found {value!r}")
    return value
