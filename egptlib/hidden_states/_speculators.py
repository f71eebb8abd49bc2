"""Stored samples as the trainer of speculators takes them: a file a sequence, prompt and answer, and an Arrow set."""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pyarrow
import torch
from safetensors.torch import save_file
from torch import Tensor

from egptlib._paths import atomic_write, write_json
from egptlib._terminal import progress
from egptlib.hidden_states._prompts import read_prompt
from egptlib.hidden_states._reader import HiddenStates
from egptlib.hidden_states._sample import HiddenSample

_COLUMNS = {"input_ids": pyarrow.list_(pyarrow.int64()), "loss_mask": pyarrow.list_(pyarrow.int64())}
_ARROW = "data-00000-of-00001.arrow"


@dataclass(frozen=True)
class Converted:
    """What `convert_states` wrote; `str()` of it is the line it tells.

    Attributes:
        folder: of the set.
        num_sequences, num_positions: how many, and of all of them.
        num_bytes: of the set.
        store_bytes: of what it was made from.
        padded_bytes: the same states as float32, each sequence as long as the longest.
    """

    folder: Path
    num_sequences: int
    num_positions: int
    num_bytes: int
    store_bytes: int
    padded_bytes: int

    def __str__(self) -> str:
        made, store, padded = (size / 1e6 for size in (self.num_bytes, self.store_bytes, self.padded_bytes))
        return (
            f"converted {self.num_sequences:,} sequences of {self.num_positions:,} positions: {made:.1f} MB; padded as "
            f"float32 {padded:.1f} MB; the store has {store:.1f} MB, {store / padded:.3f} of that -> {self.folder}"
        )


def convert_states(folder: str | os.PathLike[str], out: str | os.PathLike[str]) -> Converted:
    """Write a store's samples in the form that speculators 0.9.0 trains from (`ArrowDataset`).

    `out` gets `hidden_states/hs_N.safetensors` (`token_ids` int64 [s], `hidden_states` [s, layers + 1, H] in the
    store's dtype, the last of them before the final norm, which that trainer applies itself), the set of `input_ids`,
    `loss_mask` (1 at tokens of the answer) and `seq_len` as `datasets` saves it, and `token_freq.pt`, how often
    answers have each token. A sequence is the prompt and the answer without its last token, which the target never
    reads.

    Args:
        folder: a store with layers and prompts (`extract(..., layers=, prompt_rows=True)`).
        out: made when missing, and otherwise expected to be empty.

    Raises:
        ValueError: a store without them, a damaged one, or a folder in use.
    """
    states, out = HiddenStates.open(folder), Path(out)
    if not len(states) or not states.config.get("prompt_rows"):
        raise ValueError(f"{folder}: expected samples with prompts; extract again with --layers and --prompt-rows")
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"{out}: expected an empty folder to write to")
    norm = states.target_head.norm.float()
    norm = norm.where(norm != 0, 1.0)
    kept, counts, longest, width = list[tuple[Tensor, int]](), Counter[int](), 0, 0
    samples = (sample for batch in states.stream(16) for sample in batch)
    for number, sample in enumerate(progress(samples, total=len(states), desc="convert", unit="sequence")):
        ids, rows, answer = _sequence(sample, norm)
        path = out / "hidden_states" / f"hs_{number}.safetensors"
        with atomic_write(path) as temporary:
            save_file({"token_ids": ids, "hidden_states": rows}, temporary)
        kept.append((ids, answer))
        counts.update(ids[-answer:].tolist() if answer else [])
        longest, width = max(longest, len(ids)), rows[0].numel()
    with atomic_write(out / "token_freq.pt") as temporary:
        torch.save(dict(counts), temporary)
    _write_set(out, kept)
    return Converted(
        out,
        len(kept),
        sum(len(ids) for ids, _ in kept),
        _bytes(out),
        _bytes(states.folder),
        len(kept) * longest * width * 4,
    )


def _sequence(sample: HiddenSample, norm: Tensor) -> tuple[Tensor, Tensor, int]:
    """Ids [s], states [s, layers + 1, H], and how many of them are of the answer."""
    assert sample.prompt is not None and sample.token_ids is not None and sample.target_layers is not None
    prompt, answer = read_prompt(sample.prompt), len(sample) - 1  # row t + 1 stands behind token t
    ids = torch.cat([prompt.token_ids, sample.token_ids[:answer]]).long()
    layers = torch.cat([prompt.target_layers, sample.target_layers[1:]])
    last = torch.cat([prompt.target_hidden, sample.target_hidden[1:]])
    # An RMS norm does not see how long a row is: what it is given back without its weight is what it gave.
    undone = (last.float() / norm).to(last.dtype)
    return ids, torch.cat([layers, undone[:, None]], dim=1).contiguous(), answer


def _write_set(out: Path, sequences: list[tuple[Tensor, int]]) -> None:
    """The set as `datasets.Dataset.save_to_disk` leaves it; without `state.json`, the last file, nobody opens it."""
    kinds = {"input_ids": "int64", "loss_mask": "int64"}
    features: dict[str, object] = {
        name: {"feature": {"dtype": kind, "_type": "Value"}, "_type": "List"} for name, kind in kinds.items()
    }
    features["seq_len"] = {"dtype": "int64", "_type": "Value"}
    told = {"huggingface": json.dumps({"info": {"features": features}})}
    schema = pyarrow.schema([*_COLUMNS.items(), ("seq_len", pyarrow.int64())], metadata=told)
    columns = {
        "input_ids": [ids.tolist() for ids, _ in sequences],
        "loss_mask": [[0] * (len(ids) - answer) + [1] * answer for ids, answer in sequences],
        "seq_len": [len(ids) for ids, _ in sequences],
    }
    table = pyarrow.table(columns, schema=schema)
    with atomic_write(out / _ARROW) as temporary, pyarrow.ipc.new_stream(str(temporary), schema) as stream:
        stream.write_table(table)
    write_json(
        out / "dataset_info.json",
        {"citation": "", "description": "", "features": features, "homepage": "", "license": ""},
    )
    state = {
        "_data_files": [{"filename": _ARROW}],
        "_fingerprint": f"{len(sequences):016x}",
        "_format_columns": list(columns),
        "_format_kwargs": {},
        "_format_type": "torch",
        "_output_all_columns": False,
        "_split": None,
    }
    write_json(out / "state.json", state)


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
