"""Reading checkpoint folders with errors that name the file and the field; telling weights apart by a hash."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from zipfile import is_zipfile

import torch
import transformers
from safetensors import SafetensorError, safe_open
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import AutoTokenizer, LlamaTokenizer
from transformers.utils import logging

from egptlib._paths import read_json
from egptlib.models._quantization import fitted_options, settle_cpu_layers

SIZE_WORTH_A_BAR = 2**30  # bytes; smaller checkpoints load in a second or two


def checkpoint_folder(name: str | Path, patterns: list[str] | None = None) -> Path:
    """A checkpoint's folder: `name` itself, or, where no such folder exists, the hub's snapshot of that id.

    Args:
        name: a folder, or an id such as "LanguageBind/Video-LLaVA-7B-hf".
        patterns: the files wanted; None takes all but other formats' weights.
    """
    if Path(name).is_dir():
        return Path(name)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    patterns = patterns or ["*.json", "*.safetensors", "*.model", "*.txt", "pytorch_model*.bin"]
    try:
        return Path(snapshot_download(str(name), allow_patterns=patterns))
    except (OSError, HFValidationError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{name}: no such folder, and no such model on the hub ({reason})") from None


def check_files(folder: Path) -> None:
    """See that the files of a checkpoint are whole, from their headers.

    Raises:
        ValueError: one is cut, or stands for one that git-lfs has not fetched; it is named.
    """
    for path in sorted(path for path in folder.glob("*.*") if path.is_file()):
        with open(path, "rb") as file:
            begins = file.read(64)
        if begins.startswith(b"version https://git-lfs"):
            raise ValueError(f"{path}: a pointer of git-lfs in place of the file; `git lfs pull` fetches it")
        damaged = ""
        if path.suffix == ".safetensors":
            try:
                with safe_open(path, "pt"):
                    pass
            except SafetensorError as error:
                damaged = str(error)
        elif path.suffix == ".bin" and begins.startswith(b"PK") and not is_zipfile(path):
            damaged = "its end is missing"
        if damaged:
            raise ValueError(f"{path}: damaged or cut weights, {path.stat().st_size:,} bytes ({damaged})")


def read_config(folder: str | Path, name: str = "config.json") -> dict[str, Any]:
    """A JSON file of a checkpoint folder. Raises ValueError where there is none or it is no JSON object."""
    path = Path(folder, name)
    try:
        return read_json(path, wide=True)
    except OSError as error:
        raise ValueError(f"{path}: expected a model's {name} ({error.strerror})") from None


def first_line(error: Exception) -> str:
    """Of an error's message, what is told of it; some begin with an empty line."""
    return next(filter(None, map(str.strip, str(error).splitlines())), "")


def load_tokenizer(folder: str | Path) -> Any:
    """The tokenizer saved in a checkpoint's folder: tokenizer.json, or a Llama's SentencePiece tokenizer.model.

    A Llama tokenizer puts BOS first unless its `tokenizer_config.json` says otherwise, as when the models were trained
    (transformers 5 leaves it out where the file is silent). A tokenizer.json that transformers reads otherwise than it
    says is told by a warning (`tell_other_ids`).
    """
    folder = Path(folder)
    check_files(folder)
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # AutoTokenizer looks into config.json and warns about model types it does not know
    try:
        if (folder / "tokenizer.json").is_file():
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            tell_other_ids(folder, tokenizer)
            return tokenizer
        if not (folder / "tokenizer.model").is_file():
            raise OSError("found neither")
        settings = folder / "tokenizer_config.json"
        add_bos = read_json(settings, wide=True).get("add_bos_token", True) if settings.is_file() else True
        return LlamaTokenizer.from_pretrained(folder, local_files_only=True, add_bos_token=add_bos)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{folder}: expected tokenizer.json or tokenizer.model ({reason})") from None
    finally:
        logging.set_verbosity(verbosity)


