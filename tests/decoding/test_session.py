"""Questions about one scene: the same answers as one call each, with the scene seen and read once."""

import random
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from egptlib.adapters import create_adapter
from egptlib.decoding import (
    AdapterDrafter,
    CascadeDrafter,
    Drafter,
    DrafterProcess,
    DrafterThread,
    FixedLength,
    HeadDrafter,
    ModelDrafter,
    NgramDrafter,
    PromptReader,
    Recorder,
    RetokenizedDrafter,
    Sampler,
    Sampling,
    SceneSession,
    SequenceDrafter,
    TopK,
    TreeShape,
    adapted_drafter,
    ask_together,
    speculative_generate,
)
from egptlib.decoding._together import drafts_together
from egptlib.measuring import BlankedDrafter
from egptlib.models import Model, Prompt, common_prefix, common_vocabulary, load_pair, shared_vocabulary
from egptlib.models._rows import Rows
from egptlib.scenes import open_scenes

from .conftest import EOS, VOCAB, TextModel, make_model, plain


@pytest.fixture(scope="module", autouse=True)
def importable() -> Iterator[None]:
    """A worker process finds the classes of these tests by name."""
    folder = str(Path(__file__).parent.parent)
    sys.path.insert(0, folder)
    yield
    sys.path.remove(folder)


def adapted(level: str, target: TextModel, drafter: TextModel) -> Drafter:
    torch.manual_seed(0)
    adapter: Any = create_adapter(level, hidden_size=32, num_heads=4, ffn_dim=64, bottleneck=16)
    kind: Any = HeadDrafter if adapter.runs_ahead else AdapterDrafter
    extra = {"source_layers": (1, 2, 3)} if level in ("E3", "DF") else {}
    return kind(drafter, adapter, target, shared_vocabulary(drafter, target), **extra)


def narrow(target: TextModel) -> Drafter:
    model = make_model(5, VOCAB - 5, 1, target, 0.1)
    return ModelDrafter(model, common_vocabulary(model, target))


SLOW = pytest.mark.slow
MAKE: dict[str, Callable[[TextModel, TextModel], Drafter]] = {
    "model": lambda target, drafter: ModelDrafter(drafter, shared_vocabulary(drafter, target)),
    "narrow": lambda target, drafter: narrow(target),
    "nothing": lambda target, drafter: SequenceDrafter(),
    "n-grams": lambda target, drafter: NgramDrafter(),
    "by text": lambda target, drafter: RetokenizedDrafter(drafter, target),
    "cascade": lambda target, drafter: CascadeDrafter(
        make_model(7, layers=2, like=drafter, noise=0.1),
        ModelDrafter(drafter, shared_vocabulary(drafter, target)),
        shared_vocabulary(drafter, target),
    ),
    "thread": lambda target, drafter: DrafterThread(MAKE["model"](target, drafter), target.eos_token_ids),
    "process": lambda target, drafter: DrafterProcess(MAKE["model"](target, drafter), target.eos_token_ids),
    **{level: partial(adapted, level) for level in ("L3", "L5F", "E3", "DF")},
}


def random_questions(chance: random.Random, count: int) -> list[str]:
    return [" ".join(str(chance.randrange(3, VOCAB)) for _ in range(chance.randint(0, 5))) for _ in range(count)]


