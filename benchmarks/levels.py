"""Train every level on stored hidden states and judge all of them on others: the table of the adapters.

    python -m benchmarks.levels --train DIR --test DIR --out DIR [--levels "L1 L2 ..."] [--epochs 8] [--heads-epochs 4]

A level that is finished in OUT is not trained again, one that was stopped goes on. The best weights of each are in
OUT/LEVEL (`load_adapter`, for L6 `load_lora`); `OUT/table.json` holds the rows of all that is there, and baselines.
"""

import argparse
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from egptlib._paths import write_json
from egptlib.adapters import (
    RUNS_AHEAD,
    VARIANTS,
    FitSettings,
    LossSettings,
    ScenesById,
    judge_baselines,
    length_gain,
    load_adapter,
    measure_latency,
    order_agreement,
    tell_order,
    train_level,
)
from egptlib.hidden_states import HiddenStates

COLUMNS = {
    **{
        "level": "level",
        "mean_acceptance_length": "MAL",
        "gain": "gain",
        "low": "low",
        "high": "high",
        "accepted_prefix": "prefix",
        "top1": "top1",
        "top5": "top5",
    },
    **{"cos_sim_mean": "cos", "accept_80": "acc80", "accept_90": "acc90", "consecutive_mean_80": "run80"},
    **{"consecutive_mean_90": "run90", "parameters": "params", "ms a call": "ms", "training s": "train s"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--levels", default=" ".join(VARIANTS))
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--heads-epochs", type=int, default=4, help="of the levels that run ahead, and of L6")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--heads-batch", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--depths", type=int, default=3, help="positions a head runs ahead in training")
    parser.add_argument("--every-scene", type=int, default=1, help="L6: train on each so-many-th scene, which are read")
    parser.add_argument("--ffn-dim", type=int, default=1024)
    parser.add_argument("--latency", action="store_true", help="only measure the calls of what is ready again")
    options = parser.parse_args()
    torch.set_num_threads(1)
    train, test = HiddenStates.open(options.train), HiddenStates.open(options.test)
    if options.latency:
        time_again(options.out, options.levels.split(), test)
        options.levels = ""
    baselines = options.out / "baselines.json"
    if not baselines.is_file():
        write_json(
            baselines,
            [
                _told(v, {"level": v.name, **v.figures()})
                for v in judge_baselines(test, train, train.target_head.lm_head)
            ],
        )
    for name in options.levels.split():
        row = options.out / name / "row.json"
        if row.is_file():
            continue
        slow = VARIANTS[name][0] in (*RUNS_AHEAD, "L6")
        settings = FitSettings(
            epochs=options.heads_epochs if slow else options.epochs,
            batch_size=options.heads_batch if slow else options.batch,
            learning_rate=options.learning_rate,
        )
        more, part = {}, train
        if VARIANTS[name][0] == "L6":
            more = _models()
            part = train.select(scene=sorted({note["scene"] for note in train.metadata()})[:: options.every_scene])
        more |= {"sizes": {"ffn_dim": options.ffn_dim}, "loss": LossSettings(depths=options.depths)}
        result = train_level(name, part, test, options.out / "runs" / name, settings, **more)
        shutil.copytree(result.fit.folder / "best", options.out / name, dirs_exist_ok=True)
        write_json(row, _told(result.verdict, result.row()))
        print(f"{name}: {json.dumps(result.row())}", flush=True)
    show(options.out, [note["sequence"] for note in test.metadata()])


def _told(verdict: Any, row: dict[str, Any]) -> dict[str, Any]:
    by_gamma = {str(gamma): value for gamma, value in verdict.mean_acceptance_length.items()}
    return row | {"by_gamma": by_gamma, "answers": verdict.answers}


def _models() -> dict[str, Any]:
    """The mini pair, and the scenes of both splits."""
    from egptlib.models import load_pair
    from egptlib.scenes import open_scenes

    splits = [open_scenes("streets", split=split, event_views=5) for split in ("train", "test")]
    return {"pair": load_pair("mini"), "scenes": ScenesById(*splits)}


def time_again(out: Path, levels: Sequence[str], test: HiddenStates) -> None:
    """Measure the calls of the levels in `out` on one answer of `test`, and put that into their rows."""
    for name in levels:
        path = out / name / "row.json"
        if path.is_file() and VARIANTS[name][0] != "L6":  # merged into the drafter, it has no call of its own
            seconds = measure_latency(load_adapter(out / name), test, test.target_head.lm_head, repeats=200)
            write_json(path, json.loads(path.read_text()) | {"ms a call": 1e3 * seconds})


def show(out: Path, sequences: Sequence[str]) -> None:
    """Print the table, what each gamma gives, and how cosine orders the levels; keep it as `table.json`.

    `gain` is over the drafter's own tokens, with a 95 % interval over sequences.
    """
    rows = [
        json.loads((out / name / "row.json").read_text()) for name in VARIANTS if (out / name / "row.json").is_file()
    ]
    fair = [row for row in rows if row["level"] != "L4-looks-ahead"]
    r, alike, pairs = order_agreement(fair)
    rows += json.loads((out / "baselines.json").read_text())
    (own,) = (row["answers"] for row in rows if row["level"] == "drafter's own tokens")
    for row in rows:
        row["gain"], row["low"], row["high"] = length_gain(row["answers"], own, sequences)
    rows.sort(key=lambda row: -row["mean_acceptance_length"])
    kept = [{name: value for name, value in row.items() if name != "answers"} for row in rows]
    agreement = {"r": None if r != r else r, "pairs alike": alike, "pairs": pairs, "told": tell_order(fair)}
    write_json(out / "table.json", {"rows": kept, **agreement})
    table = pd.DataFrame(rows)
    print(table[[name for name in COLUMNS if name in table]].rename(columns=COLUMNS).round(3).to_string(index=False))
    print(pd.DataFrame({row["level"]: row["by_gamma"] for row in rows}).T.round(2).to_string())
    print(agreement["told"])


if __name__ == "__main__":
    main()
