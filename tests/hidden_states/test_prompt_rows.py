"""What the target has in mind along its prompts: kept beside the samples, found again, and given to other trainers."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
import torch
from safetensors.torch import load_file

from egptlib.hidden_states import (
    Head,
    HiddenStates,
    HiddenStateWriter,
    PromptRows,
    check_store,
    convert_states,
    read_prompt,
)

H, V, LAYERS = 8, 12, 2


def prompt(length: int, seed: int, beginning: int = 5) -> PromptRows:
    """Prompts of one seed begin alike."""
    common, rest = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(100 * seed + length)
    shapes: list[tuple[int, ...]] = [(H,), (LAYERS, H)]
    states = [
        torch.cat([torch.randn(beginning, *s, generator=common), torch.randn(length - beginning, *s, generator=rest)])
        for s in shapes
    ]
    ids = torch.cat([torch.arange(beginning), torch.full((length - beginning,), length)])
    return PromptRows(ids, *states)


def made(folder: Path) -> tuple[HiddenStates, dict[tuple[str, str], PromptRows]]:
    prompts = {("a/1", f"q{n}"): prompt(7 + n, 1) for n in range(3)} | {("b", "q0"): prompt(6, 2)}
    told = {"pair": "toy", "layers": {"target": [1, 2]}, "prompt_rows": True}
    with HiddenStateWriter(folder, config=told) as writer:
        for scene in ("a/1", "b"):
            writer.add_prompts(scene, {q: rows for (s, q), rows in prompts.items() if s == scene})
        for n, ((scene, question), rows) in enumerate(prompts.items()):
            hidden, layers = torch.randn(4 + n, H), torch.randn(4 + n, LAYERS, H)
            hidden[0], layers[0] = rows.target_hidden[-1], rows.target_layers[-1]
            writer.add(
                drafter_hidden=hidden,
                target_hidden=hidden,
                token_ids=torch.arange(4 + n),
                drafter_top1=torch.arange(4 + n),
                target_layers=layers,
                metadata={"scene": scene, "sequence": scene, "question": question},
            )
        writer.add_heads(target=Head(torch.randn(V, H), torch.rand(H) + 0.5, 1e-6))
    return HiddenStates.open(folder), prompts


def test_prompts_come_back_and_what_they_share_is_kept_once(tmp_path: Path) -> None:
    states, prompts = made(tmp_path)
    for sample, wanted in zip(states, prompts.values(), strict=True):
        assert sample.prompt is not None
        for found, part in zip(read_prompt(sample.prompt), wanted, strict=True):
            torch.testing.assert_close(found, part, check_dtype=False)
    (batch,) = states.stream(8)
    assert [p.question for p in batch.padded().prompts if p] == ["q0", "q1", "q2", "q0"]
    sizes = {path.stat().st_size for path in tmp_path.glob("prompts/*")}
    state = 4 * H * (LAYERS + 1)
    assert max(sizes) < (5 + 2 + 3 + 4) * state + 2500  # not three times the beginning
    assert check_store(tmp_path, deep=True) == []
    assert states[0].clone().prompt == states[0].prompt


def test_further_questions_join_those_that_are_there(tmp_path: Path) -> None:
    states, prompts = made(tmp_path)
    with HiddenStateWriter(tmp_path, config=states.config) as writer:
        writer.add_prompts("b", {"q1": prompt(9, 2), "q2": prompt(8, 2, beginning=3)})
    stored = states[3].prompt
    assert stored is not None
    for question, wanted in (("q0", prompts["b", "q0"]), ("q1", prompt(9, 2)), ("q2", prompt(8, 2, beginning=3))):
        found = read_prompt(stored._replace(question=question))
        torch.testing.assert_close(found.target_layers[3:], wanted.target_layers[3:])
        assert found.token_ids.tolist() == wanted.token_ids.tolist()
    with pytest.raises(ValueError, match="scene 'b': no prompt of the question 'q9'"):
        read_prompt(stored._replace(question="q9"))


def test_damaged_prompts_are_found(tmp_path: Path) -> None:
    made(tmp_path)
    first, second = sorted(tmp_path.glob("prompts/*"))
    data = bytearray(first.read_bytes())
    data[-400] ^= 1
    first.write_bytes(data)
    second.unlink()
    problems = check_store(tmp_path, deep=True)
    assert len(problems) == 2 and {str(first), str(second)} <= {p for each in problems for p in str(each).split(": ")}
    with pytest.raises((ValueError, FileNotFoundError)):
        convert_states(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out" / "state.json").exists()


def test_sequences_for_speculators(tmp_path: Path) -> None:
    states, prompts = made(tmp_path / "store")
    told = convert_states(tmp_path / "store", tmp_path / "out")
    lengths = [7 + 3, 8 + 4, 9 + 5, 6 + 6]
    assert (told.num_sequences, told.num_positions) == (4, sum(lengths))
    assert told.padded_bytes == 4 * 14 * (LAYERS + 1) * H * 4
    sizes = [
        sum(path.stat().st_size for path in (tmp_path / name).rglob("*") if path.is_file()) for name in ("out", "store")
    ]
    assert [told.num_bytes, told.store_bytes] == sizes
    with pyarrow.memory_map(str(tmp_path / "out" / "data-00000-of-00001.arrow")) as file:
        table = pyarrow.ipc.open_stream(file).read_all()
    rows = table.to_pylist()
    assert list(json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]) == table.column_names
    head = states.target_head
    for number, (row, sample, before) in enumerate(zip(rows, states, prompts.values(), strict=True)):
        file = load_file(tmp_path / "out" / "hidden_states" / f"hs_{number}.safetensors")
        assert sample.token_ids is not None and sample.target_layers is not None
        ids = [*before.token_ids.tolist(), *sample.token_ids[:-1].tolist()]
        assert file["token_ids"].tolist() == row["input_ids"] == ids and row["seq_len"] == len(ids) == lengths[number]
        first = len(before.token_ids)
        assert row["loss_mask"] == [0] * first + [1] * (len(ids) - first)
        found = file["hidden_states"]
        torch.testing.assert_close(found[first - 1 :, :-1], sample.target_layers)
        normed = head.normalise(found[first - 1 :, -1])
        rms = sample.target_hidden / head.norm  # what the store holds is made up: no norm has given it
        torch.testing.assert_close(normed, head.normalise(rms))
    # The two files that `datasets.load_from_disk` reads before the rows.
    lists = {"feature": {"dtype": "int64", "_type": "Value"}, "_type": "List"}
    features = {"input_ids": lists, "loss_mask": lists, "seq_len": {"dtype": "int64", "_type": "Value"}}
    info, state = (json.loads((tmp_path / "out" / f"{name}.json").read_text()) for name in ("dataset_info", "state"))
    assert info == {"citation": "", "description": "", "features": features, "homepage": "", "license": ""}
    assert state == {
        "_data_files": [{"filename": "data-00000-of-00001.arrow"}], "_fingerprint": "0000000000000004",
        "_format_columns": list(features), "_format_kwargs": {}, "_format_type": "torch",
        "_output_all_columns": False, "_split": None,
    }  # fmt: skip
    frequencies = torch.load(tmp_path / "out" / "token_freq.pt", weights_only=True)
    assert frequencies == {0: 4, 1: 4, 2: 4, 3: 3, 4: 2, 5: 1}
    with pytest.raises(ValueError, match="expected an empty folder"):
        convert_states(tmp_path / "store", tmp_path / "out")


_THEIRS = """
import sys
import numpy as np
from speculators.models.eagle3.data import shift_batch
from speculators.train.data import ArrowDataset, CollateFn
import torch

