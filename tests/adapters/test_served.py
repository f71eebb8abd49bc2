"""E3S: the numbers of the servers' own classes, names and shapes as published, and folders that come back."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from egptlib.adapters import (
    HeadRun,
    ServedHead,
    create_adapter,
    export_head,
    load_adapter,
    save_adapter,
    token_states,
)
from egptlib.models import load_pair

H, V, FFN, LAYERS = 64, 96, 80, (2, 5, 8)
PUBLISHED = {
    "fc.weight": (H, 3 * H),
    "layers.0.input_layernorm.weight": (H,),
    "layers.0.hidden_norm.weight": (H,),
    "layers.0.post_attention_layernorm.weight": (H,),
    "layers.0.self_attn.q_proj.weight": (H, 2 * H),
    "layers.0.self_attn.k_proj.weight": (H // 2, 2 * H),
    "layers.0.self_attn.v_proj.weight": (H // 2, 2 * H),
    "layers.0.self_attn.o_proj.weight": (H, H),
    "layers.0.mlp.gate_proj.weight": (FFN, H),
    "layers.0.mlp.up_proj.weight": (FFN, H),
    "layers.0.mlp.down_proj.weight": (H, FFN),
    "norm.weight": (H,),
    "lm_head.weight": (V // 2, H),
    "embed_tokens.weight": (V, H),
    "d2t": (V // 2,),
    "t2d": (V,),
}
"""Read off speculators 0.9.0, `speculators/models/eagle3`, with two heads of keys for four of queries."""


def head(seed: int = 0, **settings: Any) -> ServedHead:
    torch.manual_seed(seed)
    sizes: dict[str, Any] = {"num_heads": 4, "num_kv_heads": 2, "ffn_dim": FFN, "source_layers": LAYERS}
    made = create_adapter("E3S", H, **sizes | settings).eval()
    assert isinstance(made, ServedHead)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return made


@pytest.fixture
def target() -> Any:
    torch.manual_seed(7)
    module = torch.nn.Linear(H, V, bias=False)
    return SimpleNamespace(lm_head=module, module=module)


def given(count: int) -> tuple[Tensor, Tensor]:
    torch.manual_seed(3)
    return torch.randn(1, count, 3, H), torch.randint(0, V, (1, count))


@pytest.mark.parametrize("form", ["speculators", "sglang"])
@pytest.mark.parametrize("before", [False, True])
def test_an_exported_head_comes_back_and_says_the_same(target: Any, tmp_path: Path, form: str, before: bool) -> None:
    made = head(norm_before_residual=before and form == "speculators", rope_theta=5e4)
    even = range(0, V, 2)
    folder = export_head(made, target, tmp_path / "head", form, tokens=even, verifier="models/target")
    tensors = load_file(folder / "model.safetensors")
    names = {name.replace("midlayer.", "layers.0."): tuple(tensor.shape) for name, tensor in tensors.items()}
    assert names == PUBLISHED and ("midlayer.mlp.up_proj.weight" in tensors) is (form == "sglang")
    assert (torch.arange(V // 2) + tensors["d2t"]).tolist() == list(even) == tensors["t2d"].nonzero()[:, 0].tolist()
    config = json.loads((folder / "config.json").read_text())
    if form == "sglang":  # which takes the states behind layer j where vLLM takes those before it
        assert config["eagle_config"]["eagle_aux_hidden_state_layer_ids"] == [1, 4, 7]
    else:
        assert config["eagle_aux_hidden_state_layer_ids"] == [2, 5, 8] and config["norm_before_residual"] is before
    back = load_adapter(folder)
    assert isinstance(back, ServedHead) and back.settings.source_layers == LAYERS
    layers, ids = given(9)
    weight = target.lm_head.weight
    with torch.no_grad():
        ours = made.ahead(layers, token_states(ids, weight), depths=3)
        theirs = back.ahead(layers, back.look_up(ids[0], weight)[None], depths=3)
        for a, b in zip(ours, theirs, strict=True):
            said = back.logits(b, weight)
            torch.testing.assert_close(said[..., ::2], made.logits(a, weight)[..., ::2])
            assert torch.isneginf(said[..., 1::2]).all()


def test_read_row_by_row_it_is_the_same() -> None:
    made = head()
    layers, ids = given(7)
    states = token_states(ids, torch.randn(V, H))
    with torch.no_grad():
        ahead = made.ahead(layers, states, depths=3)
        run = HeadRun(made)
        for first, last in ((0, 3), (3, 4)):
            state = run.read(layers[0, first:last], states[0, first:last])
        torch.testing.assert_close(state, ahead[0][0, 3])
        for depth in (1, 2):
            state = run.go_on(torch.empty(0), states[0, 3 + depth : 4 + depth])
            torch.testing.assert_close(state, ahead[depth][0, 3])
        run.crop(2)
        torch.testing.assert_close(run.read(layers[0, 2:6], states[0, 2:6]), ahead[0][0, 5])


def test_behind_a_prompt_it_says_what_it_says_along_the_whole_sequence() -> None:
    """Prompts of two lengths in a batch, training's way and a decoder's, against one long row each."""
    made, lm_head = head(), torch.randn(V, H)
    answer, prompts = 6, (11, 4)
    whole = [(layers, token_states(ids, lm_head)) for layers, ids in (given(p + answer) for p in prompts)]
    rows = [[part[0, :p] for part in parts] for p, parts in zip(prompts, whole, strict=True)]
    padded = [pad_sequence(list(parts), batch_first=True, padding_side="left") for parts in zip(*rows, strict=True)]
    valid = torch.arange(max(prompts)) >= max(prompts) - torch.tensor(prompts)[:, None]
    behind = [torch.cat([part[:, -answer:] for part in parts]) for parts in zip(*whole, strict=True)]
    with torch.no_grad():
        found = made.ahead(*behind, depths=3, before=made.before(valid, *padded))
        for i, (parts, own) in enumerate(zip(whole, rows, strict=True)):
            wanted = made.ahead(*parts, depths=3)
            for depth in range(3):
                last = answer - depth  # behind it tokens are not known
                torch.testing.assert_close(found[depth][i, :last], wanted[depth][0, -answer:][:last])
            run = HeadRun(made)
            run.begin(*own)
            run.read(*(part[0, -answer : 3 - answer] for part in parts))
            run.crop(2)
            state = run.read(*(part[0, 2 - answer : 4 - answer] for part in parts))
            torch.testing.assert_close(state, wanted[0][0, 3 - answer])
            ahead = run.go_on(torch.empty(0), parts[1][0, 4 - answer : 5 - answer])
            torch.testing.assert_close(ahead, wanted[1][0, 3 - answer])


def test_what_cannot_be_served_or_opened_is_named(target: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="level E3: expected an E3S"):
        export_head(create_adapter("E3", H), target, tmp_path / "a")
    with pytest.raises(ValueError, match="source_layers are not known"):
        export_head(head(source_layers=()), target, tmp_path / "a")
    with pytest.raises(ValueError, match="format 'gguf': expected one of speculators, sglang"):
        export_head(head(), target, tmp_path / "a", "gguf")
    with pytest.raises(ValueError, match=r"tokens: expected ids from 0 to 95, found \[96\]|\[0\]"):
        export_head(head(), target, tmp_path / "a", tokens=[0, 96])
    folder = export_head(head(), target, tmp_path / "a")
    with pytest.raises(ValueError, match="expected an empty folder"):
        export_head(head(), target, folder)
    whole = json.loads((folder / "config.json").read_text())
    for name, value, told in (
        ("norm_output", True, "norm_output: expected False, found True"),
        ("speculators_model_type", "eagle", "expected speculators_model_type 'eagle3'"),
        ("norm_before_residual", None, "norm_before_residual is missing"),
        ("transformer_layer_config", {"hidden_size": "x"}, "hidden_size: expected a whole number above 0, found 'x'"),
    ):
        changed = {key: kept for key, kept in (whole | {name: value}).items() if kept is not None}
        (folder / "config.json").write_text(json.dumps(changed))
        with pytest.raises(ValueError, match=told):
            load_adapter(folder)


def test_stored_states_do_not_judge_a_head_with_its_own_lm_head(target: Any, tmp_path: Path) -> None:
    from egptlib.adapters._batches import given as inputs

    published = load_adapter(export_head(head(), target, tmp_path / "head"))
    batch: Any = SimpleNamespace()
    with pytest.raises(ValueError, match="an lm head of its own"):
        inputs(published, batch, target.lm_head.weight)
    save_adapter(published, tmp_path / "kept")
    again = load_adapter(tmp_path / "kept")
    assert torch.equal(again.state_dict()["d2t"], published.state_dict()["d2t"])


_THEIRS = """
import sys
import numpy as np
import torch
from speculators.models.eagle3 import Eagle3DraftModel

