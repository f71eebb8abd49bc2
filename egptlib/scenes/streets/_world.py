"""What is in a procedural street: sampled once per sequence, moved in closed form.

World axes in metres: X right, Y up, Z along the street. The ego vehicle starts at Z = 0.
"""

from dataclasses import dataclass, field

import numpy as np

LANE_WIDTH = 3.4
SURROUNDINGS = ("city street", "residential street", "rural road")
TIMES_OF_DAY = ("day", "dusk", "night")
EGO_MOTIONS = ("stationary", "slow", "fast", "turning left", "turning right")
COLORS = {
    "red": (205, 35, 35),
    "blue": (35, 80, 205),
    "white": (235, 235, 235),
    "black": (28, 28, 32),
    "yellow": (235, 195, 25),
    "green": (45, 140, 60),
}
# width, height, length in metres
KINDS = {"car": (1.8, 1.45, 4.3), "van": (2.0, 2.2, 5.2), "truck": (2.5, 3.2, 8.0), "bus": (2.55, 3.0, 11.0)}
MOTIONS = (
    "driving ahead",
    "oncoming",
    "parked on the left",
    "parked on the right",
    "crossing to the left",
    "crossing to the right",
)


@dataclass
class Thing:
    """Anything with a place: a vehicle, a pedestrian, a house, a tree, a pole.

    `x, z` is the point of its footprint that is nearest to the camera (centre of the width for vehicles),
    at time 0; `vx, vz` its velocity in m/s; `size` is width, height, length.
    """

    kind: str
    x: float
    z: float
    size: tuple[float, float, float]
    color: tuple[float, float, float]
    color_name: str = ""
    motion: str = ""
    vx: float = 0.0
    vz: float = 0.0
    side: int = 0
    seed: int = 0


@dataclass
class World:
    """One street for one sequence. `things` are in no particular order."""

    seed: int
    surroundings: str
    time_of_day: str
    ego_motion: str
    lanes: int
    ego_x: float
    ego_speed: float
    yaw_rate: float
    phase: float
    things: list[Thing] = field(default_factory=list)

    @property
    def road_edge(self) -> float:
        return self.lanes * LANE_WIDTH / 2

    def ego_pose(self, t: float) -> tuple[float, float, float, float]:
        """Camera x, z in metres, yaw and pitch in radians at `t` seconds."""
        shake = 0.003 * np.sin(19 * t + self.phase) if self.ego_speed else 0.0
        if self.yaw_rate == 0:
            sway = 0.1 * (np.sin(0.9 * t + self.phase) - np.sin(self.phase)) if self.ego_speed else 0.0
            return self.ego_x + sway, self.ego_speed * t, 0.0, shake
        yaw = self.yaw_rate * t
        radius = self.ego_speed / self.yaw_rate
        return self.ego_x + radius * (1 - np.cos(yaw)), radius * np.sin(yaw), yaw, shake


def street_name(split: str, index: int) -> str:
    """Name of the sequence with this index."""
    return f"streets_{split}_{index:04d}"


def sample_world(seed: int, duration: float) -> World:
    """Draw a street; the same seed gives the same street.

    Facts that the answers tell are drawn independently of one another wherever the street allows it, so that
    none of them can be guessed from another.

    Args:
        seed: any non-negative integer.
        duration: seconds the sequence lasts; things are placed so that they come near within it.
    """
    rng = np.random.default_rng([20261122, seed])
    ego_motion = str(rng.choice(EGO_MOTIONS, p=[0.2, 0.25, 0.25, 0.15, 0.15]))
    speed = {"stationary": 0.0, "slow": rng.uniform(2.5, 5), "fast": rng.uniform(10, 14)}.get(
        ego_motion, rng.uniform(3, 5)
    )
    turn = {"turning left": -1.0, "turning right": 1.0}.get(ego_motion, 0.0)
    lanes = int(rng.choice([2, 3]))
    world = World(
        seed=seed,
        surroundings=str(rng.choice(SURROUNDINGS)),
        time_of_day=str(rng.choice(TIMES_OF_DAY, p=[0.4, 0.3, 0.3])),
        ego_motion=ego_motion,
        lanes=lanes,
        ego_x=LANE_WIDTH * (0.5 if lanes == 2 else 0.0),
        ego_speed=float(speed),
        yaw_rate=turn * float(rng.uniform(0.2, 0.32)),
        phase=float(rng.uniform(0, 2 * np.pi)),
    )
    _add_vehicles(world, duration, rng)
    _add_pedestrians(world, duration, rng)
    _add_surroundings(world, rng)
    return world


