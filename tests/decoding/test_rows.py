"""Ragged rows over shared beginnings compute what transformers' Llama computes for each row alone."""

import random
from typing import Any

import pytest
import torch

from egptlib.models import Prompt
from egptlib.models._rows import Rows

from .conftest import make_model


@pytest.mark.parametrize("biases", [False, True])
@torch.no_grad()
def test_rows_equal_each_alone(biases: bool) -> None:
    """Any counts, roll-backs, rows that leave or come later, buffers that grow, a scene that begins with nothing; fused
    and own."""
    chance, model = random.Random(1), make_model(0, layers=3)
    if biases:  # the lean pass refuses them
        for layer in model.module.model.layers:
            layer.self_attn.q_proj.bias = torch.nn.Parameter(torch.randn(32))
    rows, texts, starts = Rows(model, (1, 3)), dict[int, list[int]](), dict[int, int]()

    def add(length: int, own: list[int]) -> None:
        beginning = [chance.randrange(3, 24) for _ in range(length)]
        embeds = model.token_embedding(torch.tensor([beginning], dtype=torch.long))
        rows.add(model.prefill(Prompt(embeds)) if length else None, own)
        texts.update({row: list(beginning) for row in own})
        starts.update(dict.fromkeys(own, length))

    for length, own in ((0, [4, 1, 7]), (5, [0, 2]), (9, [3])):
        add(length, own)
    checked, left = 0, list[int]()
    for turn in range(12):
        if turn in (5, 9):
            add(turn, [10 * turn, left.pop()])  # a number may be used again
        many = 30 if turn == 8 else 1 if turn == 4 else 0
        counts = [many or (chance.randint(0, 4) if row != 2 or turn < 3 else 0) for row in rows.rows]
        new = [[chance.randrange(3, 24) for _ in range(count)] for count in counts]
        for row, tokens in zip(rows.rows, new, strict=True):
            texts[row] += tokens
        if not any(counts):
            continue
        flat = torch.tensor([token for tokens in new for token in tokens])
        read = rows.read(model.token_embedding(flat), counts).split(counts)
        for row, states in zip(rows.rows, read, strict=True):
            whole: Any = model.language_model(torch.tensor([texts[row] or [3]]), output_hidden_states=True)
            for place, expected in enumerate((whole.last_hidden_state, whole.hidden_states[1])):
                if len(states):
                    torch.testing.assert_close(states[:, place], expected[0, -len(states) :], atol=2e-5, rtol=2e-5)
                    checked += 1
        for row in rows.rows:
            if count := chance.randint(0, min(3, len(texts[row]) - starts[row])):
                rows.forget(row, count)
                del texts[row][-count:]
        if turn % 4 == 3:
            left.append(chance.choice(rows.rows))
            rows.drop(left[-1])
    assert checked > 60


def test_what_it_refuses() -> None:
    model = make_model(0)
    with pytest.raises(ValueError, match="has layers 1 to 2"):
        Rows(model, (3,))
    model.language_model = torch.nn.Linear(2, 2)
    with pytest.raises(ValueError, match="expected a plain Llama"):
        Rows(model)
