"""A checkpoint's own processor, opened without torchvision: it makes the prompt and the pixel values."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import transformers
from transformers import AutoImageProcessor, BatchFeature
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES
from transformers.models.smolvlm import processing_smolvlm

from egptlib.models._checkpoint import first_line, load_tokenizer, read_config
from egptlib.models._clips import ClipProcessor

UNITS = [
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
]
TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]


class Remembered:
    """An image or video processor that can give again what it gave before, for further questions about a scene.

    Attributes:
        given: what the last call gave. While it is None, pictures are processed; otherwise it is given again.
    """

    def __init__(self, inner: Any):
        self.inner = inner
        self.given: dict[str, Any] | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> BatchFeature:
        if self.given is None:
            self.given = dict(self.inner(*args, **kwargs))
        return BatchFeature(dict(self.given))

    def __getattr__(self, name: str) -> Any:
        if name == "inner":  # asked for before it is there, on the way to another process
            raise AttributeError(name)
        return getattr(self.inner, name)


def load_processor(folder: Path) -> Any:
    """The processor of a checkpoint folder, with PIL image processing and, for clips, a `ClipProcessor`.

    Raises:
        ValueError: the folder's files do not make one, or a package that it needs is missing; either is named.
    """
    name = processor_name(folder)
    kind = _class_of(name)
    parts: dict[str, Callable[[], Any]] = {
        "tokenizer": lambda: load_tokenizer(folder),
        "image_processor": lambda: AutoImageProcessor.from_pretrained(folder, local_files_only=True, backend="pil"),
        "video_processor": lambda: ClipProcessor(folder, name),
    }
    if processing_smolvlm.num2words is None:  # its processor cannot be made without, even for images
        processing_smolvlm.num2words = spelled
    try:
        settings, _ = kind.get_processor_dict(str(folder), local_files_only=True)
        processor = kind.from_args_and_dict([parts[part]() for part in kind.get_attributes()], settings)
    except (OSError, ImportError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{folder}: {name} cannot be made of this folder ({first_line(error)})") from None
    processor.chat_template = processor.chat_template or processor.tokenizer.chat_template
    if processor.chat_template is None:
        raise ValueError(f"{folder}: expected a chat template (chat_template.jinja), found none")
    return processor


@cache
def _class_of(name: str) -> Any:
    """A processor's class, which can also go to another process.

    Without torchvision transformers cannot tell what a video processor is, so its check of the parts is left out.
    """

    def reduce(processor: Any) -> Any:
        return _revived, (name, vars(processor))

    own = {"check_argument_for_proper_class": lambda *_: None, "__reduce__": reduce}
    return type(name, (getattr(transformers, name),), own)


def _revived(name: str, state: dict[str, Any]) -> Any:
    processor = object.__new__(_class_of(name))
    vars(processor).update(state)
    return processor


def spelled(number: int) -> str:
    """A number below a hundred in English words, as num2words (not needed here) spells it."""
    if not 0 <= number < 100:
        raise ValueError(f"frames: expected fewer than 100, found {number}")
    if number < 20:
        return UNITS[number]
    return TENS[number // 10 - 2] + (f"-{UNITS[number % 10]}" if number % 10 else "")


def processor_name(folder: Path) -> str:
    """The class of a folder's processor, as its files or transformers' own table name it."""
    files = [file for file in ("processor_config.json", "preprocessor_config.json") if (folder / file).is_file()]
    named = [read_config(folder, file).get("processor_class") for file in files]
    kind = str(read_config(folder).get("model_type"))
    name = next(filter(None, [*named, PROCESSOR_MAPPING_NAMES.get(kind)]), None)
    if name is None or not hasattr(transformers, name):
        raise ValueError(f"{folder}: expected the processor of a {kind!r} that transformers has, found {name}")
    return str(name)
