"""Answers begun before their window closed: plain decoding's own, and nothing used before its time."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    CLIPVisionModel,
    LlamaConfig,
    PreTrainedTokenizerFast,
    VideoLlavaConfig,
    VideoLlavaForConditionalGeneration,
)

from egptlib.decoding import Draft, DrafterThread, Recorder, Sampler, Sampling, SequenceDrafter, Streamed, stream
from egptlib.decoding._prompts import FrameReader
from egptlib.models import Prompt, VideoModel
from egptlib.models._preprocess import Preprocessor
from egptlib.scenes import Scene, SensorClock, event_images

WORDS, QUESTION = 40, "t5 t6 t7"


class Hands:
    """A clock that moves when somebody sleeps, or is told to."""

    def __init__(self) -> None:
        self.time, self.sleeps = 100.0, 0

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.sleeps += 1
        self.time += seconds


class TimelyFrames:
    """Frames of which none can be had before its time."""

    def __init__(self, frames: np.ndarray, hands: Hands, times: Sequence[float]):
        self.frames, self.hands, self.times = frames, hands, times

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, item: slice) -> np.ndarray:
        last = range(len(self))[item][-1]
        assert self.hands.time - 100.0 >= self.times[last] - 1e-9, f"frame {last} was used too early"
        return self.frames[item]


class KnowingDrafter:
    """Drafts an answer with errors in it, another one at each look; keeps what it was shown."""

    name, device = "knowing", torch.device("cpu")

    def __init__(self, answer: list[int], errors: float, seed: int = 0):
        self.answer, self.errors, self.random = answer, errors, np.random.default_rng(seed)
        self.shown: list[Scene] = []

    def start(self, scene: Any, question: str, recorder: Recorder) -> None:
        self.shown.append(scene)

    def propose(self, answer: Sequence[int], count: int, sampler: Sampler, stop: Any = None) -> Draft:
        tokens = self.answer[len(answer) : len(answer) + count]
        wrong = self.random.random(len(tokens)) < self.errors
        tokens = [int(self.random.integers(3, WORDS)) if bad else t for t, bad in zip(tokens, wrong, strict=True)]
        return Draft(tokens, [1.0] * len(tokens))


def video_model(form: Any = "video", seed: int = 0) -> VideoModel:
    """Random weights, answers of many different tokens that depend on every frame."""
    torch.manual_seed(seed)
    text = LlamaConfig(
        vocab_size=WORDS + 3, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    vision = {
        "model_type": "clip_vision_model", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1,
        "num_attention_heads": 2, "image_size": 28, "patch_size": 14, "projection_dim": 16,
    }  # fmt: skip
    config = VideoLlavaConfig(
        text_config=text, vision_config=vision, image_token_index=WORDS, video_token_index=WORDS + 1,
        vision_feature_layer=-1,
    )  # fmt: skip
    module = VideoLlavaForConditionalGeneration(config).eval()
    with torch.no_grad():
        module.get_input_embeddings().weight.normal_()
        for name, parameter in module.model.language_model.layers.named_parameters():
            if "proj" in name:
                parameter.normal_(std=0.25)
        module.lm_head.weight.normal_(std=0.4)
        module.lm_head.weight[:2] = 0
        module.lm_head.weight[WORDS:] = 0
    names = {("</s>" if i == 2 else "<unk>" if i == 0 else f"t{i}"): i for i in range(WORDS)}
    plain = Tokenizer(models.WordLevel(names, unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=plain, eos_token="</s>", unk_token="<unk>")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>", "<video>", "<pad>"]})
    return VideoModel(module, tokenizer, Preprocessor.find([], 28), form)


def make_scene(seed: int = 0, **changes: Any) -> Scene:
    random = np.random.default_rng(seed)
    events = {
        "x": random.integers(0, 30, 900),
        "y": random.integers(0, 20, 900),
        "t": np.sort(random.integers(0, 1_000_000, 900)),
        "p": random.integers(0, 2, 900),
    }
    frames = random.integers(0, 256, (20, 20, 30, 3), dtype=np.uint8)
    frames[3:] = np.where(random.random((17, 1, 1, 1)) < 0.5, frames[3:], frames[2])  # some are alike
    scene = Scene.from_events(events, frames, QUESTION, event_views=5)
    return replace(scene, **{"metadata": {"clip": (20, 20.0), "start_us": 0}, **changes})


@pytest.fixture(scope="module", params=["video", "images"])
def target(request: pytest.FixtureRequest) -> VideoModel:
    return video_model(request.param)


def plain(target: VideoModel, scene: Scene, count: int) -> list[int]:
    return target.decode_greedy(target.start(scene, QUESTION), count)[0].tolist()


def run(target: VideoModel, drafter: Any, scene: Scene, hands: Hands | None = None, **options: Any) -> Streamed:
    hands = hands or Hands()
    clock = SensorClock(scene, options.pop("speed", 1.0), hands.now, hands.sleep)
    return stream(target, drafter, scene, QUESTION, clock=clock, **options)


def test_answers_are_plain_decodings_own(target: VideoModel) -> None:
    """Whatever is drafted, looked at and previewed."""
    gained, previews = 0, 0
    for trial in range(16):
        scene, count = make_scene(trial % 5), (1, 2, 13, 24)[trial % 4]
        own = plain(target, scene, count)
        drafter = None if trial % 8 == 7 else KnowingDrafter(own, errors=(0.0, 0.2, 0.6)[trial % 3], seed=trial)
        looks = [(0.6, 0.8), (), (0.3,), (0.5, 0.9, 1.0), (1.0,)][trial % 5]
        drawn = Sampling(top_k=1) if trial % 4 == 2 else None  # of one token: an answer is the greedy one
        options: Any = {"gamma": 1 + trial % 6, "max_new_tokens": count, "sampling": drawn}
        out = run(target, drafter, scene, looks=looks, preview=trial % 2 == 0, **options)
        assert out.token_ids.tolist() == own
        assert len(out.looks) == (len(looks) if looks else 0)
        gained += out.rounds[0].accepted if out.rounds else 0
        previews += bool(out.preview)
    assert gained > 20 and previews >= 4


def test_each_frame_is_seen_once_and_only_the_rest_is_read_at_the_end(
    target: VideoModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the last frame: its tokens, and the text after the frames."""
    scene, read = make_scene(), list[tuple[float, int]]()
    hands, prefill = Hands(), target.prefill

    def spy(prompt: Any, layers: Any = (), after: Any = None, whole: bool = False) -> Any:
        read.append((hands.time - 100, Prompt.of(prompt).embeds.shape[1] - (after.length if after else 0)))
        return prefill(prompt, layers, after, whole)

    monkeypatch.setattr(target, "prefill", spy)
    out = run(target, KnowingDrafter(plain(target, scene, 20), 0.3), scene, hands, max_new_tokens=20)
    seen = [event for event in out.events if event.stage == "vision"]
    assert len(seen) == 8
    inputs = target.encode(scene, QUESTION)
    places = (inputs.input_ids[0] == target._visual_id).nonzero()[:, 0]
    per_frame = len(places) // 8
    late = [count for time, count in read if time >= 0.95 - 1e-9]
    assert late == [inputs.input_ids.shape[1] - int(places[-per_frame])] and late[0] < 20
    at_frames = {round(time, 6): count for time, count in reversed(read)}  # the first one at each time
    assert [at_frames[time] for time in (0.1, 0.25, 0.4)] == [per_frame] * 3


