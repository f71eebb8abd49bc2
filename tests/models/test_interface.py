"""The one interface: what it computes equals one plain pass, and its greedy decoding equals transformers' own."""

import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from egptlib._clock import Recorder, stage_seconds
from egptlib.models import EventModel, Model, Pair

QUESTION = "What moves?"


@pytest.fixture(params=["drafter", "target"])
def model(request: pytest.FixtureRequest, pair: Pair) -> Model:
    return getattr(pair, request.param)


def plain_pass(model: Model, scene: Any, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Hidden states and logits of prompt + ids in one pass through the whole transformers model."""
    inputs = model.encode(scene, QUESTION)
    whole = torch.cat([inputs.input_ids, ids[None]], dim=1)
    pixels = "pixel_values" if isinstance(model, EventModel) else "pixel_values_videos"
    with torch.no_grad():
        out = model.module(input_ids=whole, **{pixels: inputs.pixel_values}, output_hidden_states=True)
    return out.hidden_states[-1], out.logits


def test_prefill_step_and_rollback_equal_one_pass(model: Model, scene: Any) -> None:
    ids = torch.tensor([7, 40, 41, 42, 9])
    hidden, logits = plain_pass(model, scene, ids)
    length = hidden.shape[1] - len(ids)

    state = model.prefill(model.encode(scene, QUESTION))
    assert state.length == length == state.cache.get_seq_length()
    torch.testing.assert_close(state.hidden, hidden[:, length - 1 : length], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(state.logits, logits[:, length - 1], atol=1e-4, rtol=1e-4)

    model.step(torch.tensor([[50, 51, 52]]), state)  # a draft that is rejected
    model.rollback(state, length)
    one = model.step(ids[None, :1], state)
    many = model.step(ids[None, 1:], state)
    assert state.length == length + 5 == state.cache.get_seq_length()
    torch.testing.assert_close(torch.cat([one.logits, many.logits], 1), logits[:, length:], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(torch.cat([one.hidden, many.hidden], 1), hidden[:, length:], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(state.logits, many.logits[:, -1])

    model.rollback(state, length + 2)
    again = model.step(ids[None, 2:], state)
    torch.testing.assert_close(again.logits, many.logits[:, 1:], atol=1e-4, rtol=1e-4)
    model.rollback(state, state.length)  # nothing to forget
    assert state.cache.get_seq_length() == length + 5
    for wrong in (-1, state.length + 1):
        with pytest.raises(ValueError, match="rollback: expected a length between 0 and"):
            model.rollback(state, wrong)


def test_greedy_equals_transformers_generate(model: Model, scene: Any) -> None:
    answer = model.greedy(scene, QUESTION, max_new_tokens=24)
    with torch.no_grad():
        given = model.generate_inputs(model.encode(scene, QUESTION))
    expected = model.module.generate(**given, do_sample=False, max_new_tokens=24)[0]
    assert torch.equal(answer.token_ids, expected)
    assert len(set(answer.token_ids.tolist())) > 3  # not one token for ever
    assert answer.text == model.tokenizer.decode(expected, skip_special_tokens=True).strip()


def test_decoding_stops_at_the_end_token(model: Model, scene: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = model.greedy(scene, QUESTION, max_new_tokens=12).token_ids.tolist()
    end = whole[5]
    monkeypatch.setattr(model, "eos_token_ids", frozenset([end]))
    stopped = model.greedy(scene, QUESTION, max_new_tokens=12)
    assert stopped.token_ids.tolist() == whole[: whole.index(end) + 1]
    assert stopped.hidden.shape == (len(stopped.token_ids), model.hidden_size)
    nothing = model.greedy(scene, QUESTION, max_new_tokens=0)
    assert nothing.token_ids.tolist() == []
    assert nothing.hidden.shape == (0, model.hidden_size)
    assert nothing.text == ""


def test_reading_the_answer_at_once_equals_having_written_it(model: Model, scene: Any) -> None:
    answer = model.greedy(scene, QUESTION, max_new_tokens=15)
    hidden, logits = model.forward_answer(model.encode(scene, QUESTION), answer.token_ids)
    assert logits.shape == (len(answer.token_ids), model.vocab_size)
    assert torch.equal(logits.argmax(dim=-1), answer.token_ids)
    torch.testing.assert_close(hidden, answer.hidden, atol=1e-4, rtol=1e-4)
    single, _ = model.forward_answer(model.encode(scene, QUESTION), [3])
    torch.testing.assert_close(single[0], answer.hidden[0], atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match="at least one token"):
        model.forward_answer(model.encode(scene, QUESTION), [])


def test_further_questions_reuse_the_pictures(model: Model, scene: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    first = model.encode(scene, "What moves?")
    model.prefill(first)
    afresh = model.prefill(model.encode(scene, "Which colour?")).logits

    def refuse(*_: Any) -> None:
        raise AssertionError("the tower ran again")

    monkeypatch.setattr(model, "encode_frames" if hasattr(model, "encode_frames") else "preprocessor", refuse)
    monkeypatch.setattr(model, "preprocessor", refuse)
    if isinstance(model, EventModel):
        monkeypatch.setattr(model.module, "encode_events", refuse)
    reused = model.encode(scene, "Which colour?", like=first)
    torch.testing.assert_close(model.prefill(reused).logits, afresh)


def test_what_it_says_about_itself(pair: Pair) -> None:
    assert (pair.drafter.hidden_size, pair.target.hidden_size) == (64, 64)
    assert (pair.drafter.vocab_size, pair.target.vocab_size) == (300, 303)
    for model in (pair.drafter, pair.target):
        assert model.eos_token_ids == {2}
        assert model.dtype == torch.float32
        assert model.device == torch.device("cpu")
        x = torch.randn(2, 64)
        assert torch.equal(model.lm_head(x), x @ model.lm_head.weight.T)
        assert model.final_norm is model.language_model.norm
        assert not model.module.training


def test_stage_times(model: Model, scene: Any) -> None:
    start = time.perf_counter()
    times = model.greedy(scene, QUESTION, max_new_tokens=5).times
    elapsed = time.perf_counter() - start
    assert tuple(times) == ("load", "preprocess", "vision", "prefill", "decode")
    assert times["load"] == 0.25
    measured = [seconds for stage, seconds in times.items() if stage != "load"]
    assert all(seconds > 0 for seconds in measured)
    assert 0.5 * elapsed < sum(measured) <= elapsed


def test_the_clock_adds_up_and_keeps_time_of_what_fails() -> None:
    recorder, device = Recorder(), torch.device("cpu")
    for _ in range(2):
        with recorder("target", "decode", device):
            time.sleep(0.01)
    with pytest.raises(KeyError), recorder("target", "verify", device) as info:
        info["drafted"] = 3
        time.sleep(0.01)
        raise KeyError
    seconds = stage_seconds(recorder.events)
    assert list(seconds) == [("target", "decode"), ("target", "verify")]
    assert seconds["target", "decode"] >= 0.02 and seconds["target", "verify"] >= 0.01
    assert recorder.events[-1].info == {"drafted": 3}


def test_event_streams(pair: Pair) -> None:
    drafter = pair.drafter
    assert isinstance(drafter, EventModel)
    random = np.random.default_rng(2)
    n = 500
    events: dict[str, np.ndarray] = {
        "x": random.integers(0, 40, n).astype(np.uint16),
        "y": random.integers(0, 30, n).astype(np.uint16),
        "t": np.sort(random.integers(0, 150_000, n)),
        "p": random.integers(0, 2, n).astype(np.uint8),
    }
    events["t"][[0, -1]] = 0, 150_000
    assert drafter.encode_stream(events, QUESTION, num_images=3).pixel_values.shape == (3, 3, 28, 28)
    assert drafter.encode_stream(events, QUESTION, max_duration_ms=150.1).pixel_values.shape[0] == 5
    with pytest.raises(ValueError, match=r"less than 100 ms, found 150\.0 ms"):
        drafter.encode_stream(events, QUESTION, max_duration_ms=100)

    from egptlib.scenes import event_images

    as_images = SimpleNamespace(event_images=event_images(events, n=3))
    expected = drafter.encode(as_images, QUESTION)
    assert torch.equal(drafter.encode_stream(events, QUESTION, num_images=3).pixel_values, expected.pixel_values)
    turned = {key: values[::-1] for key, values in events.items()}
    assert torch.equal(drafter.encode_stream(turned, QUESTION, num_images=3).pixel_values, expected.pixel_values)
