"""Prefill hiding in seconds that are known: what overlapped, and what would fit on paper."""

import math

import pytest
import torch

from egptlib.decoding import Event, Generation, Round
from egptlib.measuring._hiding import Trial, _summary


def made_up(drafter: float, free: int, step: float, target: float, loop: float) -> Generation:
    """One model after the other: the drafter reads and drafts, the target reads, then the loop with another draft."""
    ahead, read = drafter + free * step, drafter + free * step + target
    events = [
        Event("drafter", "prefill", 0.0, drafter, {}),
        Event("drafter", "draft", drafter, ahead, {"drafted": free}),
        Event("target", "vision", ahead, ahead + target / 4, {}),
        Event("target", "prefill", ahead + target / 4, read, {}),
        Event("target", "verify", read, read + loop / 2, {"free": free}),
        Event("drafter", "draft", read + loop / 2, read + loop, {"drafted": 3}),
    ]
    return Generation(torch.tensor([1, 2]), "", [Round(free, 2, 3)], events)


@pytest.mark.parametrize("drafter", [1.0, 3.0, 9.0])
def test_the_overlap_on_paper_is_the_longer_of_the_two_and_the_rest(drafter: float) -> None:
    """The run in sequence with the shorter of both taken away is as long as the longer one and the loop."""
    free, step, target, loop = 4, 0.5, 5.25, 3.0
    alone, whole = made_up(drafter, free, step, target, loop), drafter + free * step + target + loop
    trials = [Trial(7.0, [1, 2], seconds, alone, whole + extra, alone) for seconds, extra in ((2, 1), (1, 0), (3, -1))]
    run = _summary("s", "q", trials)
    assert run.on_paper == pytest.approx(max(drafter + free * step, target) + loop)
    assert run.free_on_paper == max(0, math.floor((target - drafter) / step))  # steps that fit beside the target
    assert (run.in_sequence, run.overlapped, run.plain) == (whole, 2, 7.0)
    assert (run.free_tokens, run.free_accepted, run.identical) == (free, 2, True)
    assert run.target_alone == run.target_beside == target and run.drafter_alone == drafter + free * step