@pytest.mark.parametrize("kind", [pytest.param(kind, marks=SLOW if kind == "process" else ()) for kind in MAKE])
def test_answers_are_those_of_one_call_each(kind: str, target: TextModel, drafter: TextModel) -> None:
    """Greedy against transformers' generate, drawn against `speculative_generate` with the same chance."""
    chance = random.Random(kind)
    proposes, accepted = MAKE[kind](target, drafter), 0
    for _ in range(2):
        scene = [chance.randrange(3, VOCAB) for _ in range(chance.randint(1, 9))]
        session = SceneSession(target, proposes, scene)
        for question in random_questions(chance, 4):
            limit = chance.randint(1, 20)
            out = session.ask(question, gamma=4, max_new_tokens=limit)
            prompt = [*scene, *map(int, question.split())]
            assert out.token_ids.tolist() == plain(target, prompt, limit), (scene, question)
            accepted += sum(r.accepted for r in out.rounds)
        if kind in ("thread", "process"):  # how far it drafts ahead is up to the clock, and so is what is drawn
            continue
        options: dict[str, Any] = {"gamma": 3, "max_new_tokens": 12, "sampling": Sampling(0.7, top_k=8)}
        drawn = session.ask("5 7", generator=torch.Generator().manual_seed(3), **options)
        options["generator"] = torch.Generator().manual_seed(3)
        expected = speculative_generate(target, MAKE[kind](target, drafter), scene, "5 7", **options)
        assert torch.equal(drawn.token_ids, expected.token_ids)
    assert accepted > 0 or kind in ("nothing", "by text", "L5F", "E3", "DF")
    if isinstance(proposes, DrafterThread | DrafterProcess):
        proposes.close()


@pytest.mark.parametrize(
    "kind",
    [
        *("model", "narrow", "nothing", "n-grams"),
        *(pytest.param(kind, marks=SLOW) for kind in ("by text", "L5F", "E3", "DF")),
    ],
)
def test_answers_together_are_those_alone(kind: str, target: TextModel, drafter: TextModel) -> None:
    """Three scenes of none to five questions at once; drawn answers depend on nothing but their own chance."""
    chance = random.Random(kind)
    proposes, accepted = MAKE[kind](target, drafter), 0
    scenes = [[chance.randrange(3, VOCAB) for _ in range(length)] for length in (0, 4, 9)]
    asked = [
        (SceneSession(target, proposes, scene), [q or "7" for q in random_questions(chance, number)])
        for scene, number in zip(scenes, (3, 0, 5), strict=True)
    ]
    expected = [
        [plain(target, [*session.scene, *map(int, question.split())], 40) for question in questions]
        for session, questions in asked
    ]
    for limit, gamma in ((1, 3), (14, 4), (40, FixedLength(7, 0.3)), (9, 0)):
        answers = ask_together(asked, gamma=gamma, max_new_tokens=limit)
        for each, outs in zip(expected, answers, strict=True):
            for whole, out in zip(each, outs, strict=True):
                assert out.token_ids.tolist() == whole[:limit], (whole, limit)
                assert sum(r.gained for r in out.rounds) == len(out.token_ids) - 1
                accepted += sum(r.accepted for r in out.rounds)
    assert accepted > 0 or kind in ("nothing", "by text", "L5F", "E3", "DF")
    session, questions = asked[2]
    assert session.ask(questions[0]).token_ids.tolist() == session.ask_all(questions)[0].token_ids.tolist()
    options: dict[str, Any] = {"max_new_tokens": 10, "sampling": Sampling(0.9), "gamma": 3}
    if drafts_together(proposes, target):
        few, many = (
            session.ask_all(some, generator=torch.Generator().manual_seed(1), **options)
            for some in (questions[:2], questions)
        )
        assert all(torch.equal(a.token_ids, b.token_ids) for a, b in zip(few, many, strict=False))


@SLOW
def test_together_draws_from_the_targets_distribution(target: TextModel, drafter: TextModel) -> None:
    """First two tokens of many rows against the exact distribution."""
    session, sampling = SceneSession(target, drafter, [5, 9, 4]), Sampling(0.8, top_k=6)
    num_rows, found = 1500, torch.zeros(VOCAB, VOCAB)
    generator = torch.Generator().manual_seed(0)
    for out in session.ask_all(["7"] * num_rows, gamma=2, max_new_tokens=3, sampling=sampling, generator=generator):
        tokens = out.token_ids.tolist()
        found[tokens[0], tokens[1] if len(tokens) > 1 else EOS] += 1 / num_rows
    state = target.prefill(target.encode([5, 9, 4], "7"))
    expected = torch.zeros(VOCAB, VOCAB)
    for first, p in enumerate(sampling.probabilities(state.logits[0]).tolist()):
        if first == EOS:
            expected[first, EOS] = p
        elif p:
            _, logits = target.forward_answer(target.encode([5, 9, 4], "7"), [first, 0])
            expected[first] = p * sampling.probabilities(logits[1])
    assert 0.5 * (found - expected).abs().sum() < 0.06  # total variation; with 36 outcomes chance alone gives 0.05


