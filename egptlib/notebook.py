"""What every notebook begins with, in one call: its scenes, its pair, and what both have in mind.

A notebook's cell after its parameters::

    run = open_run(out, "04_feature_acceptance")
    here = begin(run, dataset, split, pair, event_views, num_scenes, num_questions, max_new_tokens)
    here.scenes            # so many, taken evenly from all
    here.models            # the pair, loaded when it is first asked for
    here.prompts           # scene and question, of all of them
    here.states("target")  # hidden states along the target's path, extracted where they are missing
    here.adapters("mini-E3, FOLDER")  # trained adapters by name or folder, shipped ones with their pair alone
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from egptlib._paths import data_root, write_json
from egptlib._terminal import show_log
from egptlib.hidden_states import HiddenStates, extract, is_complete
from egptlib.models import Pair, PairSettings, device_name, frame_sampling, load_pair, pair_settings
from egptlib.reporting import Run, describe_environment
from egptlib.scenes import SceneFolder, open_scenes

if TYPE_CHECKING:
    from egptlib.adapters import Adapter
    from egptlib.scenes import Scene


@dataclass
class Experiment:
    """What `begin` opened.

    Attributes:
        run: the run folder, open for writing.
        scenes: those chosen.
        settings: of the pair.
        num_questions, max_new_tokens: per scene, and per answer.
    """

    run: Run
    scenes: SceneFolder
    settings: PairSettings
    num_questions: int
    max_new_tokens: int

    @cached_property
    def models(self) -> Pair:
        """The pair; loaded when it is first asked for."""
        return load_pair(self.settings)

    def release(self) -> None:
        """Let the pair go, and the memory that it holds; asked for again, it is loaded again."""
        if vars(self).pop("models", None) is not None and torch.cuda.is_available():
            torch.cuda.empty_cache()

    @cached_property
    def prompts(self) -> list[tuple[Scene, str]]:
        """Scene and question: the first `num_questions` of each scene."""
        return [(scene, question) for scene in self.scenes for question in scene.questions[: self.num_questions]]

    def states_folder(self, path: str = "target", layers: Sequence[int] = ()) -> Path:
        """Where the states along a path are kept: shared by all notebooks of one folder of runs."""
        parts = [self.scenes.name, self.settings.key, f"{self.scenes.options.event_views}v", f"{self.max_new_tokens}t"]
        parts += ["layers", *map(str, layers)] if layers else [path]
        return self.run.shared_folder(f"hidden_states/{'-'.join(parts)}")

    def states(self, path: Any = "target", layers: Sequence[int] = (), **options: Any) -> HiddenStates:
        """Hidden states of these scenes and questions along a path; extracted where they are missing.

        Args:
            path: "target" or "free", as for `extract`.
            layers: target layers to keep besides the last states.
            options: further arguments of `extract`.
        """
        folder = self.states_folder(path, layers)
        if not is_complete(folder, self.scenes, self.num_questions):
            limits: dict[str, Any] = {"max_new_tokens": self.max_new_tokens, "num_questions": self.num_questions}
            kept = {"target": tuple(layers)} if layers else None
            extract(self.models, self.scenes, folder, path=path, layers=kept, **limits, **options)
        asked = {"scene": self.scenes.ids, "question_index": list(range(self.num_questions))}
        return HiddenStates.open(folder).select(**asked)  # another notebook may have left more

    def adapters(self, names: str, states: HiddenStates | None = None) -> dict[str, Adapter]:
        """Trained adapters, by the last part of what they are called; those that cannot be used here are left out.

        Args:
            names: folders and shipped names ("mini-E3"), with commas between them. The shipped ones go with their
                pair alone, and not on the split of streets that they learned from.
            states: what they are to be judged on: it has to hold the target's layers that they were trained on.
        """
        from egptlib.adapters import SHIPPED_HEADS, load_adapter

        known = self.scenes.name.startswith("streets_train")
        others = {name for name in SHIPPED_HEADS if known or not name.startswith(f"{self.settings.name}-")}
        chosen = [name.strip() for name in names.split(",")]
        found = {Path(name).name: load_adapter(name) for name in chosen if name and name not in others}
        if states is None:
            return found
        held = states.config.get("layers", {}).get("target", [])
        return {
            name: each
            for name, each in found.items()
            if "target_layers" not in each.inputs or list(each.settings.source_layers) == held
        }


def begin(
    run: Run,
    dataset: str,
    split: str,
    pair: str,
    event_views: int,
    num_scenes: int,
    num_questions: int,
    max_new_tokens: int,
) -> Experiment:
    """Open what a notebook needs, from the parameters that all of them have and in their order; check these.

    Args:
        run: from `open_run`; settings of another pair than the plain mini pair are kept there as `pair.json`, and
            the devices that it is on in `environment.json`.
        dataset, split, event_views: as for `open_scenes`.
        pair: "mini", "midi", or the path of a `pair.toml`.
        num_scenes: taken evenly from all; all of them where there are fewer.
        num_questions: of each scene.
        max_new_tokens: longest answer.

    Raises:
        ValueError: a count below 1, or more questions than a scene has; or what `pair_settings` and `open_scenes`
            raise.
    """
    counts = {"num_scenes": num_scenes, "num_questions": num_questions, "max_new_tokens": max_new_tokens}
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name}: expected at least 1, found {count}")
    show_log(run.folder.parent, data_root())  # a page tells nobody where on a machine it was made
    settings = pair_settings(pair)
    scenes = open_scenes(dataset, split, event_views=event_views, sampling=frame_sampling(settings))
    scenes = scenes.spread(num_scenes)
    if num_questions > (fewest := scenes.num_questions):
        raise ValueError(f"num_questions: expected at most {fewest}, the questions of a scene, found {num_questions}")
    devices = (device_name(name) for name in (settings.device, settings.target_device or settings.device))
    write_json(run.folder / "environment.json", describe_environment(*devices))
    if settings != PairSettings():
        write_json(run.folder / "pair.json", vars(settings))
    return Experiment(run, scenes, settings, num_questions, max_new_tokens)
