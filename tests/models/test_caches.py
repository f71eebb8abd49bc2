"""What a token more costs: no pass, of a model or of a head, takes room anew for what it has read already."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from egptlib.adapters import BlockHead, BlockRun, HeadRun, create_adapter
from egptlib.models import EventGPT, EventModel, Model, Preprocessor
from egptlib.models._lean import KeyValues
from egptlib.models._quantization import loading_options

from .conftest import event_config, make_tokenizer

LENGTH = 1500


class Made(TorchDispatchMode):
    """Adds up the bytes of all tensors that are made, not seen otherwise."""

    total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        there = {x.untyped_storage().data_ptr() for x in torch.utils._pytree.tree_leaves((args, kwargs)) if _is(x)}
        outs = [x for x in torch.utils._pytree.tree_leaves(out) if _is(x)]
        self.total += sum(x.nbytes for x in outs if x.untyped_storage().data_ptr() not in there)
        return out


def _is(x: Any) -> bool:
    return isinstance(x, torch.Tensor) and not x.is_mkldnn


def made_bytes(job: Callable[[], Any]) -> int:
    with Made() as made, torch.no_grad():
        job()
    return made.total


def rooms(cache: Any) -> list[torch.Tensor]:
    return [cache.buffer] if isinstance(cache, KeyValues) else [x for layer in cache.layers for x in layer._room]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One wide head, so that scores are small beside keys; grouped heads would have theirs repeated by transformers."""
    folder = tmp_path_factory.mktemp("eventgpt")
    EventGPT(event_config(num_attention_heads=1, num_key_value_heads=1)).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("quantization", [None, "nf4", "int8"])
def test_a_step_of_a_model(checkpoint: Path, quantization: Any) -> None:
    """Steps, drafts that are refused, trees: with our own cache, and with transformers' as quantized models have it."""
    module = EventGPT.from_pretrained(checkpoint, **loading_options(quantization))
    model: Model = EventModel(module, make_tokenizer(), Preprocessor({"height": 28, "width": 28}))
    state = model.prefill(torch.randn(1, LENGTH, 64).to(model.dtype))
    assert isinstance(state.cache, KeyValues) == (quantization is None)
    held = sum(room.nbytes for room in rooms(state.cache))
    places = [room.data_ptr() for room in rooms(state.cache)]

    def refused() -> None:
        model.step(torch.full((1, 6), 7), state)
        model.rollback(state, state.length - 5)

    def tree() -> None:
        model.step(torch.full((1, 4), 7), state, [-1, -1, 0, 1])
        model.settle(state, [1, 3])

    for job in (lambda: model.step(torch.tensor([[5]]), state), refused, tree):
        job()  # masks and angles for so many positions are made once
        assert made_bytes(job) < held / 4
    assert [room.data_ptr() for room in rooms(state.cache)] == places and state.length == LENGTH + 8


def test_a_step_of_a_head() -> None:
    """E3S reads the whole prompt; DF keeps what the target knew of every token."""
    sizes: dict[str, Any] = {"num_heads": 1, "ffn_dim": 64, "source_layers": (1, 2, 3), "max_positions": 4096}
    layers, tokens = torch.randn(LENGTH, 3, 64), torch.randn(LENGTH, 64)
    with torch.no_grad():
        run = HeadRun(create_adapter("E3S", 64, **sizes).eval())  # type: ignore[arg-type]
        run.begin(layers, tokens)
        run.read(layers[:2], tokens[:2])
        block: Any = create_adapter("DF", 64, **sizes).eval()
        assert isinstance(block, BlockHead)
        blocks = BlockRun(block)
        blocks.read(layers, tokens, depths=2)
    keys = LENGTH * 64 * 4  # bytes of one layer's keys
    for job in (
        lambda: run.go_on(torch.empty(0), tokens[:1]),
        lambda: run.read(layers[:1], tokens[:1]),
        lambda: blocks.read(layers[:1], tokens[:1], depths=2),
    ):
        assert made_bytes(job) < keys / 2
