"""One index over the shards that several processes wrote side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from egptlib._sealed import read_sealed
from egptlib.hidden_states._index import read_index, write_index

PLAN = "shards.json"


def read_plan(out: Path) -> dict[str, Any]:
    """Return how a folder was cut into shards.

    Raises:
        ValueError: the file is damaged, or does not say so.
    """
    plan, path = read_sealed(out / PLAN), out / PLAN
    bounds, number = plan.get("bounds"), plan.get("num_shards")
    whole = [number, plan.get("num_scenes"), *(bounds if isinstance(bounds, list) else [None])]
    if not all(type(value) is int and value >= 0 for value in whole) or len(whole) - 3 != number:
        raise ValueError(f"{path}: expected num_shards, num_scenes and the bounds of the shards; found {plan!r:.80}")
    return plan


def join_index(out: Path) -> int:
    """List the chunks of all shards of `out` in one index, copying none; returns the number of samples.

    Raises:
        FileNotFoundError: a shard is missing.
        ValueError: a shard's index is damaged, or of another configuration than those before it.
    """
    joined: dict[str, Any] = {}
    for number in range(read_plan(out)["num_shards"]):
        folder = f"shards/{number:03d}"
        index = read_index(out / folder)
        joined = joined or index | {"chunks": [], "num_samples": 0, "heads": {}}
        joined["fields"] = joined["fields"] or index["fields"]  # a shard all of whose samples failed has none
        if index["config"] != joined["config"] or index["fields"] not in ({}, joined["fields"]):
            raise ValueError(f"{out / folder}: another configuration than the shards before it; remove it, run again")
        start = joined["num_samples"]
        for entry in index["chunks"]:
            moved = {"path": f"{folder}/{entry['path']}", "start": start + entry["start"]}
            joined["chunks"].append(entry | moved)
        for side, head in index["heads"].items():
            joined["heads"].setdefault(side, head | {"path": f"{folder}/{head['path']}"})
        joined["num_samples"] += index["num_samples"]
    write_index(out, joined)
    return joined["num_samples"]
