"""Pictures of a street: polygons in perspective, painted from far to near, and who is visible where."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from egptlib.scenes.streets._world import KINDS, LANE_WIDTH, Thing, World

WIDTH, HEIGHT = 640, 480
FOCAL = 500.0
HORIZON = 215.0
CAMERA_HEIGHT = 1.5
_NEAR = 0.8
_FAR = 130.0
_CORNERS = 8  # polygons are padded to this many corners by repeating the last
_SHIFT = 3  # fractional bits of OpenCV's sub-pixel drawing
_BEHIND_SIDEWALK = ("building", "house", "tree")
_LIGHT = {"day": 1.0, "dusk": 0.62, "night": 0.3}
_SKY = {
    "day": ((120, 165, 215), (185, 205, 225)),
    "dusk": ((70, 65, 110), (225, 140, 90)),
    "night": ((8, 10, 22), (26, 28, 42)),
}


@dataclass
class _Polygon:
    corners: NDArray[np.float64]  # [corner, 3] relative to the thing's x, 0, z
    color: tuple[float, float, float]
    culled: bool = False  # hidden when its corners appear clockwise, for the faces of boxes
    shines: bool = False  # keeps its brightness at night
    nearer_than: float = 1e9  # left out farther away, where it is smaller than a pixel
    swing: float = 0.0  # metres along Z (walking) that the lower corners swing


class StreetRenderer:
    """Draws one world at any time.

    `frame(t)` gives the picture, `visible(t)` the visible pixels of every vehicle and pedestrian, occlusion
    included.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        things = world.things
        polygons: list[_Polygon] = []
        owners: list[int] = []
        for index, thing in enumerate(things):
            made = _POLYGONS.get(thing.kind, _vehicle)(thing, world.time_of_day != "day")
            polygons += made
            owners += [index] * len(made)
        light = _LIGHT[world.time_of_day]
        self._corners = np.stack([_pad(polygon.corners) for polygon in polygons])
        self._owner = np.array(owners)
        self._first = np.searchsorted(self._owner, np.arange(len(things) + 1))
        self._color = [
            tuple(float(c) * (1.0 if polygon.shines else light) for c in polygon.color) for polygon in polygons
        ]
        self._culled = np.array([polygon.culled for polygon in polygons])
        self._nearer_than = np.array([polygon.nearer_than for polygon in polygons])
        self._swing = np.array([polygon.swing for polygon in polygons])
        self._x = np.array([thing.x for thing in things])
        self._z = np.array([thing.z for thing in things])
        self._vx = np.array([thing.vx for thing in things])
        self._vz = np.array([thing.vz for thing in things])
        # what stands behind the sidewalk is painted before all that is on the street
        self._behind = np.array([1000.0 if thing.kind in _BEHIND_SIDEWALK else 0.0 for thing in things])
        self._middle = np.where(self._behind > 0, [thing.size[2] / 2 for thing in things], 0.0)
        self._ground = _ground_texture(world, light)
        self._sky = _sky(world.time_of_day)

    def frame(self, t: float) -> NDArray[np.uint8]:
        """uint8 [480, 640, 3] RGB at `t` seconds."""
        picture = np.empty((HEIGHT, WIDTH, 3), np.uint8)
        self._paint_ground(picture, t)
        for _, polygon, shape in self._shapes(t):
            cv2.fillConvexPoly(picture, shape, self._color[polygon], cv2.LINE_AA, _SHIFT)
        return picture

    def things_at(self, t: float) -> NDArray[np.int16]:
        """int16 [480, 640]: which of `world.things` each pixel shows, -1 for sky and ground."""
        ids = np.full((HEIGHT, WIDTH), -1, np.int16)
        for thing, _, shape in self._shapes(t):
            cv2.fillConvexPoly(ids, shape, thing, cv2.LINE_8, _SHIFT)
        return ids

    def visible(self, t: float) -> dict[int, tuple[int, float]]:
        """Visible pixels and distance in metres of each vehicle or pedestrian, by its index in `world.things`."""
        ids = self.things_at(t)
        counts = np.bincount(ids[ids >= 0].ravel(), minlength=len(self.world.things))
        camera_x, camera_z, *_ = self.world.ego_pose(t)
        distance = np.hypot(self._x + self._vx * t - camera_x, self._z + self._vz * t - camera_z)
        return {
            index: (int(counts[index]), float(distance[index]))
            for index, thing in enumerate(self.world.things)
            if (thing.kind in KINDS or thing.kind == "pedestrian") and counts[index] > 0
        }

    def _shapes(self, t: float):  # type: ignore[no-untyped-def]
        """Yield (thing, polygon, int32 [corner, 2] in sub-pixels), far things first."""
        camera_x, camera_z, yaw, pitch = self.world.ego_pose(t)
        cos, sin = np.cos(yaw), np.sin(yaw)
        x, z = self._x + self._vx * t - camera_x, self._z + self._vz * t - camera_z
        depth = sin * x + cos * (z + self._middle)
        corners = self._corners.copy()
        if self._swing.any():
            low = corners[:, :, 1] < 0.8
            corners[:, :, 2] += low * (self._swing * np.sin(9.5 * t + self._owner))[:, None]
        px = corners[:, :, 0] + x[self._owner, None]
        pz = corners[:, :, 2] + z[self._owner, None]
        view = np.stack([cos * px - sin * pz, corners[:, :, 1] - CAMERA_HEIGHT, sin * px + cos * pz], axis=-1)
        nearest, farthest = view[:, :, 2].min(1), view[:, :, 2].max(1)
        horizon = HORIZON + FOCAL * pitch
        scale = FOCAL / np.maximum(view[:, :, 2], _NEAR)
        u, v = view[:, :, 0] * scale + WIDTH / 2, horizon - view[:, :, 1] * scale
        area = (u * (np.roll(v, -1, 1) - np.roll(v, 1, 1))).sum(1)
        drawn = (farthest > _NEAR) & (nearest < _FAR) & (nearest < self._nearer_than)
        cut = drawn & (nearest < _NEAR)
        drawn &= cut | ((u.max(1) > -3) & (u.min(1) < WIDTH + 3) & ~(self._culled & (area > 0)))
        points = _subpixel(u, v)
        for thing in np.argsort(-depth - self._behind).tolist():
            first, last = self._first[thing], self._first[thing + 1]
            for polygon in np.flatnonzero(drawn[first:last]).tolist():
                polygon += first
                shape = points[polygon]
                if cut[polygon]:
                    clipped = _clip_near(view[polygon])
                    if len(clipped) < 3:
                        continue
                    u_c = clipped[:, 0] * FOCAL / clipped[:, 2] + WIDTH / 2
                    v_c = horizon - clipped[:, 1] * FOCAL / clipped[:, 2]
                    if self._culled[polygon] and (u_c * (np.roll(v_c, -1) - np.roll(v_c, 1))).sum() > 0:
                        continue
                    shape = _subpixel(u_c, v_c)
                yield thing, polygon, shape

    def _paint_ground(self, picture: NDArray[np.uint8], t: float) -> None:
        camera_x, camera_z, yaw, pitch = self.world.ego_pose(t)
        cos, sin = np.cos(yaw), np.sin(yaw)
        horizon = HORIZON + FOCAL * pitch
        depth = np.array([sin, cos, -(sin * camera_x + cos * camera_z)])
        across = np.array([cos, -sin, -(cos * camera_x - sin * camera_z)])
        ground_to_pixel = np.stack(
            [FOCAL * across + WIDTH / 2 * depth, horizon * depth + [0, 0, FOCAL * CAMERA_HEIGHT], depth]
        )
        near, far, metre, period = self._ground
        start = np.floor((camera_z - 12) / period) * period
        texture_to_ground = np.array([[metre, 0, -near.shape[1] * metre / 2], [0, metre, start], [0, 0, 1.0]])
        top = int(np.ceil(horizon)) + 1
        rows = np.array([[1.0, 0, 0], [0, 1, -top], [0, 0, 1]])
        matrix = rows @ ground_to_pixel @ texture_to_ground
        flags = {"flags": cv2.INTER_LINEAR, "borderMode": cv2.BORDER_REPLICATE}
        # a texel far away is smaller than a pixel: there the blurred texture stands in, or it would flicker
        band = 60
        sharp = cv2.warpPerspective(near, matrix, (WIDTH, HEIGHT - top), **flags)
        soft = cv2.warpPerspective(far, matrix, (WIDTH, band), **flags)
        blend = np.clip((np.arange(band, dtype=np.float32) - 25) / 35, 0, 1)[:, None, None]
        picture[: top + 1] = self._sky[: top + 1]
        picture[top:] = sharp
        picture[top : top + band] = (soft * (1 - blend) + sharp[:band] * blend).astype(np.uint8)


