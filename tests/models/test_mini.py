"""The shipped mini pair: the real classes, small enough to ship, and it sees."""

import json

import numpy as np
import pytest
import torch

from egptlib.models import EventGPT, PairSettings, load_pair
from egptlib.models._pair_file import MINI_FOLDER
from egptlib.models.mini import _windows
from egptlib.models.mini._card import gains, measure_slots, render_card
from egptlib.models.mini._data import NO_VALUE, normalise, preprocessor, read_pairs, slot_labels
from egptlib.models.mini._sizes import DRAFTER_LAYERS, HIDDEN, TARGET_LAYERS, TARGET_SPECIALS, VOCAB_SIZE
from egptlib.models.mini._towers import SlotHead, TowerSettings, event_tokens, frame_tokens, train_tower
from egptlib.models.mini._windows import FIELDS, GRID, draw_window, load_windows, patch_labels
from egptlib.scenes import open_scenes
from egptlib.scenes.streets._answers import MOVING_SLOTS, SLOTS, slot_values
from egptlib.scenes.streets._make import FIRST_FREE_SEED, make_streets, street_at


@pytest.fixture(scope="module")
def pair():
    return load_pair("mini")


@pytest.fixture(scope="module")
def streets(tmp_path_factory):
    folder = make_streets(tmp_path_factory.mktemp("mini") / "streets_test_1s", "test", 3, seconds=1.5, workers=2)
    return open_scenes(folder, event_views=5)


def test_classes_and_sizes(pair):
    assert isinstance(pair.drafter.module, EventGPT)
    assert type(pair.target.module).__name__ == "VideoLlavaForConditionalGeneration"
    assert pair.drafter.hidden_size == pair.target.hidden_size == HIDDEN
    assert pair.drafter.module.config.num_hidden_layers == DRAFTER_LAYERS
    assert pair.target.module.config.text_config.num_hidden_layers == TARGET_LAYERS >= 4 * DRAFTER_LAYERS
    assert len(pair.vocabulary) == VOCAB_SIZE
    assert pair.target.vocab_size == VOCAB_SIZE + len(TARGET_SPECIALS)


def test_the_weights_are_at_most_25_mb():
    files = list(MINI_FOLDER.glob("*/model.safetensors"))
    assert len(files) == 2
    assert sum(file.stat().st_size for file in files) <= 25e6


def test_any_text_comes_back_from_the_tokenizer(pair):
    for text in ("a red car at dusk", "Zürich, 23 °C: naïve 事件相机 {x} \\n"):
        for model in (pair.drafter, pair.target):
            ids = model.tokenizer(text).input_ids
            assert ids[0] == model.tokenizer.bos_token_id
            assert model.decode_text(ids) == text.strip()


def test_the_card_is_made_from_its_figures():
    card = json.loads((MINI_FOLDER / "card.json").read_text())
    assert (MINI_FOLDER / "README.md").read_text() == render_card(card)


def test_the_card_proves_that_they_see():
    """The figures are those measured by `egptlib train-mini` on the test split (a slow test measures again)."""
    slots = json.loads((MINI_FOLDER / "card.json").read_text())["slots"]
    assert tuple(slots) == SLOTS
    target = gains(slots, "target")
    assert sum(target) / len(target) >= 0.25
    assert min(target) >= 0.10
    assert min(gains(slots, "drafter", MOVING_SLOTS)) >= 0.15
    assert abs(gains(slots, "drafter", ["colour"])[0]) <= 0.10


@pytest.mark.slow
def test_what_the_card_says_is_measured_again(tmp_path):
    folder = make_streets(tmp_path / "streets_test_1s", "test", 12, workers=2)
    labels = torch.full((1, len(SLOTS)), 0)
    again = measure_slots(PairSettings(), open_scenes(folder, event_views=5), labels)
    card = json.loads((MINI_FOLDER / "card.json").read_text())["slots"]
    for model in ("target", "drafter"):
        now, said = (sum(slots[slot][model] for slot in SLOTS) / len(SLOTS) for slots in (again, card))
        assert now == pytest.approx(said, abs=0.12)  # 36 windows of 12 sequences against 100 sequences


def test_answers_are_sentences_about_the_scene(pair, streets):
    scene = streets[0]
    for model in (pair.drafter, pair.target):
        answer = model.greedy(scene, scene.questions[2])
        assert answer.text.startswith("This is a driving scene on a ")
        assert int(answer.token_ids[-1]) == model.tokenizer.eos_token_id


def test_training_and_running_see_the_same_pixels(pair, streets):
    scene = streets[0]
    resized = torch.stack([torch.from_numpy(preprocessor().resized(frame).copy()) for frame in scene.frames])
    expected = pair.target.encode(scene, scene.questions[0]).pixel_values
    grey_level = 1 / (255 * min(preprocessor().image_std))  # training resizes with PIL, running with torch
    torch.testing.assert_close(normalise(resized)[None], expected, atol=1.001 * grey_level, rtol=0)
    assert ((normalise(resized)[None] - expected).abs() > 1e-5).float().mean() < 0.01


