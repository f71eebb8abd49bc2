"""Replay against the real loop: the same prompts of the shipped mini pair, token for token and pass for pass."""

import numpy as np
import pytest
import torch

from egptlib.decoding import FixedLength, ModelDrafter, Recorder, Sampler, as_drafter, read_prompt, speculative_decode
from egptlib.metrics import replay
from egptlib.models import Pair, load_pair
from egptlib.scenes import Scene
from egptlib.traces import Trace, TraceRow, trace_from_generations

LIMIT = 30
GAMMAS = (1, 4, 16)
QUESTIONS = ("What is this scene about?", "What are the key elements in this scene?", "How many lanes are there?")


def noise_scene(number: int) -> Scene:
    random = np.random.default_rng(number)
    return Scene(
        id=f"noise_{number}",
        sequence="noise",
        event_images=[random.integers(0, 256, (96, 96, 3), dtype=np.uint8) for _ in range(5)],
        frames=random.integers(0, 256, (8, 96, 96, 3), dtype=np.uint8),
        questions=QUESTIONS,
        answers=None,
        rendering="last",
        frame_sampling="even",
        frame_indices=tuple(range(8)),
        metadata={"events": "simulated", "load_seconds": 0.0},
    )


@pytest.fixture(scope="module")
def pair() -> Pair:
    return load_pair("mini")


@pytest.fixture(scope="module")
def prompts() -> list[tuple[Scene, str]]:
    return [(noise_scene(0), question) for question in QUESTIONS]


@pytest.fixture(scope="module")
def trace(pair: Pair, prompts: list[tuple[Scene, str]]) -> Trace:
    """One pass of the drafter along the target's own answer of each prompt."""
    rows = []
    for scene, question in prompts:
        ids = pair.target.greedy(scene, question, LIMIT).token_ids
        _, logits = pair.drafter.forward_answer(pair.drafter.encode(scene, question), ids)
        confidence = logits.float().softmax(dim=-1).amax(dim=-1)
        top = logits.argmax(dim=-1)
        rows.append(TraceRow(scene.id, question, ids.tolist(), top.tolist(), None, confidence.tolist()))
    return Trace(rows, end_token_ids=tuple(pair.drafter.eos_token_ids), max_new_tokens=LIMIT)


@pytest.mark.parametrize(("free", "min_confidence"), [(0, 0.0), (1, 0.0), (6, 0.7)])
def test_the_loop_does_what_replay_says(
    pair: Pair, prompts: list[tuple[Scene, str]], trace: Trace, min_confidence: float, free: int
) -> None:
    stops = trace.drafter_ends | (trace.values("confidence") < min_confidence)
    replayed = replay(trace.match, trace.lengths, GAMMAS, limit=LIMIT, free=free, stops=stops)
    assert any(k > 1 for k in replayed.histogram(16))  # something was accepted, or nothing is tested
    for s, (scene, question) in enumerate(prompts):
        for gamma in GAMMAS:
            recorder = Recorder()
            drafter = as_drafter(pair.drafter, pair.target)
            assert isinstance(drafter, ModelDrafter)
            state = read_prompt(pair.target, scene, question, recorder)
            drafter.start(scene, question, recorder)
            draft = drafter.propose([], free, Sampler()) if free else None
            found = speculative_decode(
                pair.target,
                state,
                drafter,
                gamma=FixedLength(gamma, min_confidence),
                max_new_tokens=LIMIT,
                recorder=recorder,
                draft=draft,
            )
            assert found.token_ids.tolist() == trace.rows[s].target_ids
            expected = replayed.rounds(s, gamma)
            assert [(r.accepted, r.gained) for r in found.rounds] == [(a, g) for _, a, g in expected]


def test_a_timed_run_leaves_a_trace(pair: Pair, prompts: list[tuple[Scene, str]]) -> None:
    scene, question = prompts[0]
    recorder = Recorder()
    drafter = as_drafter(pair.drafter, pair.target)
    state = read_prompt(pair.target, scene, question, recorder)
    drafter.start(scene, question, recorder)
    generation = speculative_decode(pair.target, state, drafter, gamma=3, max_new_tokens=LIMIT, recorder=recorder)
    (row,) = trace_from_generations([generation], [scene.id], [question], "gamma 3").rows
    assert torch.tensor(row.target_ids).equal(generation.token_ids)
    assert sum(row.rounds[1::2]) == sum(r.accepted for r in generation.rounds)
    assert row.total_seconds is not None and row.total_seconds >= sum(row.target_stages.values())