folder, given, out = sys.argv[1:]
model, said = Eagle3DraftModel.from_pretrained(folder).eval(), []
model.lm_head.register_forward_hook(lambda module, inputs, output: said.append(output.detach()[0].numpy()))
data = np.load(given)
layers, ids = torch.from_numpy(data["layers"]), torch.from_numpy(data["ids"])
with torch.no_grad():
    model(hidden_states=layers.flatten(-2), input_ids=ids, document_ids=torch.zeros_like(ids), ttt_steps=3)
np.savez(out, *said)
"""


def agrees(made: ServedHead, target: Any, tokens: range, folder: Path, repository: Path) -> None:
    """Logits of three steps of training-time test, at every anchor, to 1e-4; they agree to about 1e-6."""
    from transformers import LlamaConfig, LlamaForCausalLM

    packages = repository / ".venv" / "served"
    if not (packages / "speculators").is_dir():
        pytest.skip("no speculators; `make slow` installs it beside the tested packages (requirements-served.txt)")
    weight, size = target.lm_head.weight.detach(), made.settings.hidden_size
    verifier = LlamaConfig(
        hidden_size=size, intermediate_size=32, num_hidden_layers=10, num_attention_heads=4, vocab_size=len(weight)
    )
    LlamaForCausalLM(verifier).save_pretrained(folder / "verifier")
    head = export_head(made, target, folder / "head", tokens=tokens, verifier=str(folder / "verifier"))
    torch.manual_seed(3)
    layers, ids = torch.randn(1, 128, 3, size), torch.randint(0, len(weight), (1, 128))  # a block of its attention
    np.savez(folder / "given.npz", layers=layers.numpy(), ids=ids.numpy())
    environment = os.environ | {"PYTHONPATH": str(packages), "HF_HUB_OFFLINE": "1"}
    command: list[Any] = [sys.executable, "-c", _THEIRS, head, folder / "given.npz", folder / "said.npz"]
    subprocess.run(command, env=environment, check=True)
    said = np.load(folder / "said.npz")
    with torch.no_grad():
        for depth, state in enumerate(made.ahead(layers, token_states(ids, weight), depths=3)):
            ours, rows = made.logits(state, weight)[0, :, list(tokens)].numpy(), slice(None, 128 - depth)
            np.testing.assert_allclose(ours[rows], said[f"arr_{depth}"][rows], atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("before", [False, True])
def test_speculators_own_class_opens_it_and_agrees(target: Any, tmp_path: Path, repository: Path, before: bool) -> None:
    agrees(head(norm_before_residual=before), target, range(0, V, 2), tmp_path, repository)


@pytest.mark.slow
def test_it_opens_the_mini_pairs_head(tmp_path: Path, repository: Path) -> None:
    pair, made = load_pair("mini"), load_adapter("mini-E3S").float().eval()
    assert isinstance(made, ServedHead)
    agrees(made, pair.target, range(0, pair.target.vocab_size, 2), tmp_path, repository)
