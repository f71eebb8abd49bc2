"""One scene as both models see it: event images beside the frames, the question and both answers below."""

import math
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from egptlib.figures._basic import _quick_figure, _styled
from egptlib.figures._style import DOUBLE_COLUMN, DRAFTER_COLOR, NEUTRAL_COLOR, TARGET_COLOR

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from egptlib.scenes import Scene

# Inches.
_EDGE, _HEAD, _GAP, _LINE, _PARAGRAPH = 0.02, 0.38, 0.14, 0.155, 0.05
_WIDEST_TILE = 240  # pixels; a tile is about an inch wide, and pages show it with two pixels a point
_GUTTER = 0.03  # of a tile's width


@_styled
def scene_figure(
    scene: "Scene", question: str, drafter_text: str, target_text: str, reference: str | None = None
) -> "Figure":
    """One scene as both models see it: event image(s) beside the frames, the question and both answers under them."""
    lines = [
        ("asked", question, NEUTRAL_COLOR),
        ("drafter", drafter_text, DRAFTER_COLOR),
        ("target", target_text, TARGET_COLOR),
    ]
    if reference:
        lines.append(("truth", reference, "#000000"))
    texts = [(label, textwrap.wrap(_printable(text) or "(says nothing)", 104), color) for label, text, color in lines]
    words = sum(_LINE * len(wrapped) + _PARAGRAPH for _, wrapped, _ in texts)
    figure = _draw_pictures(scene, 0.1 + words)
    total, top = figure.get_figheight(), words
    for label, wrapped, color in texts:
        figure.text(0.005, top / total, label, color=color, fontsize=8, fontweight="bold", va="top")
        figure.text(0.085, top / total, "\n".join(wrapped), fontsize=8, va="top", linespacing=1.3, parse_math=False)
        top -= _LINE * len(wrapped) + _PARAGRAPH
    return figure


@_styled
def scene_pictures_figure(scene: "Scene") -> "Figure":
    """The upper part of `scene_figure`, for an explorer that has the answers beside it: only pictures and heads."""
    return _draw_pictures(scene, 0.0)


def _draw_pictures(scene: "Scene", below: float) -> "Figure":
    """A new figure with event images and frames, and `below` inches of paper under them.

    Above the event images stands whether their events were recorded or simulated, and in which order they were drawn.
    An explorer draws this at each move, so everything is placed by hand: two pictures, and no automatic layout.
    """
    views, frames = list(scene.event_images), list(scene.frames)
    drafter_columns = math.ceil(len(views) / 2) if len(views) > 1 else 2  # one image is as large as four
    target_columns = math.ceil(len(frames) / 2)
    tile = (DOUBLE_COLUMN - _GAP - 2 * _EDGE) / (drafter_columns + target_columns)
    height, width = frames[0].shape[:2]
    pictures = 2 * tile * height / width
    total = _HEAD + pictures + below
    figure = _quick_figure(DOUBLE_COLUMN, total)
    origin = scene.metadata.get("events")
    events = f"{origin} events" if origin in ("recorded", "simulated") else "events of unknown origin"
    order = {"last": "last event wins", "polarity": "positive, then negative"}.get(scene.rendering, "as stored")
    sampling = {"even": "evenly spaced", "first": "the first"}.get(scene.frame_sampling, scene.frame_sampling)
    of = f"{len(frames)} frames of {scene.sequence or scene.id}"
    sides = (
        (
            f"Drafter: {events}\n{order}",
            DRAFTER_COLOR,
            views,
            drafter_columns if len(views) > 1 else 1,
            drafter_columns,
        ),
        (f"Target: {of}\n{sampling}", TARGET_COLOR, frames, target_columns, target_columns),
    )
    left = _EDGE
    for head, color, images, columns, tiles_wide in sides:
        inches = tiles_wide * tile
        middle = (left + inches / 2) / DOUBLE_COLUMN
        figure.text(middle, 1 - _EDGE / total, head, color=color, fontsize=8, ha="center", va="top", parse_math=False)
        box = (left / DOUBLE_COLUMN, below / total, inches / DOUBLE_COLUMN, pictures / total)
        _draw_tiles(figure.add_axes(box), images, columns)
        left += inches + _GAP
    return figure


def _printable(text: str) -> str:
    """Return the text without what no font can draw: an untrained model writes control characters."""
    return "".join(c if c.isprintable() else " " for c in text).strip()


def _draw_tiles(axes: Any, images: Sequence[np.ndarray], columns: int) -> None:
    """Draw numbered images in rows as one picture, each in a thin frame: event images are white."""
    from matplotlib.collections import PatchCollection
    from matplotlib.patches import Rectangle

    tiles = [_numbered(image, number if len(images) > 1 else None) for number, image in enumerate(images, 1)]
    # Event images end where their last event lies: their sizes differ by some pixels.
    height, width = (max(tile.shape[axis] for tile in tiles) for axis in (0, 1))
    gutter = max(1, round(_GUTTER * width))
    rows = math.ceil(len(tiles) / columns)
    sheet = np.full((rows * (height + gutter) - gutter, columns * (width + gutter) - gutter, 3), 255, np.uint8)
    frames = []
    for place, tile in enumerate(tiles):
        y, x = (height + gutter) * (place // columns), (width + gutter) * (place % columns)
        sheet[y : y + tile.shape[0], x : x + tile.shape[1]] = tile
        frames.append(Rectangle((x - 0.5, y - 0.5), width, height))
    axes.imshow(sheet, aspect="equal")
    edges = PatchCollection(frames, facecolor="none", edgecolor=NEUTRAL_COLOR, linewidth=0.4, clip_on=False)
    axes.add_collection(edges, autolim=False)
    axes.set_anchor("N")
    axes.axis("off")


def _numbered(image: np.ndarray, number: int | None) -> np.ndarray:
    """Return the image with at most `_WIDEST_TILE` columns, each pixel the mean of a square, its number in the corner.

    Thirteen numbers drawn by matplotlib would take half of an explorer's time.
    """
    from PIL import Image, ImageDraw, ImageFont

    picture = Image.fromarray(image).reduce(math.ceil(image.shape[1] / _WIDEST_TILE))
    if number is not None:
        size = max(6, round(0.1 * picture.width))
        draw = ImageDraw.Draw(picture)
        draw.rectangle((0, 0, 0.9 * size, 1.15 * size), fill="white")
        draw.text((0.45 * size, 0.58 * size), str(number), fill="black", font=ImageFont.load_default(size), anchor="mm")
    return np.asarray(picture)
