"""Trees of tokens in one pass: each node sees what was read before the tree, its ancestors and itself.

A tree is given by the parents of its nodes, -1 where that is what stands before the tree; parents come before their
children (SpecInfer, Miao et al. 2023, 2305.09781: topology-aware causal mask).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from egptlib.models._device import ids_on
from egptlib.models._structure import whole_cache

if TYPE_CHECKING:
    from egptlib.models._interface import Model


def tree_paths(parents: Sequence[int]) -> list[list[int]]:
    """The nodes from a root down to each node, itself included."""
    paths: list[list[int]] = []
    for node, parent in enumerate(parents):
        paths.append([*paths[parent], node] if parent >= 0 else [node])
    return paths


def tree_depths(parents: Sequence[int]) -> list[int]:
    """How many ancestors each node has."""
    depths: list[int] = []
    for parent in parents:
        depths.append(depths[parent] + 1 if parent >= 0 else 0)
    return depths


def tree_mask(before: int, parents: Sequence[int], count: int) -> Tensor:
    """The mask of the last `count` nodes, float32 [count, before + nodes]: 0 where one sees a position, else -inf."""
    nodes = len(parents)
    seen = np.eye(nodes, dtype=bool)
    for node, parent in enumerate(parents):
        if parent >= 0:
            seen[node] |= seen[parent]
    mask = np.zeros((count, before + nodes), dtype=np.float32)
    mask[:, before:][~seen[nodes - count :]] = -np.inf
    return torch.from_numpy(mask)


def tree_arguments(
    before: int, parents: Sequence[int], tokens: Tensor, dtype: torch.dtype, offset: int
) -> dict[str, Tensor]:
    """What transformers' own passes take for the last tokens [1, n] of a tree: mask and positions."""
    count, device = tokens.shape[1], tokens.device
    mask = tree_mask(before, parents, count).to(device, dtype).clamp(min=torch.finfo(dtype).min)
    depths = ids_on(device, tree_depths(parents)[-count:])[None]
    return {"attention_mask": mask[None, None], "position_ids": depths + before + offset}


def keep_rows(cache: Any, before: int, rows: Sequence[int]) -> None:
    """Move the positions before + rows (ascending) of a cache together, from `before` on; what is behind is stale."""
    if list(rows) == list(range(len(rows))):
        return
    end = before + len(rows)
    lean = hasattr(cache, "buffer")
    stores = [cache.buffer] if lean else [store for layer in cache.layers for store in (layer.keys, layer.values)]
    at = ids_on(stores[0].device, rows) + before
    for store in stores:
        store[..., before:end, :] = store[..., at, :]


def check_trees(model: Model) -> None:
    """See that a model's pass keeps to a tree's mask and positions; once a model, by three short passes.

    Raises:
        ValueError: layers with a window, or a pass that does not; the class is named.
    """
    from egptlib.models._state import State

    if model._reads_trees:
        return
    name, config = type(model.language_model).__name__, model.language_model.config
    kinds = set(getattr(config, "layer_types", None) or ())
    windowed = getattr(config, "sliding_window", None) is not None and getattr(config, "use_sliding_window", True)
    if kinds - {"full_attention"} or (windowed and not kinds):
        raise ValueError(f"{model.name}: {name} has layers with a window: drafts have to be chains, not trees")

    def blank() -> State:
        nothing = torch.empty(0, device=model.device)
        return State(nothing, nothing, whole_cache(model.language_model), 0)

    both = torch.tensor([[3, 4]], device=model.device)
    alone = model.read(both[:, 1:], blank())[0, -1]
    behind = model.read(both, blank())[0, -1]
    beside = model.read(both, blank(), [-1, -1])[0, -1]
    # A mask or positions that were not heeded would put the second root behind the first.
    if not (beside - alone).norm() < 0.1 * (behind - alone).norm():
        raise ValueError(f"{model.name}: {name} does not keep to a tree's mask: drafts have to be chains, not trees")
    model._reads_trees = True
