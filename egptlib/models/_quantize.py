"""A pair saved in 4 or 8 bit, which opens in seconds."""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import asdict, replace
from pathlib import Path

from egptlib.models._checkpoint import checkpoint_folder
from egptlib.models._load import load_pair
from egptlib.models._pair_file import PairSettings, pair_settings
from egptlib.models._quantization import Quantization

WEIGHTS = ("*.safetensors", "*.bin", "*.index.json", "config.json", "generation_config.json")  # saved anew


def quantize_pair(pair: str | Path | PairSettings, out: str | Path, quantization: Quantization = "nf4") -> Path:
    """Quantize a pair once and save it: both checkpoints, with their tokenizers and processors, and a `pair.toml`.

    It gives the same answers as the pair that is quantized at each start, and nothing of it stands in `out` before it
    is whole.

    Args:
        pair: as for `load_pair`; its devices stay in the new file.
        out: folder that is made.
        quantization: "nf4" or "int8".

    Returns:
        The path of the new `pair.toml`.

    Raises:
        ValueError: `out` exists, or what `load_pair` raises.
    """
    out = Path(out)
    if out.exists():
        raise ValueError(f"{out}: exists already; expected a new folder")
    settings = pair_settings(pair)
    # Quantizing needs no device of its own, and the files are the same.
    models = load_pair(replace(settings, quantization=quantization, device="cpu", target_device=None))
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        for side, model in (("drafter", models.drafter), ("target", models.target)):
            model.module.save_pretrained(partial / side)
            own = checkpoint_folder(settings.folder(side))
            shutil.copytree(own, partial / side, dirs_exist_ok=True, ignore=shutil.ignore_patterns(*WEIGHTS))
        lines = asdict(settings) | {"drafter": "drafter", "target": "target", "quantization": quantization}
        lines["name"] = f"{settings.name}-{quantization}"
        lines |= {"dtype": None, "visual_tower": None}  # the config holds the one, and describes the other
        given = {name: json.dumps(value, ensure_ascii=False) for name, value in lines.items() if value is not None}
        told = [f"{name} = {value}" for name, value in given.items()]  # a text in JSON is one in TOML
        (partial / "pair.toml").write_text("\n".join(told) + "\n", encoding="utf-8")
        partial.chmod(0o755)
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return out / "pair.toml"