def _subpixel(u: NDArray, v: NDArray) -> NDArray[np.int32]:
    points = np.stack([u, v], axis=-1)
    return np.rint(np.clip(points, -4000, 4000) * (1 << _SHIFT)).astype(np.int32)


def _clip_near(corners: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cut a polygon at the near plane (Sutherland and Hodgman 1974, one plane)."""
    kept = []
    for a, b in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        if a[2] >= _NEAR:
            kept.append(a)
        if (a[2] >= _NEAR) != (b[2] >= _NEAR):
            kept.append(a + (b - a) * (_NEAR - a[2]) / (b[2] - a[2]))
    return np.array(kept)


def _pad(corners: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.concatenate([corners, np.repeat(corners[-1:], _CORNERS - len(corners), axis=0)])


def _upright(a: tuple[float, float], b: tuple[float, float], bottom: float, top: float) -> NDArray[np.float64]:
    """An upright rectangle over the ground line from a to b, both (x, z)."""
    return np.array([[a[0], bottom, a[1]], [b[0], bottom, b[1]], [b[0], top, b[1]], [a[0], top, a[1]]])


def _disc(x: float, y: float, z: float, radius: float, along: str) -> NDArray[np.float64]:
    """An octagon that stands across the street ("x") or along it ("z")."""
    angle = 2 * np.pi * np.arange(_CORNERS) / _CORNERS
    corners = np.full((_CORNERS, 3), (x, y, z))
    corners[:, 0 if along == "x" else 2] += radius * np.cos(angle)
    corners[:, 1] += radius * np.sin(angle)
    return corners


def _shade(color: tuple[float, ...], factor: float) -> tuple[float, float, float]:
    return color[0] * factor, color[1] * factor, color[2] * factor


def _vehicle(thing: Thing, dark: bool) -> list[_Polygon]:
    """A box with a cabin, windows, wheels, lights. Faces turned away are culled, so any pose is right."""
    width, height, length = thing.size
    sideways = thing.motion.startswith("crossing")
    x0, x1, z0, z1 = -width / 2, width / 2, 0.0, length
    belt = height * (0.56 if thing.kind == "car" else 0.94)
    glass, shadow = (48, 58, 70), (22, 22, 24)
    made = [_Polygon(np.array([[x0, 0.02, z0], [x1, 0.02, z0], [x1, 0.02, z1], [x0, 0.02, z1]]), shadow)]
    # going round counter-clockwise as seen from outside: near, right, far, left
    faces = [
        ((x0, z0), (x1, z0), 1.0),
        ((x1, z0), (x1, z1), 0.78),
        ((x1, z1), (x0, z1), 0.9),
        ((x0, z1), (x0, z0), 0.78),
    ]
    for index, (a, b, shade) in enumerate(faces):
        long_side = (index in (0, 2)) == sideways
        at = lambda share, a=a, b=b: (a[0] + share * (b[0] - a[0]), a[1] + share * (b[1] - a[1]))  # noqa: E731
        add = lambda s0, s1, y0, y1, color, at=at, **kw: made.append(  # noqa: E731
            _Polygon(_upright(at(s0), at(s1), y0, y1), color, culled=True, **kw)
        )
        add(0, 1, 0.25, belt, _shade(thing.color, shade))
        span = float(np.hypot(b[0] - a[0], b[1] - a[1]))
        if long_side:
            if thing.kind == "car":
                add(0.14, 0.82, belt, height, glass)
            elif thing.kind == "truck":
                add(0.70, 0.72, 0.25, belt, shadow)  # the gap between cab and box
                add(0.76, 0.94, height * 0.55, height * 0.85, glass)
            else:
                panes = 5 if thing.kind == "bus" else 2
                for pane in range(panes):
                    s0 = 0.05 + 0.9 * pane / panes if thing.kind == "bus" else 0.55 + 0.4 * pane / panes
                    s1 = s0 + (0.78 if thing.kind == "bus" else 0.34) / panes
                    add(s0, s1, height * 0.5, height * 0.84, glass)
            for share in (0.18, 0.80):
                x, z = at(share)
                wheel = _wind_like(_disc(x, 0.36, z, 0.36, "x" if sideways else "z"), made[-1].corners)
                made.append(_Polygon(wheel, shadow, culled=True))
        else:
            if thing.kind == "car":
                add(0.08, 0.92, belt, height, glass)
            elif thing.kind != "truck" or _is_front(thing, index):
                add(0.1, 0.9, height * 0.55, height * 0.86, glass)
            else:  # the doors of a box truck
                add(0.48, 0.52, 0.4, belt, _shade(thing.color, 0.6))
            add(0, 1, 0.25, 0.42, (45, 45, 48))
            lamp = (255, 245, 215) if _is_front(thing, index) else (225, 35, 30)
            for s0 in (0.05, 0.95 - 0.35 / span):
                add(s0, s0 + 0.35 / span, 0.6, 0.82, lamp, shines=thing.vx != 0 or thing.vz != 0)
            add(0.38, 0.62, 0.45, 0.57, (215, 215, 205), nearer_than=30.0)
    return made


def _is_front(thing: Thing, face: int) -> bool:
    """Whether a short face (0 near, 1 right, 2 far, 3 left) is the vehicle's front."""
    front = {"oncoming": 0, "crossing to the right": 1, "crossing to the left": 3}.get(thing.motion, 2)
    return face == front


def _wind_like(corners: NDArray[np.float64], face: NDArray[np.float64]) -> NDArray[np.float64]:
    """Order the corners so that their normal points the way the face's does."""

    def normal(p: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.cross(p[1] - p[0], p[2] - p[1])

    return corners if normal(corners) @ normal(face) > 0 else corners[::-1]


def _building(thing: Thing, dark: bool) -> list[_Polygon]:
    """A front along the street, a near end and a far end; rows of windows, some lit at night."""
    depth, height, length = thing.size
    rng = np.random.default_rng(thing.seed)
    made = [
        _Polygon(_upright((0, 0), (thing.side * depth, 0), 0, height), _shade(thing.color, 0.75)),
        _Polygon(_upright((0, 0), (0, length), 0, height), thing.color),
    ]
    if thing.kind == "house":
        roof = np.array([[0, height, 0], [thing.side * depth / 2, height + 1.8, 0], [thing.side * depth, height, 0.0]])
        made.append(_Polygon(roof, (120, 60, 45)))
        slope = np.array([[0, height, 0], [0, height, length], [1, 0, length], [1, 0, 0.0]])
        slope[2:, 0], slope[2:, 1] = thing.side * depth / 2, height + 1.8
        made.append(_Polygon(slope, (135, 70, 50)))
    columns, floors = max(1, int(length / 2.6)), max(1, int((height - 0.5) / 3.0))
    for column in range(columns):
        for floor in range(floors):
            lit = rng.random() < 0.25 and dark
            z0 = column * length / columns + 0.7
            made.append(
                _Polygon(
                    _upright((-thing.side * 0.02, z0), (-thing.side * 0.02, z0 + 1.2), 1 + floor * 3, 2.5 + floor * 3),
                    (160, 140, 80) if lit else _shade(thing.color, 0.35),
                    shines=lit,
                    nearer_than=50.0,
                )
            )
    return made


def _tree(thing: Thing, dark: bool) -> list[_Polygon]:
    rng = np.random.default_rng(thing.seed)
    height = thing.size[1]
    made = [_Polygon(_upright((-0.18, 1), (0.18, 1), 0, height * 0.5), (80, 62, 45))]
    for _ in range(8):
        x, y, radius = rng.uniform(-1.3, 1.3), rng.uniform(0.45, 1.0) * height, rng.uniform(0.7, 1.3)
        made.append(_Polygon(_disc(x, y, 1, radius, "x"), _shade(thing.color, rng.uniform(0.6, 1.1))))
    return made


def _pole(thing: Thing, dark: bool) -> list[_Polygon]:
    half, height, _ = thing.size
    return [
        _Polygon(_upright((-half / 2, 0), (half / 2, 0), 0, height), thing.color),
        _Polygon(_upright((0, 0), (-1.2 * np.sign(thing.x), 0), height - 0.15, height), thing.color),
    ]


def _pedestrian(thing: Thing, dark: bool) -> list[_Polygon]:
    """Legs that swing in step, a coat, a head; flat, facing the camera."""
    return [
        _Polygon(_upright((-0.2, 0), (-0.03, 0), 0.0, 0.88), (58, 48, 42), swing=0.35),
        _Polygon(_upright((0.03, 0.05), (0.2, 0.05), 0.0, 0.88), (48, 40, 36), swing=-0.35),
        _Polygon(_upright((-0.27, 0), (0.27, 0), 0.8, 1.48), thing.color),
        _Polygon(_disc(0, 1.63, 0, 0.14, "x"), (205, 160, 130)),
    ]


_POLYGONS = {
    "building": _building,
    "house": _building,
    "tree": _tree,
    "pole": _pole,
    "pedestrian": _pedestrian,
}


def _sky(time_of_day: str) -> NDArray[np.uint8]:
    top, bottom = (np.array(c, np.float32) for c in _SKY[time_of_day])
    share = np.linspace(0, 1, 260, dtype=np.float32)[:, None, None]
    return np.broadcast_to(top * (1 - share) + bottom * share, (260, WIDTH, 3)).astype(np.uint8)


def _ground_texture(world: World, light: float) -> tuple[NDArray[np.uint8], NDArray[np.uint8], float, float]:
    """The street from above, sharp and blurred; metres per texel; the length after which it repeats."""
    rng = np.random.default_rng([1, world.seed])
    metre, period, across = 0.05, 12.0, 30.0
    height, width = int(period / metre), int(across / metre)
    x = (np.arange(width) + 0.5) * metre - across / 2
    edge = world.road_edge
    texture = np.full((height, width, 3), 92, np.float32)
    texture[:, np.abs(x) > edge] = (122, 120, 116)
    verge = (125, 125, 122) if world.surroundings == "city street" else (78, 112, 62)
    texture[:, np.abs(x) > edge + 3.6] = verge
    texture += cv2.GaussianBlur(rng.normal(0, 26, (height, width)).astype(np.float32), (0, 0), 1.2)[..., None]
    texture[:, np.abs(np.abs(x) - edge) < 0.1] = 165
    for lane in range(1, world.lanes):
        texture[: height // 2, np.abs(x + edge - lane * LANE_WIDTH) < 0.08] = 225
    for line in (-edge + 0.3, edge - 0.3):
        texture[:, np.abs(x - line) < 0.07] = 215
    tiled = np.tile(np.clip(texture * light, 0, 255).astype(np.uint8), (int(np.ceil(180 / period)), 1, 1))
    return tiled, cv2.GaussianBlur(tiled, (0, 0), sigmaX=2, sigmaY=14), metre, period