def test_no_frame_or_event_is_used_before_its_time(target: VideoModel) -> None:
    """Frames tell when they are taken; a drafter is shown the same whatever events come later."""
    scene = make_scene(2)
    assert scene.stream is not None
    answer = plain(target, scene, 12)
    later = scene.stream["t"] >= 570_000
    poisoned = {key: np.where(later, 9 if key in "xy" else values, values) for key, values in scene.stream.items()}
    for events in (scene.stream, type(scene.stream)(poisoned)):
        hands = Hands()
        times = SensorClock(scene).frame_times.tolist()
        timely: Any = replace(scene, stream=events, frames=TimelyFrames(scene.frames, hands, times))  # type: ignore[arg-type]
        drafter = KnowingDrafter(answer, 0.5)
        out = run(target, drafter, timely, hands, looks=(0.6, 0.8), max_new_tokens=12)
        assert out.token_ids.tolist() == answer
        early, _ = drafter.shown
        assert early.stream is not None and early.stream["t"].max() < 570_000 and len(early.frames) == 5
        expected = event_images({key: values[~later] for key, values in scene.stream.items()}, 5)
        np.testing.assert_array_equal(np.stack(early.event_images), np.stack(expected))


def test_the_clock_is_waited_for_by_sleeping(target: VideoModel) -> None:
    hands, scene = Hands(), make_scene()
    out = run(target, None, scene, hands, speed=4.0, max_new_tokens=5)
    assert hands.sleeps <= 8 + 2  # one an arrival
    np.testing.assert_allclose(np.array(out.frames) - out.opened, SensorClock(scene).frame_times / 4)
    assert out.seconds_to_first == pytest.approx(0) and list(out.looks) == pytest.approx([100.1425, 100.19])