def test_a_lossy_rule_may_draw_together_what_it_has_refused(target: TextModel) -> None:
    """Each answer replayed by hand; a drafted token that is not the likeliest is refused, and may still be drawn."""
    hot, chance, redrawn = Sampling(1.5, top_k=3), random.Random(0), 0
    asked = [" ".join(f"t{chance.randrange(3, 24)}" for _ in range(200)) for _ in range(6)]  # n-grams find all in it
    drafter, prompt = NgramDrafter(target.tokenizer), target.encode([5, 9, 4], "")
    options: dict[str, Any] = {"gamma": 3, "max_new_tokens": 9, "sampling": hot, "rule": TopK(1)}
    generator = torch.Generator().manual_seed(1)
    together = SceneSession(target, drafter, [5, 9, 4]).ask_all(asked, generator=generator, **options)
    seeds = torch.randint(2**62, (6,), generator=generator.manual_seed(1)).tolist()
    for out, question, seed in zip(together, asked, seeds, strict=True):
        drawing, tokens = Sampler(hot, torch.Generator().manual_seed(seed)), list[int]()
        drafter.start(None, question, Recorder())
        while len(tokens) < 9 and tokens[-1:] != [EOS]:
            draft = drafter.propose(tokens, min(3, 8 - len(tokens)), drawing).tokens if tokens else []
            logits = target.forward_answer(prompt, [*tokens, *draft, 0])[1][len(tokens) :]
            kept = common_prefix(draft, logits.argmax(dim=-1).tolist())
            tokens += [*draft[:kept], drawing.choose(logits[kept])]
            redrawn += draft[kept : kept + 1] == tokens[-1:]
        assert out.token_ids.tolist() == tokens
    assert redrawn


def test_together_with_models_of_other_kinds(target: TextModel, drafter: TextModel) -> None:
    """bfloat16 rounds; a hooked model takes its own layers; sessions have to be of one pair."""
    hooked = make_model(0, layers=3)
    hooked.module.model.layers[1].register_forward_hook(lambda module, inputs, output: None)
    outs = SceneSession(hooked, drafter, [5, 9, 4]).ask_all(["7", "8 3", "4"], max_new_tokens=12)
    expected = [plain(target, [5, 9, 4, *rest], 12) for rest in ([7], [8, 3], [4])]
    assert [out.token_ids.tolist() for out in outs] == expected
    with pytest.raises(ValueError, match="expected sessions with one target and one drafter"):
        ask_together([(SceneSession(each, drafter, [5]), ["7"]) for each in (target, hooked)])
    with pytest.raises(ValueError, match="max_new_tokens: expected at least 1"):
        SceneSession(target, drafter, [5]).ask_all(["7"], max_new_tokens=0)
    assert ask_together([]) == []
    assert SceneSession(target, drafter, [5]).ask_all([]) == []


class Positioned(TextModel):
    """A plain Llama whose prompts carry their positions, as those of classes with M-RoPE do."""

    def embed(self, inputs: Any) -> Prompt:  # type: ignore[override]
        embeds = self.token_embedding(inputs.input_ids)
        return Prompt(embeds, {"position_ids": torch.arange(embeds.shape[1])[None]})


