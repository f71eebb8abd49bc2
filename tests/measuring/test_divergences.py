"""Greedy in low precision: every answer that parts from `generate`'s is listed, with the gap of the logits there."""

import pytest
import torch

from egptlib.decoding import as_drafter, speculative_generate
from egptlib.measuring import find_divergences
from tests.decoding.conftest import VOCAB, TextModel, make_model, plain


def test_what_parts_is_listed(target: TextModel) -> None:
    prompts = [([5, 9, 4, 7], "a"), ([8, 3], "b"), ([6, 6, 11], "c")]
    own = {question: plain(target, prompt, 9) for prompt, question in prompts}
    changed = dict(own, b=[*own["b"][:1], (own["b"][1] + 1) % VOCAB, *own["b"][2:]], c=own["c"][:2])
    methods = {"same": lambda _, question: own[question], "other": lambda _, question: changed[question]}
    found = find_divergences(target, methods, prompts, 9)
    assert found.prompts == 3 and found.tokens == sum(map(len, own.values())) == len(found.gaps)
    assert found.parted["same"] == []
    first, second = found.parted["other"]
    assert (first.question, first.at.position, first.at.token) == ("b", 1, changed["b"][1])
    assert (second.question, second.at.position, second.at.token, second.at.reference) == ("c", 2, None, own["c"][2])
    with torch.no_grad():
        for one, prompt in ((first, prompts[1][0]), (second, prompts[2][0])):
            ids = torch.tensor([[*prompt, *own[one.question][: one.at.position]]])
            best = target.module(ids).logits[0, -1].topk(2).values
            assert one.at.gap == pytest.approx(float(best[0] - best[1]), abs=1e-4)
            assert one.at.spacing == pytest.approx(float(torch.nextafter(best[0], best[0] + 1) - best[0]))
            assert found.gap_rank(one.at.gap + 1e-3) >= 1 / found.tokens
    assert found.gaps == sorted(found.gaps) and found.gap_rank(found.gaps[-1]) == 1
    assert found.to_dict()["parted"]["other"][0]["at"]["position"] == 1
    with pytest.raises(ValueError, match="at least one prompt"):
        find_divergences(target, methods, [])


def test_in_bfloat16_answers_part_only_at_near_ties() -> None:
    """40 prompts of a random model, whose logits are nearer to one another than a trained one's."""
    target = make_model(0, layers=3, name="target")
    target.module.to(torch.bfloat16)
    half = make_model(1, layers=3, like=make_model(0, layers=3), noise=0.15)
    half.module.to(torch.bfloat16)
    drafter = as_drafter(half, target)
    generator = torch.Generator().manual_seed(0)
    prompts = [(torch.randint(3, VOCAB, (5,), generator=generator).tolist(), "") for _ in range(40)]
    methods = {"speculative": lambda *prompt: speculative_generate(target, drafter, *prompt, max_new_tokens=20)}
    found = find_divergences(target, methods, prompts, 20)
    assert 0 < len(found.parted["speculative"]) < 40
    for one in found.parted["speculative"]:
        assert one.at.gap <= 8 * one.at.spacing
        assert one.at.spacing >= 2**-8