def _add_vehicles(world: World, duration: float, rng: np.random.Generator) -> None:
    travel = world.ego_speed * duration if world.yaw_rate == 0 else 0.0
    count = int(rng.choice(5, p=[0.12, 0.16, 0.24, 0.26, 0.22]))
    for motion in rng.permutation(MOTIONS)[:count]:
        kind = str(rng.choice(list(KINDS), p=[0.34, 0.22, 0.22, 0.22]))
        color = str(rng.choice(list(COLORS)))
        width, height, length = KINDS[kind]
        x, z, vx, vz = world.ego_x, 0.0, 0.0, 0.0
        if motion == "driving ahead":
            z, vz = rng.uniform(8, 17), max(world.ego_speed + rng.uniform(-1.0, 1.5), 1.5)
        elif motion == "oncoming":
            x, vz = world.ego_x - LANE_WIDTH, -rng.uniform(4, 8)
            z = rng.uniform(5, 14) + travel - vz * duration
        elif motion.startswith("parked"):
            side = -1 if motion.endswith("left") else 1
            x, z = side * (world.road_edge + 1.2), rng.uniform(7, 17) + 0.8 * travel
        else:
            side = -1 if motion.endswith("left") else 1
            vx = side * rng.uniform(3, 6)
            x, z = -vx * duration * rng.uniform(0.35, 0.65) + world.ego_x, rng.uniform(11, 20) + travel
            width, length = length, width
        vehicle = Thing(
            kind=kind,
            x=float(x),
            z=float(z),
            size=(width, height, length),
            color=COLORS[color],
            color_name=color,
            motion=str(motion),
            vx=float(vx),
            vz=float(vz),
        )
        if not any(_collide(vehicle, other, duration) for other in world.things):
            world.things.append(vehicle)


def _collide(a: Thing, b: Thing, duration: float, margin: float = 0.3) -> bool:
    """Whether two vehicles would drive through each other within the sequence."""
    t = np.linspace(0, duration, 21)
    apart = np.abs(a.x - b.x + (a.vx - b.vx) * t)
    gap = a.z + a.size[2] / 2 - b.z - b.size[2] / 2 + (a.vz - b.vz) * t
    beside = apart < (a.size[0] + b.size[0]) / 2 + margin
    level = np.abs(gap) < (a.size[2] + b.size[2]) / 2 + margin
    return bool((beside & level).any())


def _add_pedestrians(world: World, duration: float, rng: np.random.Generator) -> None:
    travel = world.ego_speed * duration if world.yaw_rate == 0 else 0.0
    for _ in range(int(rng.choice(3, p=[0.12, 0.3, 0.58]))):
        side = int(rng.choice([-1, 1]))
        walks = float(rng.choice([-1.3, 1.3]))
        clothes = str(rng.choice(list(COLORS)))
        world.things.append(
            Thing(
                kind="pedestrian",
                x=side * (world.road_edge + float(rng.uniform(2.6, 3.3))),
                z=float(rng.uniform(7, 13)) + 0.85 * travel,
                size=(0.55, 1.75, 0.4),
                color=COLORS[clothes],
                color_name=clothes,
                motion="walking",
                vz=walks,
                side=side,
                seed=int(rng.integers(1 << 30)),
            )
        )


def _add_surroundings(world: World, rng: np.random.Generator) -> None:
    edge = world.road_edge
    for side in (-1, 1):
        z = -12.0
        while z < 140:
            tone = np.clip(rng.uniform(80, 190) + rng.uniform(-25, 25, 3), 30, 230)
            if world.surroundings == "city street":
                kind, width, length, height, gap = "building", 6.0, rng.uniform(10, 22), rng.uniform(9, 20), 0.0
                x = side * (edge + 5.0)
            elif world.surroundings == "residential street":
                kind, width, length, height = "house", 6.0, rng.uniform(7, 11), rng.uniform(4.5, 6.5)
                gap, x = rng.uniform(3, 7), side * (edge + 8.0)
            else:
                kind, width, length, height = "tree", 2.0, 2.0, rng.uniform(5, 9)
                gap, x = rng.uniform(3, 10), side * (edge + rng.uniform(5, 9))
                tone = np.array([0.35, 1.0, 0.3]) * rng.uniform(70, 130)
            world.things.append(
                Thing(
                    kind=kind,
                    x=float(x),
                    z=z,
                    size=(width, float(height), float(length)),
                    color=(float(tone[0]), float(tone[1]), float(tone[2])),
                    side=side,
                    seed=int(rng.integers(1 << 30)),
                )
            )
            z += float(length + gap)
        z = float(rng.uniform(8, 16))
        while z < 100:
            world.things.append(
                Thing(kind="pole", x=side * (edge + 2.9), z=z, size=(0.14, 6.5, 0.14), color=(70, 70, 70))
            )
            z += float(rng.uniform(18, 30))
