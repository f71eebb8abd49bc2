"""Explorers for JupyterLab: sliders and menus over pure figure functions.

The static figure stands in the notebook first. An explorer has a cell of its own below it, tagged ``interactive``,
which nobody misses who reads the HTML or runs it without a screen (EGPT_HEADLESS=1)::

    if not is_headless():
        display(explore_acceptance(grid))
"""

from __future__ import annotations

import html
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from egptlib._clock import Event
from egptlib.figures._explore import (
    AcceptanceGrid,
    acceptance_explorer_figure,
    adapter_comparison_figure,
)
from egptlib.figures._scene import scene_pictures_figure
from egptlib.figures._timeline import timeline_cursor_figure

if TYPE_CHECKING:
    from ipywidgets import Widget
    from matplotlib.figure import Figure
    from pandas import DataFrame

    from egptlib.scenes import Scene

_DPI = 110
_ACCEPTED = "background:#A6D8C6;color:#000"
_REJECTED = "background:#F6C8A8;color:#000;text-decoration:line-through"


def explore(draw: Callable[..., Figure], **controls: Widget) -> Widget:
    """Show a figure that is drawn anew whenever a control moves.

    Args:
        draw: called with the value of each control by its name.
        controls: ipywidgets with a `value`.
    """
    import ipywidgets as widgets

    picture = widgets.Image(format="png", layout=widgets.Layout(max_width="100%", align_self="flex-start"))

    def update(_: Any = None) -> None:
        picture.value = to_png(draw(**{name: control.value for name, control in controls.items()}))

    for control in controls.values():
        control.observe(update, names="value")
    update()
    return widgets.VBox([widgets.HBox(list(controls.values()), layout=widgets.Layout(flex_flow="row wrap")), picture])


def to_png(figure: Figure) -> bytes:
    """Draw a figure as it is, once. `savefig` draws twice, the first time to see how large everything is."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    figure.set_dpi(_DPI)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3]).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def explore_acceptance(grid: AcceptanceGrid, threshold: float = 0.9, gamma: int = 5) -> Widget:
    """Acceptance against threshold and gamma, with a slider for each; over arrays computed once."""
    import ipywidgets as widgets

    low, high = float(grid.thresholds[0]), float(grid.thresholds[-1])
    return explore(
        lambda threshold, gamma: acceptance_explorer_figure(grid, threshold, gamma),
        threshold=widgets.FloatSlider(value=threshold, min=low, max=high, step=0.01, description="threshold"),
        gamma=widgets.IntSlider(value=gamma, min=int(grid.gammas[0]), max=int(grid.gammas[-1]), description="gamma"),
    )


def scrub_timeline(events: Sequence[Event]) -> Widget:
    """The stamped events of a run, with a slider over its time and a button that plays it slowly."""
    import ipywidgets as widgets

    end = 1000 * (max(event.end for event in events) - min(event.start for event in events))
    step = end / 200
    slider = widgets.FloatSlider(value=end, min=0, max=end, step=step, description="ms", readout_format=".0f")
    slider.layout.width = "70%"
    play = widgets.Play(value=200, min=0, max=200, interval=150)
    play.observe(lambda change: setattr(slider, "value", min(end, change["new"] * step)), names="value")
    explorer = explore(lambda at: timeline_cursor_figure(events, at), at=slider)
    return widgets.VBox([play, explorer])


def compare_adapters(table: DataFrame, name: str = "level") -> Widget:
    """Any two adapters of a table beside each other; arguments as `adapter_comparison_figure`."""
    import ipywidgets as widgets

    names = [str(value) for value in table[name]]
    options: dict[str, Any] = {"options": names, "readout": False}  # the legend says which
    return explore(
        lambda first, second: adapter_comparison_figure(table.assign(**{name: names}), first, second, name),
        first=widgets.SelectionSlider(value=names[0], description="first", **options),
        second=widgets.SelectionSlider(value=names[-1], description="second", **options),
    )


@dataclass(frozen=True)
class AnswerPair:
    """Both models' own answers to one question about one scene.

    Attributes:
        scene: id of the scene.
        question: what was asked.
        drafter, target: tokens of the answers, as the tokenizer writes them.
    """

    scene: str
    question: str
    drafter: Sequence[str]
    target: Sequence[str]

    @property
    def num_accepted(self) -> int:
        """Leading tokens that are equal: what greedy verification keeps of the drafter's whole answer."""
        equal = [a == b for a, b in zip(self.drafter, self.target)]
        return equal.index(False) if False in equal else len(equal)

    @property
    def agree(self) -> bool:
        """Whether both say the same, token for token."""
        return list(self.drafter) == list(self.target)


