"""Every level: parameter counts, shapes, causality by perturbation, where it starts, widths, running ahead."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

from egptlib.adapters import (
    LEVELS,
    RUNS_AHEAD,
    Adapter,
    BlockHead,
    BlockRun,
    Head,
    SteppingHead,
    count_parameters,
    create_adapter,
    token_states,
)
from egptlib.adapters._layers import Dropout

HIDDEN, DRAFTER = 32, 24
PUBLISHED = {
    "L1": 2_113_537,
    "L2": 6_324_227,
    "L3": 16_797_698,
    "L4": 100_714_497,
    "L5": 102_819_841,
    "L5F": 169_936_897,
    "B1": 102_819_841,
}


def test_e3_is_l5_that_fuses_layers_and_reads_tokens() -> None:
    h = 4096
    fuse, join, norms = 3 * h * h, 2 * h * h + h, 4 * h
    entry = 2 * h + 1  # L5's norm at the entry and its scale, which E3 does not have
    assert count_parameters("E3", h) == PUBLISHED["L5"] - entry + fuse + join + norms == 186_718_208


def small(level: str, **settings: object) -> Adapter:
    torch.manual_seed(3)
    adapter = create_adapter(
        level, HIDDEN, **{"bottleneck": 8, "num_heads": 4, "ffn_dim": 48, "max_positions": 24} | settings
    )
    return adapter.eval()


def states(adapter: Adapter, batch: int = 2, time: int = 9, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    s = adapter.settings
    shapes = {
        "drafter_hidden": (batch, time, s.input_size),
        "target_hidden": (batch, time, s.hidden_size),
        "target_layers": (batch, time, s.num_source_layers, s.hidden_size),
        "token_states": (batch, time, s.hidden_size),
    }
    return [torch.randn(shapes[name], generator=generator) for name in adapter.inputs]


@pytest.mark.parametrize("level", PUBLISHED)
def test_parameter_counts_are_the_published_ones(level: str) -> None:
    assert count_parameters(level) == PUBLISHED[level]


def test_the_earlier_runs_used_three_wide_blocks() -> None:
    assert round(count_parameters("L3", num_blocks=3) / 1e6, 1) == 25.2


@pytest.mark.parametrize("drafter_size", [None, DRAFTER, 40])
@pytest.mark.parametrize("level", LEVELS)
def test_shapes_and_gradients(level: str, drafter_size: int | None) -> None:
    adapter = small(level, drafter_size=drafter_size)
    out = adapter(*states(adapter))
    assert out.shape == (2, 9, HIDDEN)
    out.square().sum().backward()
    without = [name for name, parameter in adapter.named_parameters() if parameter.grad is None]
    assert not without


@pytest.mark.parametrize("level", LEVELS)
def test_no_position_sees_a_later_one(level: str) -> None:
    adapter = small(level, num_layers=2)
    given = states(adapter)
    changed = [x.clone() for x in given]
    for x in changed:
        x[:, 5:] += 1.0
    before, after = adapter(*given), adapter(*changed)
    torch.testing.assert_close(before[:, :5], after[:, :5])
    assert not torch.allclose(before[:, 5:], after[:, 5:])


def test_the_earlier_l4_looks_ahead_where_asked() -> None:
    adapter = small("L4", causal=False)
    given = states(adapter)
    changed = given[0].clone()
    changed[:, -1] = 3 * torch.randn(2, HIDDEN)
    assert not torch.allclose(adapter(given[0])[:, 0], adapter(changed)[:, 0])


def test_an_l4_that_looks_ahead_never_looks_at_padding() -> None:
    adapter = small("L4", causal=False)
    x = states(adapter)[0]
    mask = torch.ones(2, 9, dtype=torch.bool)
    mask[:, 6:] = False
    torch.testing.assert_close(adapter(x, mask)[:, :6], adapter(x[:, :6]))


@pytest.mark.parametrize("level", ["L1", "L2"])
def test_bottlenecks_start_at_the_norm_of_their_input(level: str) -> None:
    adapter = small(level, scale=0.0)
    x = states(adapter)[0]
    torch.testing.assert_close(adapter(x), torch.nn.functional.layer_norm(x, (HIDDEN,)))


@pytest.mark.parametrize("level", ["L1", "L2"])
def test_a_norm_taken_into_the_matrix_changes_no_output_and_no_gradient(level: str) -> None:
    adapter = small(level)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    (x,), weights = states(adapter), torch.randn(2, 9, HIDDEN, generator=generator)
    found = []
    for given in (x, x.clone().requires_grad_()):  # only the first takes the short way
        adapter.zero_grad()
        out = adapter(given)
        (out * weights).sum().backward()
        found.append([out, *(p.grad.clone() for p in adapter.parameters() if p.grad is not None)])
    assert len(found[0]) == 1 + len(list(adapter.parameters()))
    torch.testing.assert_close(found[0], found[1], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_dropout_keeps_its_share_and_the_mean(rate: float) -> None:
    torch.manual_seed(0)
    dropout, x = Dropout(rate), torch.ones(333, 301, requires_grad=True)
    out = dropout(x)
    out.sum().backward()
    kept = out != 0
    assert kept.float().mean().item() == pytest.approx(1 - rate, abs=0.005)  # 3 standard errors at most
    for rows in (kept[::2], kept[:, :150], kept[:, 1::4]):  # no pattern by row, side, or place in a random word
        assert rows.float().mean().item() == pytest.approx(1 - rate, abs=0.01)
    torch.testing.assert_close(out, kept / (1 - rate), atol=1e-3, rtol=1e-3)
    assert x.grad is not None and torch.equal(x.grad, out.detach())
    torch.manual_seed(0)
    assert torch.equal(dropout(x), out)
    assert dropout.eval()(x) is x


@pytest.mark.parametrize(("level", "start"), [("L4", 0), ("L5", 0), ("B1", 0), ("L5F", 1)])
def test_residual_levels_start_at_their_input(level: str, start: int) -> None:
    adapter = small(level, scale=0.0)
    given = states(adapter)
    torch.testing.assert_close(adapter(*given), given[start])


@pytest.mark.parametrize("drafter_size", [DRAFTER, 40])
def test_differing_widths_start_with_what_both_have(drafter_size: int) -> None:
    adapter = small("L4", scale=0.0, drafter_size=drafter_size)
    x = states(adapter)[0]
    shared = min(drafter_size, HIDDEN)
    torch.testing.assert_close(adapter(x)[..., :shared], x[..., :shared])


@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize("level", [level for level in RUNS_AHEAD if level != "DF"])
def test_running_ahead_from_all_rows_is_running_ahead_from_each(level: str, num_layers: int) -> None:
    """Against the plain way: one anchor at a time, its own predictions appended, everything read again."""
    adapter = small(level, num_layers=num_layers)
    assert isinstance(adapter, SteppingHead)
    given = states(adapter, batch=1)
    depths = 4
    fast = adapter.ahead(*given, depths=depths)
    for anchor in (0, 3, 5):
        expected = _ahead_from(adapter, given, anchor, depths)
        for depth in range(depths):
            torch.testing.assert_close(fast[depth][:, anchor], expected[depth], atol=1e-5, rtol=1e-5)


def _ahead_from(adapter: SteppingHead, given: list[Tensor], anchor: int, depths: int) -> list[Tensor]:
    """Feed a growing row through the layers without any cache."""
    predicted, entered, fed = [], [], None
    for depth in range(depths):
        if fed is None:
            start, x = adapter._enter([g[:, : anchor + 1] for g in given], 0, None)
        else:
            place = anchor + depth
            # everything given is cut to the one row of this depth; depth 0 keeps it from being moved again
            start, x = adapter._enter([g[:, place : place + 1] for g in given], 0, fed)
        entered.append(x)
        row = torch.cat(entered, dim=1)
        row = adapter._placed(row, torch.arange(row.shape[1]))
        for layer in adapter.layers:
            row = layer(row)
        state, fed = adapter._leave(start[:, -1:], row[:, -1:])
        predicted.append(state[:, 0])
    return predicted


def test_a_block_is_read_from_each_row_as_from_the_last_of_a_whole_sequence() -> None:
    """Against plain attention with transformers' rotation, one anchor at a time; and row by row, cut back and again."""
    adapter = small("DF", num_layers=2)
    assert isinstance(adapter, BlockHead)
    (layers, tokens), depths = states(adapter, batch=1), 4
    fast = torch.stack(adapter.ahead(layers, tokens, depths=depths), dim=2)[0]  # [t, depths, H]
    rotation = LlamaRotaryEmbedding(LlamaConfig(hidden_size=HIDDEN, num_attention_heads=4))
    inner: Any = adapter.layers
    for anchor in range(layers.shape[1]):
        known = adapter.context_norm(adapter.fc(layers[0, : anchor + 1].flatten(-2)))
        x = torch.cat([tokens[0, anchor, None], adapter.mask.expand(depths, -1)])
        places = torch.arange(anchor + 2 + depths)[None]  # the rows, then the block behind them
        cos, sin = rotation(x, places)
        for layer in inner:
            rows = layer.norm(x)
            seen = torch.cat([known, rows])
            parts = (layer.q(rows), layer.k(seen), layer.v(seen))
            q, k, v = (part.unflatten(-1, (4, -1)).transpose(0, 1)[None] for part in parts)
            q = apply_rotary_pos_emb(q, q, cos[:, -depths - 1 :], sin[:, -depths - 1 :])[0]
            k = apply_rotary_pos_emb(k, k, cos, sin)[0]
            x = x + layer.out(F.scaled_dot_product_attention(q, k, v)[0].transpose(0, 1).flatten(-2))
            rows = layer.mlp_norm(x)
            x = x + layer.down(F.silu(layer.gate(rows)) * layer.up(rows))
        torch.testing.assert_close(fast[anchor], adapter.norm(x[1:]), atol=1e-5, rtol=1e-5)
    run = BlockRun(adapter)
    for kept, end in [(0, 3), (3, 4), (4, 8), (2, 6), (6, 9)]:
        run.crop(kept)
        read = run.read(layers[0, kept:end], tokens[0, kept:end], depths=depths)
        torch.testing.assert_close(read, fast[end - 1], atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="DF: 21 positions and 4 ahead of them; it was built for 24"):
        run.read(torch.zeros(12, *layers.shape[2:]), torch.zeros(12, HIDDEN), depths=5)


