"""The trained adapters that come with the small pairs, made by one command; `load_adapter("mini-E3")` opens them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from egptlib._paths import data_root, read_json
from egptlib.adapters._build import create_adapter
from egptlib.adapters._files import load_adapter, save_adapter
from egptlib.adapters._fit import FitSettings
from egptlib.adapters._judge import judge, judge_baselines, length_gain
from egptlib.adapters._train import LossSettings, train_adapter
from egptlib.hidden_states import HiddenStates
from egptlib.models import MIDI_FOLDER, MINI_FOLDER, trimmed_tokens, write_card, write_midi_card

_AHEAD: dict[str, Any] = {"ffn_dim": 1024, "max_positions": 128}  # for answers of 50 tokens; a few MB together
SIZES: dict[str, dict[str, dict[str, Any]]] = {
    "mini": {
        "E3": _AHEAD,
        "B1": _AHEAD,
        "L1": {},
        "E3S": {"num_kv_heads": 2, "ffn_dim": 640, "max_positions": 1024},  # as long as the target's
    },
    "midi": {"E3S": {"num_heads": 9, "num_kv_heads": 3, "ffn_dim": 640, "max_positions": 1024}},
}
DRAFTED = 1_024  # tokens that midi's head drafts; the whole lm head costs a fifth of a target step
GAMMAS = (5,)
KNOWN = ("drafter_weights", "target_weights")


def train_mini_heads(
    states: HiddenStates,
    test: HiddenStates,
    out: str | os.PathLike[str] | None = None,
    work: str | os.PathLike[str] | None = None,
    epochs: int = 6,
    levels: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Train the heads of the mini or the midi pair, write them in bfloat16, judge all that are there, and tell it in
    the pair's card.

    Args:
        states, test: samples of the pair along the target's path, with three of the target's layers, that have no
            sequence in common; for E3S with the prompts' rows.
        out: folder of the pair, with its `card.json`; gets `heads/LEVEL` and a new card. None: the shipped one.
        work: run folders, which are continued; None takes `PAIR_heads/` under `data_root()`.
        epochs: at most so many; twice that for L1, whose epochs are short.
        levels: those to train, of the pair's `SIZES`; None: all. Others stay as they are in `out`.

    Returns:
        The pair's card, with `heads`.

    Raises:
        ValueError: samples of another pair, without the target's layers, of other weights in one of the folders, or
            of a sequence that is in both; or another level.
    """
    pair = str(states.config.get("pair"))
    sizes = SIZES.get(pair, SIZES["mini"])
    levels = tuple(sizes) if levels is None else levels
    if unknown := sorted(set(levels) - set(sizes)):
        raise ValueError(f"level {unknown[0]!r}: expected one of {', '.join(sizes)}")
    for each in (states, test):
        if pair not in SIZES or each.config.get("pair") != pair or not len(each) or each[0].target_layers is None:
            raise ValueError(f"{each.folder}: expected samples of the mini pair, with three of the target's layers")
    if shared := sorted(set(states.sequences) & set(test.sequences)):
        raise ValueError(f"{test.folder}: sequence {shared[0]!r} is one of those to train on; expected others")
    for field in (*KNOWN, "layers"):
        if states.config.get(field) != test.config.get(field):
            raise ValueError(f"{test.folder}: field {field!r} is not that of {states.folder}")
    out = {"mini": MINI_FOLDER, "midi": MIDI_FOLDER}[pair] if out is None else Path(out)
    card = read_json(out / "card.json")
    work = data_root() / f"{pair}_heads" if work is None else Path(work)
    lm_head, loss = states.target_head.lm_head, LossSettings(depths=3)
    trained: dict[str, Any] = dict(card.get("heads", {}).get("trained", {}))
    widths: dict[str, Any] = {
        "drafter_size": states[0].drafter_hidden.shape[1],
        "source_layers": states.config["layers"]["target"],
    }
    widths["num_source_layers"] = len(widths["source_layers"])
    if pair == "midi":
        spoken = (sample.token_ids for sample in states)
        count = Counter(token for ids in spoken if ids is not None for token in ids.tolist())
        frequent = [token for token, _ in count.most_common()]
        widths["drafted"] = trimmed_tokens(frequent, min(DRAFTED, len(lm_head))).tolist()
    for level in levels:
        ahead = level != "L1"
        settings = FitSettings(epochs if ahead else 2 * epochs, batch_size=8 if ahead else 32, learning_rate=2e-3)
        torch.manual_seed(settings.seed)
        adapter = create_adapter(level, lm_head.shape[1], **widths, **sizes[level])
        fit = train_adapter(adapter, states, work / level, settings, loss)
        folder = out / "heads" / level
        told = {name: states.config[name] for name in KNOWN}
        save_adapter(load_adapter(work / level).to(torch.bfloat16), folder, epoch=fit.best_epoch, **told)
        trained[level] = {"seconds": fit.seconds, "epochs": len(fit.history)}
        trained[level] |= {"answers": len(states), "sequences": len(states.sequences)}
    heads = {level: out / "heads" / level for level in sizes if level in trained}
    verdicts = [judge(load_adapter(folder), test, lm_head, GAMMAS, name=level) for level, folder in heads.items()]
    verdicts += judge_baselines(test, states, lm_head, GAMMAS)
    (own,) = (verdict.answers for verdict in verdicts if verdict.name == "drafter's own tokens")
    sequences = [note["sequence"] for note in test.metadata()]
    rows = []
    for verdict in sorted(verdicts, key=lambda verdict: -verdict.figures()["mean_acceptance_length"]):
        gain = length_gain(verdict.answers, own, sequences)
        row = {"level": verdict.name, "parameters": verdict.num_parameters, **verdict.figures()}
        rows.append(row | {"gain": gain.value, "low": gain.low, "high": gain.high})
    card["heads"] = {"rows": rows, "trained": trained}
    card["heads"] |= {"test_answers": len(test), "test_sequences": len(test.sequences)}
    answers = {verdict.name: verdict.answers for verdict in verdicts}
    if {"E3", "E3S"} <= answers.keys():
        over = length_gain(answers["E3S"], answers["E3"], sequences)
        card["heads"]["e3s_over_e3"] = {"gain": over.value, "low": over.low, "high": over.high}
    (write_card if pair == "mini" else write_midi_card)(card, out)
    return card
