"""One index over the shards that several processes wrote side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from egptlib.hidden_states._index import read_index, write_index

PLAN = "shards.json"


def join_index(out: Path) -> int:
    """List the chunks of all shards of `out` in one index, copying none; returns the number of samples.

    Raises:
        FileNotFoundError: a shard is missing.
        ValueError: a shard's index is damaged, or of another configuration than those before it.
    """
    joined: dict[str, Any] = {}
    for number in range(json.loads((out / PLAN).read_text())["num_shards"]):
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
