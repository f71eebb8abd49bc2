"""A pair as wide as the two 7B models, with random weights: what needs room and time, tried before they are there."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import GenerationConfig, VideoLlavaForConditionalGeneration

from egptlib._paths import write_json
from egptlib.models._eventgpt import EventGPT
from egptlib.models._memory import published_configs
from egptlib.models._pair_file import MINI_FOLDER

SHARD = 2**31  # bytes of weights in one file
WORDS = 768  # those of the mini pair's tokenizer: no other id is ever said


def make_random_pair(out: str | Path, layers: int = 2, seed: int = 0, weights: bool = True) -> Path:
    """Write both checkpoints in bfloat16 and a `pair.toml`.

    Classes, widths, picture sizes and vocabulary are those of the published models, 1.5 GB each with two layers, 13 to
    14 with 32. The tokenizer is the mini pair's, so the prompts are a few tokens longer or shorter than the real ones.

    Args:
        out: folder to write.
        layers: of the language models (32 in the published ones), and of the vision towers up to their 24.
        seed: of the weights.
        weights: False leaves them out, which a rehearsal does not read.

    Returns:
        The path of the `pair.toml`.

    Raises:
        ValueError: fewer layers than one.
    """
    if layers < 1:
        raise ValueError(f"layers: expected at least 1, found {layers}")
    out, configs = Path(out), published_configs()
    drafter, target = configs["EventGPT"], configs["Video-LLaVA"]
    drafter.num_hidden_layers = target.text_config.num_hidden_layers = layers
    for config in (drafter.vision_config, target.vision_config):
        config.num_hidden_layers = min(layers, config.num_hidden_layers)
    drafter.mm_use_im_patch_token, drafter.mm_visual_tower = False, None
    target.image_token_index, target.video_token_index = WORDS, WORDS + 1  # the mini tokenizer's
    kinds: tuple[tuple[str, Any, Any], ...] = (
        ("drafter", EventGPT, drafter),
        ("target", VideoLlavaForConditionalGeneration, target),
    )
    torch.manual_seed(seed)
    for side, kind, config in kinds:
        folder = out / side
        folder.mkdir(parents=True, exist_ok=True)
        if weights:
            with torch.device("meta"):
                module = kind(config)
            _write_weights(folder, module)
        config.architectures, config.dtype = [kind.__name__], "bfloat16"
        config.save_pretrained(folder)
        GenerationConfig(bos_token_id=1, eos_token_id=2, pad_token_id=0).save_pretrained(folder)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(MINI_FOLDER / side / name, folder)
        size = config.vision_config.image_size
        pictures = json.loads((MINI_FOLDER / side / "preprocessor_config.json").read_text())
        write_json(folder / "preprocessor_config.json", pictures | {"size": {"height": size, "width": size}})
    path = out / "pair.toml"
    path.write_text(f'name = "random-{layers}-layers"\ndrafter = "drafter"\ntarget = "target"\n', encoding="utf-8")
    return path


def _write_weights(folder: Path, module: nn.Module) -> None:
    """Shards and their index, never more than one in memory."""
    shards: list[dict[str, Tensor]] = [{}]
    where: dict[str, str] = {}
    room = SHARD

    def write() -> None:
        name = f"model-{len(shards):05d}.safetensors"
        save_file(shards[-1], folder / name, metadata={"format": "pt"})
        where.update(dict.fromkeys(shards[-1], name))
        shards[-1] = {}

    for name, weight in _weights(module):
        if weight.nbytes > room and shards[-1]:
            write()
            shards.append({})
            room = SHARD
        shards[-1][name] = weight
        room -= weight.nbytes
    write()
    write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": where})


def _weights(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Such that states keep their size from layer to layer, and only the tokenizer's words are likely."""
    for name, empty in module.state_dict().items():
        if not empty.is_floating_point():
            yield name, torch.arange(empty.numel()).expand(empty.shape).clone()
            continue
        weight = torch.empty(empty.shape, dtype=torch.bfloat16)
        if name.endswith("bias"):
            weight.zero_()
        elif "norm" in name:
            weight.fill_(1)
        else:
            weight.normal_(std=1.0 if "embed_tokens" in name else weight[0].numel() ** -0.5)
        if name == "lm_head.weight":
            weight[:3], weight[WORDS:] = 0, 0
        yield name, weight