folder, out = sys.argv[1:]
data = ArrowDataset(4096, folder, on_missing="raise", hidden_states_dtype=torch.float32)
batch = CollateFn(1024, data[0]["verifier_last_hidden_states"].shape[1], 3, torch.float32, shift_batch)([data[1]])
np.savez(out, lengths=data.approx_lengths, **{k: v.numpy() for k, v in batch.items() if hasattr(v, "numpy")})
"""


@pytest.mark.slow
def test_speculators_own_dataset_reads_the_model_s_own_states(tmp_path: Path, repository: Path) -> None:
    """What its loader gives to training, beside one plain pass of transformers' class over the whole sequence."""
    from egptlib.hidden_states import extract
    from egptlib.models import load_pair
    from egptlib.scenes import open_scenes

    packages = repository / ".venv" / "served"
    if not (packages / "speculators").is_dir():
        pytest.skip("no speculators; `make slow` installs it beside the tested packages (requirements-served.txt)")
    pair, scenes = load_pair("mini"), open_scenes("streets", num_sequences=1)[:1]
    extract(pair, scenes, tmp_path / "store", num_questions=2, layers={"target": (2, 5, 8)}, prompt_rows=True)
    told = convert_states(tmp_path / "store", tmp_path / "set")
    environment = os.environ | {"PYTHONPATH": str(packages), "HF_HUB_OFFLINE": "1"}
    command: list[Any] = [sys.executable, "-c", _THEIRS, tmp_path / "set", tmp_path / "read.npz"]
    subprocess.run(command, env=environment, check=True)
    read = np.load(tmp_path / "read.npz")
    assert sum(read["lengths"]) == told.num_positions
    sample = HiddenStates.open(tmp_path / "store")[1]
    assert sample.token_ids is not None
    inputs = pair.target.encode(scenes[0], sample.metadata["question"])
    answer = sample.token_ids[:-1].long()
    ids = torch.cat([inputs.input_ids[0], answer])
    with torch.no_grad():
        embeds = pair.target.embed(inputs)
        assert isinstance(embeds, torch.Tensor)
        whole = torch.cat([embeds, pair.target.token_embedding(answer[None])], dim=1)
        states = pair.target.language_model(inputs_embeds=whole, output_hidden_states=True).hidden_states
    n = len(ids) - 1  # their shift: token i + 1 beside state i
    assert read["input_ids"][0, :n].tolist() == ids[1:].tolist()
    layers = torch.cat([states[number][0, :-1] for number in (2, 5, 8)], dim=-1)
    np.testing.assert_allclose(read["hidden_states"][0, :n], layers.numpy(), atol=1e-4)
    normed = pair.target.final_norm(torch.from_numpy(read["verifier_last_hidden_states"][0, :n]))
    np.testing.assert_allclose(normed.detach().numpy(), states[-1][0, 1:].numpy(), atol=1e-4)
    assert read["loss_mask"][0, :n].tolist() == [0] * (inputs.input_ids.shape[1] - 1) + [1] * len(answer)
    assert json.loads((tmp_path / "set" / "state.json").read_text())["_format_type"] == "torch"