def tell_other_ids(folder: Path, tokenizer: Any) -> None:
    """Warn where a tokenizer splits a prompt otherwise than the pipeline in its tokenizer.json.

    transformers 5 rebuilds a Llama's pipeline from `legacy` in tokenizer_config.json; transformers 4 obeyed the file,
    and what was trained with it saw the file's ids. They part behind special tokens, which stand in every prompt.
    """
    own = Tokenizer.from_file(str(folder / "tokenizer.json"))
    own.no_truncation()
    own.no_padding()
    settings = folder / "tokenizer_config.json"
    told = read_json(settings, wide=True) if settings.is_file() else {}
    added = own.get_added_tokens_decoder()
    special = added[max(added)].content if added else ""
    text = f"USER: {special}\nWhat is happening? {special}ASSISTANT: {special} It"
    whole = "add_bos_token" not in told  # where it is said, the settings decide about BOS
    expected = own.encode(text, add_special_tokens=whole).ids
    found = tokenizer(text, add_special_tokens=whole).input_ids
    if expected == found:
        return
    same = (a == b for a, b in zip(expected, found, strict=False))
    at = next((i for i, equal in enumerate(same) if not equal), min(len(expected), len(found)))
    ours, theirs = (tokenizer.convert_ids_to_tokens(ids[at : at + 3]) for ids in (found, expected))
    warnings.warn(
        f"{folder / 'tokenizer.json'}: transformers {transformers.__version__} makes {len(found)} tokens of {text!r}, "
        f"the file itself {len(expected)}; from token {at} on {ours} in place of {theirs} "
        f"(tokenizer_config.json: legacy is {told.get('legacy')})",
        stacklevel=3,
    )


def checked_from_pretrained(from_pretrained: Callable[..., Any], folder: str | Path, **kwargs: Any) -> Any:
    """Call transformers' `from_pretrained` and refuse a checkpoint that does not fill the model exactly.

    transformers itself only warns and leaves random weights in the gaps.

    A checkpoint that was saved quantized opens in its own precision, whatever the arguments' dtype.

    Raises:
        ValueError: weights are missing, unexpected or of another shape (the message names them), cut or unreadable, or
            saved in another precision than asked for.
    """
    kwargs = fitted_options(read_config(folder), kwargs, f"{folder}/config.json")
    check_files(Path(folder))
    verbosity, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()  # its report of the same keys would come on top of the error below
    if sum(file.stat().st_size for file in Path(folder).glob("*.*")) < SIZE_WORTH_A_BAR:
        logging.disable_progress_bar()
    try:
        model, info = from_pretrained(
            folder, output_loading_info=True, ignore_mismatched_sizes=True, local_files_only=True, **kwargs
        )
    except OSError as error:
        raise ValueError(f"{folder}: {error}") from None
    except ImportError as error:  # a package that this class needs
        raise ValueError(f"{folder}: {first_line(error)}") from None
    except (SafetensorError, UnpicklingError) as error:  # .bin files are unpickled with weights_only=True
        reason = str(error).split(". ")[0]
        raise ValueError(f"{folder}: damaged weights, or a pickle that holds more than weights ({reason})") from None
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()
    problems = [
        _named("missing", info["missing_keys"]),
        _named("unexpected", info["unexpected_keys"]),
        _named("of another shape", (f"{k} {list(a)} instead of {list(b)}" for k, a, b in info["mismatched_keys"])),
        _named("unreadable", info.get("error_msgs") or ()),
    ]
    problems = [problem for problem in problems if problem]
    if problems:
        raise ValueError(f"{folder}: the weights do not fit the config: {'; '.join(problems)}")
    settle_cpu_layers(model)
    note_loaded(model)
    return model.eval()


def _named(what: str, keys: Iterable[str], limit: int = 6) -> str:
    keys = sorted(keys)
    if not keys:
        return ""
    rest = f" and {len(keys) - limit} more" if len(keys) > limit else ""
    return f"{len(keys)} {what}: {', '.join(keys[:limit])}{rest}"


_NOTE = "digest_when_loaded"


def note_loaded(module: nn.Module) -> None:
    """Note on each quantized weight what it held when it was loaded: that is its fingerprint from then on.

    bitsandbytes lays 4-bit weights out anew in their first pass on a CPU with AVX512-BF16; they stay what they are.
    """
    for parameter in module.parameters():
        if not parameter.is_floating_point():
            setattr(parameter, _NOTE, _digest(parameter))


def fingerprint(module: Any) -> str:
    """Hash over up to 512 values of every parameter: tells retrained, requantized or recast weights apart."""
    digest = hashlib.sha256()
    for name, parameter in module.named_parameters():
        digest.update(f"{name} ".encode() + (getattr(parameter, _NOTE, None) or _digest(parameter)))
    return digest.hexdigest()[:12]


def _digest(parameter: Tensor) -> bytes:
    """Shape, dtype and values."""
    values = parameter.detach().flatten()
    values = values[:: max(1, values.numel() // 512)]
    told = f"{tuple(parameter.shape)} {parameter.dtype}".encode()
    return told + values.cpu().contiguous().view(torch.uint8).numpy().tobytes()