def test_previews_end_before_the_next_frame(target: VideoModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """A target whose passes take long: none begins that would not end in time, but for its first guess."""
    hands, scene, step = Hands(), make_scene(), target.step
    own = plain(target, scene, 30)

    def slow(*given: Any) -> Any:
        hands.time += 0.02
        return step(*given)

    monkeypatch.setattr(target, "step", slow)
    monkeypatch.setattr("egptlib._clock.time.perf_counter", hands.now)
    out = run(target, None, scene, hands, looks=(0.1,), max_new_tokens=30)
    assert out.token_ids.tolist() == own
    stamps = [event for event in out.events if event.stage == "preview"]
    assert len(stamps) >= 5
    vision = [event.start for event in out.events if event.stage == "vision"]
    np.testing.assert_allclose(vision, out.frames, atol=0.021)
    assert any(len(event.info["tokens"]) < 30 for event in stamps)


def test_a_preview_is_accepted_where_the_last_frame_changes_nothing() -> None:
    """It is the target's own answer, the last frame seen standing in for those to come."""
    target, scene = video_model(), make_scene()
    still = replace(scene, frames=np.repeat(scene.frames[:1], 8, axis=0))
    out = run(target, None, still, looks=(0.5,), max_new_tokens=20)
    assert list(out.preview) == out.token_ids.tolist() == plain(target, still, 20)
    assert [r.accepted for r in out.rounds] == [19]


def test_frames_are_seen_apart_as_in_the_clip(target: VideoModel) -> None:
    assert target.frames_apart
    scene = make_scene()
    together = target.encode_frames(target.encode(scene, QUESTION).pixel_values)
    reader = FrameReader(target, QUESTION, 8)
    clock = SensorClock(scene, now=lambda: 1e9)
    clock.origin = 0.0
    for index in range(8):
        reader.see(clock.frame(index), Recorder())
    prompt, settled = reader._prompt()
    torch.testing.assert_close(torch.cat([part.visual for part in reader._seen]), together, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(prompt.embeds, target.embed(target.encode(scene, QUESTION)), atol=1e-5, rtol=1e-5)
    assert settled == prompt.embeds.shape[1]


class TemporalTower(CLIPVisionModel):
    """Frames that depend on one another, as with LanguageBind's attention over time."""

    def forward(self, pixel_values: Any, *args: Any, **kwargs: Any) -> Any:
        return super().forward(pixel_values - pixel_values.mean(dim=0, keepdim=True), *args, **kwargs)


def test_a_tower_with_attention_over_time_reads_at_the_end_by_name() -> None:
    target, scene = video_model(), make_scene()
    target.module.model.video_tower = TemporalTower(target.module.config.vision_config).eval()
    own = plain(target, scene, 12)
    with pytest.warns(UserWarning, match="Video-LLaVA does not see its frames apart: it reads them when"):
        out = run(target, KnowingDrafter(own, 0.3), scene, max_new_tokens=12)
    assert out.token_ids.tolist() == own and not out.preview
    assert sum(event.stage == "vision" for event in out.events) == 1
    with pytest.raises(ValueError, match="Video-LLaVA: its frames are seen together"):
        target.joined([target.encode(scene, QUESTION)], 8, QUESTION)


@pytest.mark.parametrize("looks", [(0.8, 0.6), (0.0,), (1.2,), (0.5, 0.5)])
def test_wrong_looks_are_refused(looks: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="looks: expected increasing shares"):
        run(video_model(), SequenceDrafter(), make_scene(), looks=looks)


def test_a_drafter_needs_events_to_look_at() -> None:
    with pytest.raises(ValueError, match="scene scene: expected raw events"):
        run(video_model(), SequenceDrafter([4]), make_scene(stream=None))
    with pytest.raises(ValueError, match="max_new_tokens"):
        run(video_model(), None, make_scene(), max_new_tokens=0)


def test_a_drafter_that_has_finished_gives_its_core_back_before_the_window_closes(target: VideoModel) -> None:
    scene, hands, taken = make_scene(), Hands(), list[float]()

    class AtOnce(DrafterThread):
        def begin(self, scene: Any, question: str, limit: int) -> None:
            super().begin(scene, question, limit)
            self.wait()

        def take(self) -> Draft:
            taken.append(hands.time - 100.0)
            return super().take()

    own = plain(target, scene, 13)
    drafter = AtOnce(KnowingDrafter(own, errors=0.0), target.eos_token_ids)
    out = run(target, drafter, scene, hands, looks=(0.6,), preview=False, max_new_tokens=13)
    assert taken[0] < SensorClock(scene).length and out.token_ids.tolist() == own and out.rounds[0].accepted == 12