@pytest.mark.parametrize("which", ["target", "drafter"])
def test_prompts_of_more_than_embeddings_are_answered_one_by_one(
    which: str, target: TextModel, drafter: TextModel
) -> None:
    asked = ["7", "8 3", "4"]
    expected = [out.token_ids.tolist() for out in SceneSession(target, drafter, [5, 9, 4]).ask_all(asked)]
    models = {"target": target, "drafter": drafter}
    model = models[which]
    models[which] = Positioned(model.module, model.tokenizer, model.name)
    session = SceneSession(models["target"], models["drafter"], [5, 9, 4])
    assert [out.token_ids.tolist() for out in session.ask_all(asked)] == expected
    hot = Sampling(0.9)
    drawn = session.ask_all(asked[:1], generator=torch.Generator().manual_seed(4), sampling=hot)[0]
    alone = session.ask(asked[0], generator=torch.Generator().manual_seed(4), sampling=hot)
    assert torch.equal(drawn.token_ids, alone.token_ids)  # no chance was spent on the attempt


def test_a_scenes_beginning_is_read_and_stored_once(
    target: TextModel, drafter: TextModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, kept = list[int](), list[Any]()
    monkeypatch.setattr(target, "prefill", counting(target, read))
    add = Rows.add

    def noted(self: Rows, state: Any, rows: Any) -> None:
        add(self, state, rows)
        if self.model is target:
            kept.append(self)
            assert self._scenes[-1].prefix[0][0].data_ptr() == state.cache.buffer.data_ptr()

    monkeypatch.setattr(Rows, "add", noted)
    scene = [chance % 20 + 3 for chance in range(200)]
    session = SceneSession(target, drafter, scene)
    for _ in range(2):
        session.ask_all(["7 8", "9", "7 10 11"], max_new_tokens=20)
    session.ask("9")
    assert read == [200, 1]
    assert [0 < rows._own[0].shape[3] < 200 for rows in kept] == [True, True]


def test_only_what_is_new_is_read(target: TextModel, drafter: TextModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both models, by the tokens that pass through them at each prefill."""
    read: dict[str, list[int]] = {"target": [], "drafter": []}
    for model in (target, drafter):
        monkeypatch.setattr(model, "prefill", counting(model, read[model.name]))
    scene = [5, 9, 4, 7, 7, 3, 8]
    session = SceneSession(target, drafter, scene)
    for question in ("6 10", "6 11 12", "6 11 12", "13", ""):
        session.ask(question, max_new_tokens=9)
    assert read["target"] == read["drafter"] == [9, 2, 1, 1, 1]
    # A second session on the same drafter: it changes scenes, and both stay right.
    other = SceneSession(target, session.drafter, [4, 4, 6])
    assert other.ask("9").token_ids.tolist() == plain(target, [4, 4, 6, 9], 50)
    assert session.ask("6").token_ids.tolist() == plain(target, [*scene, 6], 50)
    assert read["target"][5:] == [4, 1]
    assert read["drafter"][5:] == [4, 8]


def counting(model: Model, widths: list[int]) -> Callable[..., Any]:
    original = model.prefill

    def prefill(prompt: Any, layers: Any = (), after: Any = None, whole: bool = False) -> Any:
        widths.append(prompt.embeds.shape[1] - (0 if after is None else after.length))
        return original(prompt, layers, after, whole)

    return prefill


def interrupt(x: Any) -> Any:
    raise KeyboardInterrupt


def test_what_happens_between_questions(drafter: TextModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """New weights, hooks that change the pass, and a pass that was cut short."""
    changed, scene = make_model(0, layers=3), [5, 9, 4, 7, 7, 3]
    session = SceneSession(changed, drafter, scene)
    assert session.ask("8").token_ids.tolist() == plain(changed, [*scene, 8], 50)
    with torch.no_grad():
        changed.module.model.layers[0].self_attn.v_proj.weight.mul_(-1)
    assert session.ask("8 3").token_ids.tolist() == plain(changed, [*scene, 8, 3], 50)
    handle = changed.module.model.layers[1].register_forward_hook(lambda module, inputs, output: None)
    assert session.ask("8 3 4").token_ids.tolist() == plain(changed, [*scene, 8, 3, 4], 50)
    handle.remove()
    assert session.ask("8 4").token_ids.tolist() == plain(changed, [*scene, 8, 4], 50)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("torch.nn.functional.silu", interrupt)
        session.ask("9")
    assert session.ask("9 4").token_ids.tolist() == plain(changed, [*scene, 9, 4], 50)


def test_the_reader_gives_the_layers_asked_for(target: TextModel) -> None:
    reader = PromptReader(target, [5, 9, 4], "target")
    reader.read("7 8", Recorder(), (1,))
    kept = reader.read("7 3", Recorder(), (2, 3))
    anew = PromptReader(target, [5, 9, 4], "target").read("7 3", Recorder(), (2, 3))
    assert list(kept.layers) == [2, 3]
    for number, states in anew.layers.items():
        torch.testing.assert_close(kept.layers[number], states, atol=1e-5, rtol=1e-5)


@SLOW
def test_a_scene_of_the_mini_pair(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """Towers see the pictures once; with the drafter and with its control the answers are the target's own."""
    monkeypatch.setenv("EGPTLIB_DATA", str(tmp_path))
    pair, scene = load_pair("mini"), open_scenes("streets", num_sequences=1, event_views=5)[0]
    own = [pair.target.greedy(scene, question, 20).token_ids.tolist() for question in scene.questions[:3]]
    seen: list[int] = []
    for tower in (pair.target.module.model.video_tower, pair.drafter.module.visual_tower):
        tower.register_forward_hook(lambda *_: seen.append(1))
    drafter = ModelDrafter(pair.drafter, shared_vocabulary(pair.drafter, pair.target))
    for proposes in (drafter, BlankedDrafter(drafter)):
        seen.clear()
        session = SceneSession(pair.target, proposes, scene)
        outs = [session.ask(question, max_new_tokens=20) for question in scene.questions[:3]]
        assert [out.token_ids.tolist() for out in outs] == own
        assert len(seen) == 2
        assert all(len([e for e in out.events if e.stage == "prefill"]) == 2 for out in outs)
    together = SceneSession(pair.target, pair.drafter, scene).ask_all(scene.questions[:3], max_new_tokens=20)
    assert [out.token_ids.tolist() for out in together] == own


@SLOW
def test_a_block_drafts_for_the_mini_pair(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """DF with random weights, losslessly: a chain, one as long as it is sure, a tree, and two questions together."""
    monkeypatch.setenv("EGPTLIB_DATA", str(tmp_path))
    pair, scene = load_pair("mini"), open_scenes("streets", num_sequences=1, event_views=5)[0]
    torch.manual_seed(0)
    head = create_adapter("DF", pair.target.hidden_size, ffn_dim=64, source_layers=(2, 5, 8))
    proposes, questions = adapted_drafter(pair, head), scene.questions[:2]
    own = [pair.target.greedy(scene, question, 8).token_ids.tolist() for question in questions]
    for gamma in (5, FixedLength(4, 0.001), TreeShape(6, 3, 2)):
        out = speculative_generate(pair.target, proposes, scene, questions[0], gamma=gamma, max_new_tokens=8)
        assert out.token_ids.tolist() == own[0] and out.num_drafted_tokens > 0
    together = SceneSession(pair.target, proposes, scene).ask_all(questions, max_new_tokens=8)
    assert [out.token_ids.tolist() for out in together] == own


def test_one_text_is_not_several_questions(target: TextModel, drafter: TextModel) -> None:
    with pytest.raises(ValueError, match="questions: expected a list of texts, found one text: '3 4'"):
        SceneSession(target, drafter, [5, 9]).ask_all("3 4")
