"""The procedural streets: deterministic, honest about what is visible, and told so that it can be read back."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from egptlib.scenes import QUESTIONS, event_images, open_scenes
from egptlib.scenes.streets._answers import (
    SLOT_QUESTIONS,
    SLOTS,
    Facts,
    Vehicle,
    answers,
    read_slots,
    slot_values,
    slots,
)
from egptlib.scenes.streets._make import MIN_PIXELS, make_streets, window_facts, with_events
from egptlib.scenes.streets._render import HEIGHT, WIDTH, StreetRenderer
from egptlib.scenes.streets._world import COLORS, KINDS, MOTIONS, Thing, World, sample_world


def world_with(*things: Thing) -> World:
    settings: dict = {
        "seed": 3,
        "surroundings": "rural road",
        "time_of_day": "day",
        "ego_motion": "stationary",
        "lanes": 3,
        "ego_x": 0.0,
        "ego_speed": 0.0,
        "yaw_rate": 0.0,
        "phase": 0.0,
    }
    return World(**settings, things=list(things))


def vehicle(kind: str, x: float, z: float, motion: str = "driving ahead", color: str = "red") -> Thing:
    return Thing(kind, x, z, KINDS[kind], COLORS[color], color_name=color, motion=motion)


def test_every_combination_of_facts_is_read_back_from_its_answers():
    rng = np.random.default_rng(0)
    for kind, color, motion in itertools.product(KINDS, COLORS, MOTIONS):
        others = tuple(
            Vehicle(str(rng.choice(list(KINDS))), str(rng.choice(list(COLORS))), str(rng.choice(MOTIONS)))
            for _ in range(rng.integers(0, 4))
        )
        facts = Facts(
            surroundings=str(rng.choice(slot_values("surroundings"))),
            time_of_day=str(rng.choice(slot_values("time of day"))),
            ego_motion=str(rng.choice(slot_values("ego motion"))),
            lanes=int(rng.choice([2, 3])),
            vehicles=(Vehicle(kind, color, motion), *others),
            pedestrians=int(rng.integers(0, 3)),
        )
        told = {pair["question"]: pair["answer"] for pair in answers(facts)}
        assert tuple(told) == QUESTIONS
        assert read_slots(told) == slots(facts)


def test_an_empty_street_has_no_nearest_vehicle():
    facts = Facts("city street", "dusk", "fast", 2, (), 0)
    told = read_slots({pair["question"]: pair["answer"] for pair in answers(facts)})
    assert told == slots(facts)
    assert {"kind", "colour", "direction"}.isdisjoint(told)


def test_the_slot_questions_are_enough():
    facts = Facts("city street", "day", "slow", 3, (Vehicle("bus", "red", "oncoming"),), 1)
    told = {p["question"]: p["answer"] for p in answers(facts)}
    asked = {QUESTIONS[number]: told[QUESTIONS[number]] for number in SLOT_QUESTIONS}
    assert set(read_slots(asked)) == set(SLOTS)


def test_a_hidden_vehicle_does_not_count():
    bus, car = vehicle("bus", 0.0, 8.0), vehicle("car", 0.0, 25.0)
    alone = StreetRenderer(world_with(car)).visible(0.0)
    behind = StreetRenderer(world_with(bus, car)).visible(0.0)
    assert alone[0][0] > MIN_PIXELS
    assert 1 not in behind or behind[1][0] < MIN_PIXELS


def test_visible_pixels_are_those_that_the_vehicle_changes():
    """Counting ids agrees with painting the street with and without the vehicle."""
    car = vehicle("car", 1.0, 12.0)
    painted = StreetRenderer(world_with(car)).frame(0.0).astype(int)
    empty = StreetRenderer(world_with(vehicle("car", 1.0, -50.0))).frame(0.0).astype(int)
    changed = int((np.abs(painted - empty).sum(axis=2) > 12).sum())
    counted = StreetRenderer(world_with(car)).visible(0.0)[0][0]
    assert counted == pytest.approx(changed, rel=0.08)


def test_perspective_of_a_known_box():
    """A car of 1.8 m at 10 m is 500 * 1.8 / 10 = 90 pixels wide."""
    renderer = StreetRenderer(world_with(vehicle("car", 0.0, 10.0, color="red")))
    picture = renderer.frame(0.0).astype(int)
    red = (picture[..., 0] > 150) & (picture[..., 1] < 80)
    columns = np.flatnonzero(red.any(axis=0))
    assert columns[-1] - columns[0] + 1 == pytest.approx(90, abs=3)
    assert (columns[0] + columns[-1]) / 2 == pytest.approx(WIDTH / 2, abs=2)
    assert picture.shape == (HEIGHT, WIDTH, 3)


def test_a_window_counts_what_is_visible_half_of_the_time():
    world = world_with(vehicle("car", 0, 10), vehicle("van", 3, 20, color="blue"))
    seen: dict[float, dict[int, float]] = {0: {0: 9.0, 1: 20.0}, 250: {0: 10.0}, 500: {0: 11.0, 1: 19.0}}
    seen |= {750: {0: 12.0}, 1000: {1: 2.0}}
    facts = window_facts(world, seen, 0, 1000)
    assert [v.kind for v in facts.vehicles] == ["car", "van"]
    seen[500].pop(1)
    assert [v.kind for v in window_facts(world, seen, 0, 1000).vehicles] == ["car"]


def test_vehicles_do_not_drive_through_each_other():
    for seed in range(40):
        cars = [t for t in sample_world(seed, 2.0).things if t.kind in KINDS]
        for a, b in itertools.combinations(cars, 2):
            for t in np.linspace(0, 2, 41):
                apart = abs(a.x + a.vx * t - b.x - b.vx * t) >= (a.size[0] + b.size[0]) / 2
                behind = a.z + a.vz * t >= b.z + b.vz * t + b.size[2]
                before = b.z + b.vz * t >= a.z + a.vz * t + a.size[2]
                assert apart or behind or before, (seed, t, a, b)


@pytest.fixture(scope="module")
def streets(tmp_path_factory):
    return make_streets(tmp_path_factory.mktemp("s") / "streets_test_1s", "test", 1, seconds=1.5, workers=1)


def test_streets_open_as_any_folder_does(streets):
    scenes = open_scenes(streets, event_views=5)
    assert len(scenes) == 2
    scene = scenes[0]
    assert scene.frames.shape == (8, HEIGHT, WIDTH, 3)
    assert len(scene.event_images) == 5
    assert scene.questions == QUESTIONS
    assert scene.metadata["events"] == "simulated"
    assert scene.answers is not None
    told = dict(zip(scene.questions, scene.answers, strict=True))
    assert read_slots(told) == scene.metadata["slots"]


def test_the_same_seed_gives_the_same_bytes(streets, tmp_path):
    again = make_streets(tmp_path / "streets_test_1s", "test", 1, seconds=1.5, workers=1)
    for pattern in ("*.json", "event_image/*/*.png"):
        first, second = sorted(streets.glob(pattern)), sorted(again.glob(pattern))
        assert first and [p.read_bytes() for p in first] == [p.read_bytes() for p in second]


def test_the_events_of_a_window_are_simulated_again(streets):
    scene = open_scenes(streets, event_views=5)[0]
    again = with_events(scene, seconds=1.5)
    stream = again.events() if again else None
    assert again is not None and stream is not None
    assert with_events(again) is again and with_events(replace(scene, sequence="drive")) is None
    assert len(stream["t"]) == scene.metadata["num_events"]
    for image, own in zip(event_images(stream, 5), scene.event_images, strict=True):
        np.testing.assert_array_equal(image, own)


def test_splits_share_no_world():
    assert sample_world(0, 2.0).things[0].x != sample_world(1_000_000, 2.0).things[0].x


@pytest.mark.parametrize(("split", "count", "message"), [("val", 1, "split"), ("test", 0, "num_sequences")])
def test_wrong_settings_are_refused(tmp_path, split, count, message):
    with pytest.raises(ValueError, match=message):
        make_streets(tmp_path / "s", split, count)