@pytest.mark.parametrize("level", RUNS_AHEAD)
def test_too_many_positions_are_refused(level: str) -> None:
    adapter = small(level, max_positions=10)
    assert isinstance(adapter, Head)
    given = states(adapter)
    adapter.ahead(*given, depths=2)
    with pytest.raises(ValueError, match="9 positions and 2 ahead of them; it was built for 10"):
        adapter.ahead(*given, depths=3)


def test_unknown_settings_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="level 'L7'"):
        create_adapter("L7")
    with pytest.raises(ValueError, match="unknown setting 'botleneck'"):
        create_adapter("L1", botleneck=3)
    with pytest.raises(ValueError, match="num_heads 3 does not divide"):
        create_adapter("L4", 32, num_heads=3)
    with pytest.raises(ValueError, match=r"adapter setting hidden_size: expected a whole number, found 32\.5"):
        create_adapter("L4", 32.5)  # type: ignore[arg-type]
    size: Any = np.int64(32)  # which could not be saved
    assert type(create_adapter("L4", size).settings.hidden_size) is int
    with pytest.raises(ValueError, match="reads_last is a setting of L5"):
        create_adapter("B1", 32, reads_last=True)
    with pytest.raises(ValueError, match="causal"):
        create_adapter("L5", 32, causal=False)


def test_token_states_are_rows_of_the_head_at_one_size() -> None:
    head = torch.randn(7, 5)
    out = token_states(torch.tensor([[3, -1]]), head)
    torch.testing.assert_close(out.square().mean(-1), torch.ones(1, 2))
    torch.testing.assert_close(out[0, 0] / out[0, 0].norm(), head[3] / head[3].norm())