def select_pairs(
    pairs: Sequence[AnswerPair],
    scenes: Mapping[str, Scene],
    *,
    disagreeing: bool = False,
    question: str = "",
    sequence: str = "",
    events: str = "",
) -> list[AnswerPair]:
    """Return the pairs that pass every filter; empty ones let all through.

    Args:
        pairs: to choose from.
        scenes: by id.
        disagreeing: only answers that differ.
        question: the question, in full.
        sequence: the recording a scene is from.
        events: "recorded", "simulated", or "streets".
    """
    return [
        pair
        for pair in pairs
        if not (disagreeing and pair.agree)
        and question in ("", pair.question)
        and sequence in ("", scenes[pair.scene].sequence)
        and events in ("", events_of(scenes[pair.scene]))
    ]


def events_of(scene: Scene) -> str:
    """Return where a scene's events are from: recorded, simulated from video, or drawn for streets."""
    return "streets" if scene.metadata.get("slots") else str(scene.metadata.get("events", "unknown"))


def marked_tokens(pair: AnswerPair, truth: str | None = None) -> str:
    """Return question, answers and truth as HTML: accepted tokens on green, the first rejected one struck out."""
    rows = []
    for side, tokens in (("drafter", pair.drafter), ("target", pair.target)):
        spans = []
        for position, token in enumerate(tokens):
            style = _ACCEPTED if position < pair.num_accepted else ""
            if side == "drafter" and position == pair.num_accepted:
                style = _REJECTED
            text = html.escape(token.replace("▁", " ").replace("Ġ", " "))  # SentencePiece, byte-level BPE
            spans.append(f'<span style="{style};white-space:pre-wrap">{text}</span>')
        rows.append((side, "".join(spans)))
    if truth:
        rows.append(("truth", html.escape(truth)))
    cells = [
        f"<tr><td style='padding-right:1em;vertical-align:top'><b>{who}</b></td><td>{text}</td></tr>"
        for who, text in [("asked", html.escape(pair.question)), *rows]
    ]
    kept = f"{pair.num_accepted} of {len(pair.drafter)} drafted tokens would be accepted"
    return f"<table style='line-height:1.7'>{''.join(cells)}</table><p>{kept}</p>"


def browse_samples(scenes: Sequence[Scene], pairs: Sequence[AnswerPair]) -> Widget:
    """Browse scenes: what each model sees, both answers, and which tokens would be accepted; with filters.

    Args:
        scenes: those the pairs are about.
        pairs: one per scene and question.
    """
    import ipywidgets as widgets

    by_id = {scene.id: scene for scene in scenes}
    everything = ("all", "")

    def menu(description: str, values: Sequence[str]) -> Any:
        options = [everything, *((value[:60], value) for value in dict.fromkeys(values))]
        return widgets.Dropdown(options=options, value="", description=description)

    filters = {
        "disagreeing": widgets.Checkbox(value=False, description="disagreeing only", indent=False),
        "question": menu("question", [pair.question for pair in pairs]),
        "sequence": menu(
            "sequence", [by_id[pair.scene].sequence or "" for pair in pairs if by_id[pair.scene].sequence]
        ),
        "events": menu("events", [events_of(by_id[pair.scene]) for pair in pairs]),
    }
    slider = widgets.IntSlider(value=0, min=0, max=len(pairs) - 1, description="sample")
    picture = widgets.Image(format="png", layout=widgets.Layout(max_width="100%", align_self="flex-start"))
    words, found = widgets.HTML(), widgets.HTML()
    chosen = list(pairs)

    def show(_: Any = None) -> None:
        if not chosen:
            picture.layout.visibility, words.value = "hidden", ""
            return
        pair = chosen[slider.value]
        scene = by_id[pair.scene]
        truth = dict(zip(scene.questions, scene.answers or ())).get(pair.question)
        picture.layout.visibility = "visible"
        picture.value = to_png(scene_pictures_figure(scene))
        words.value = marked_tokens(pair, truth)

    def choose(_: Any = None) -> None:
        chosen[:] = select_pairs(pairs, by_id, **{name: control.value for name, control in filters.items()})
        found.value = f"{len(chosen)} of {len(pairs)} samples"
        slider.max = max(0, len(chosen) - 1)
        slider.value = min(slider.value, slider.max)
        show()

    for control in filters.values():
        control.observe(choose, names="value")
    slider.observe(show, names="value")
    choose()
    row = widgets.HBox([*filters.values(), found], layout=widgets.Layout(flex_flow="row wrap"))
    return widgets.VBox([row, slider, picture, words])