def test_tower_features_are_what_the_models_read(pair, streets):
    """Towers are trained through `last_hidden_state`; both models have to take just that."""
    scene = streets[0]
    inputs = pair.target.encode(scene, scene.questions[0])
    module = pair.target.module.model
    with torch.no_grad():
        features = module.video_tower(inputs.pixel_values[0]).last_hidden_state
        expected = module.multi_modal_projector(frame_tokens(features[None]))[0]
        torch.testing.assert_close(pair.target.encode_frames(inputs.pixel_values), expected, atol=1e-5, rtol=1e-4)
        drafter = pair.drafter.module
        pixels = pair.drafter.encode(scene, scene.questions[0]).pixel_values
        features = drafter.visual_tower(pixels).last_hidden_state
        expected = event_tokens(drafter.feature_adaptor(drafter.visual_projector(features)))
        torch.testing.assert_close(drafter.encode_events(pixels), expected, atol=1e-5, rtol=1e-4)


def test_a_drawn_window_is_what_a_written_cut_and_read_sequence_shows(streets):
    for scene in streets:
        index, start = int(scene.sequence.split("_")[-1]), scene.metadata["start_us"]
        renderer, seconds = street_at(scene.sequence, start, 1.5)
        drawn = draw_window(renderer.world.seed, seconds, 1.5)
        resized = np.stack([preprocessor().resized(frame) for frame in scene.frames])
        difference = np.abs(resized.astype(int) - drawn["frames"])
        assert difference.mean() < 2  # of 255: what H.264 changes
        assert np.percentile(difference, 99.9) < 25
        assert read_pairs(drawn["questions_answers"][None])[0] == list(zip(scene.questions, scene.answers, strict=True))
        assert drawn["labels"].tolist() == slot_labels(scene.metadata["slots"])
        assert index < FIRST_FREE_SEED and renderer.world.seed < FIRST_FREE_SEED


@pytest.mark.slow
def test_windows_are_drawn_once_and_a_longer_set_begins_with_the_shorter(tmp_path, monkeypatch):
    monkeypatch.setattr(_windows, "_IN_A_FILE", 2)
    few = load_windows(3, tmp_path)
    first = sorted(tmp_path.iterdir())
    written = [file.stat().st_mtime_ns for file in first]
    more = load_windows(5, tmp_path)
    assert (len(few), len(more), len(first), len(list(tmp_path.iterdir()))) == (3, 5, 2, 3)
    assert [file.stat().st_mtime_ns for file in first] == written
    assert torch.equal(more.frames[:3], few.frames) and torch.equal(more.patches[:3], few.patches)
    assert more.questions_answers[:3] == few.questions_answers
    assert len({frames.numpy().tobytes() for frames in more.frames}) == 5


def test_patch_labels_say_what_fills_a_patch():
    from egptlib.scenes.streets._world import COLORS, KINDS, MOTIONS, Thing

    bus = Thing("bus", 0, 9, KINDS["bus"], COLORS["red"], color_name="red", motion="oncoming")
    walker = Thing("pedestrian", 3, 9, (0.5, 1.7, 0.4), COLORS["blue"], color_name="blue")
    things_at = np.full((480, 640), -1, np.int16)
    things_at[:80, :107] = 0  # the first patch
    things_at[-20:, -12:] = 1  # a corner of the last
    labels = patch_labels(things_at, [bus, walker]).reshape(GRID, GRID, len(FIELDS))
    assert labels[0, 0].tolist() == [4, 1, 1 + MOTIONS.index("oncoming"), 0]
    assert labels[-1, -1].tolist() == [0, 0, 0, 1]
    assert labels.sum() == labels[0, 0].sum() + 1


@pytest.mark.slow
def test_a_tower_learns_and_repeats_itself():
    """Brightness tells one slot: a few steps find it, and the same seed finds the same weights."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.full((48, len(SLOTS)), NO_VALUE)
    labels[:, SLOTS.index("lanes")] = torch.arange(48) % 2
    for slot in ("time of day", "surroundings", "ego motion", "vehicle count", "pedestrian count", "kind", "colour"):
        labels[:, SLOTS.index(slot)] = 0
    labels[:, SLOTS.index("direction")] = 0
    pictures = torch.randint(0, 60, (48, 1, 96, 96, 3), generator=generator, dtype=torch.uint8)
    pictures[1::2] += 150
    patches = torch.zeros(48, 1, GRID * GRID, len(FIELDS), dtype=torch.long)
    settings = TowerSettings(pictures=(0,), epochs=6)
    made = [
        train_tower(pictures, labels, patches, frame_tokens, settings, (pictures, labels), "test") for _ in range(2)
    ]
    assert made[0][1][-1]["lanes"] == 1.0
    for a, b in zip(made[0][0].parameters(), made[1][0].parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_slot_head_has_one_answer_per_slot():
    values = SlotHead(10, 128)(torch.randn(3, 10, 128))
    assert [tuple(v.shape) for v in values] == [(3, len(slot_values(slot))) for slot in SLOTS]
