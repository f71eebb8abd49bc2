"""Opening a drafter and a target that belong together, and what reports call them."""

from __future__ import annotations

import platform
import time
import warnings
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from egptlib.models._checkpoint import checkpoint_folder, read_config
from egptlib.models._device import device_name, usable_device
from egptlib.models._interface import Model
from egptlib.models._open import open_model
from egptlib.models._pair_file import PairSettings, pair_settings
from egptlib.models._quantization import loading_options, saved_dtype
from egptlib.models._vocabulary import Matching, Vocabulary, first_ids_shared, match_vocabularies


@dataclass(frozen=True)
class Pair:
    """A drafter and a target.

    Attributes:
        vocabulary: what the ids of one mean to the other; a number may be given where that many first ids are shared.
        matching: how a draft is to become the target's tokens; see `as_drafter` of `egptlib.decoding`.
        load_seconds: "drafter" and "target" -> seconds from the call to weights in place; empty where nothing was
            loaded.
    """

    name: str
    drafter: Model
    target: Model
    vocabulary: Vocabulary
    matching: Matching = "tokens"
    load_seconds: dict[str, float] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        given: Any = self.vocabulary
        if isinstance(given, int):
            object.__setattr__(self, "vocabulary", first_ids_shared(given, self.drafter, self.target))


def load_pair(
    name: str | Path | PairSettings = "",
    *,
    eventgpt: str | Path | None = None,
    video_llava: str | Path | None = None,
    **changes: Any,
) -> Pair:
    """Open a pair of models.

    Args:
        name: "mini" (the small pair in this package), "midi" (after `egptlib make-pair midi`), the path of a
            `pair.toml`, or with `drafter` and `target` how the pair is called. Any two checkpoints make a pair, see
            `open_model`.
        eventgpt, video_llava: `drafter` and `target`, called by their models' names.
        changes: fields of `PairSettings` (`drafter`, `target`, `quantization`, `device`, ...); what is given comes
            before what the file says. Folders may be paths, a dtype torch's, None changes nothing.

    Raises:
        ValueError: unknown name, missing or unfit checkpoint, another precision than it is saved in, a device that
            this machine lacks, or vocabularies without a common token.

    Example:
        >>> pair = load_pair()  # the shipped mini pair
        >>> pair.drafter.name, pair.target.name, len(pair.vocabulary)
        ('EventGPT', 'Video-LLaVA', 768)
    """
    named = {"drafter": eventgpt, "target": video_llava}
    settings = pair_settings(name, **changes | {side: folder for side, folder in named.items() if folder})
    for which in ("device", "target_device"):
        usable_device(getattr(settings, which) or "cpu", f"pair {settings.name!r}: {which}")
    folders = {side: settings.folder(side) for side in ("drafter", "target")}
    for folder in folders.values() if settings.dtype else ():
        own = saved_dtype(read_config(checkpoint_folder(folder, ["*.json"])))
        if own not in (None, settings.torch_dtype):
            raise ValueError(
                f"{folder}/config.json: quantization_config: what is not quantized opens in "
                f"{str(own).removeprefix('torch.')} and cannot be opened in {settings.dtype}; leave dtype out"
            )
    drafter_options = loading_options(settings.quantization, settings.torch_dtype, settings.device)
    target_options = loading_options(
        settings.quantization, settings.torch_dtype, settings.target_device or settings.device
    )
    start = time.perf_counter()
    opened_drafter = open_model(folders["drafter"], "events", visual_tower=settings.visual_tower, **drafter_options)
    between = time.perf_counter()
    opened_target = open_model(
        folders["target"], "frames", form=settings.form, prompt=settings.prompt, **target_options
    )
    seconds = {"drafter": between - start, "target": time.perf_counter() - between}
    if opened_target.precision == "int8":
        warnings.warn(
            f"pair {settings.name!r}: in int8 a token's products depend on the others of its pass (columns with "
            "outliers), so answers verified several tokens at a time may part from plain decoding's near ties",
            stacklevel=2,
        )
    vocabulary = match_vocabularies(opened_drafter, opened_target)
    return Pair(settings.name, opened_drafter, opened_target, vocabulary, settings.matching, seconds)


def describe_pair(pair: Pair) -> dict[str, Any]:
    """Name, device, precision and package versions of a pair, as `Costs` and `Trace` call them.

    `precision` is that of the target's weights: `nf4`, `int8`, or the dtype it computes in. Where the drafter's is
    another one it stands beside the name, as in "mini (drafter in float32)": that is another pair than `mini` in NF4.
    """
    precision, drafters = pair.target.precision, pair.drafter.precision
    packages = ("torch", "transformers")
    return {
        "pair": pair.name if drafters == precision else f"{pair.name} (drafter in {drafters})",
        "device": device_name(pair.target.device),
        "precision": precision,
        "versions": {"python": platform.python_version()} | {name: metadata.version(name) for name in packages},
    }
