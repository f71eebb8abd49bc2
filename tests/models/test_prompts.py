"""Prompts and their ids, against the SentencePiece library on the real vocabulary."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from transformers import AddedToken

from egptlib.models import EVENT_PLACEHOLDER
from egptlib.models._checkpoint import load_tokenizer
from egptlib.models._prompts import (
    add_event_tokens,
    eventgpt_prompt,
    tokenize_eventgpt,
    tokenize_video_llava,
    video_llava_prompt,
)
from egptlib.recorded import open_recorded
from egptlib.scenes import QUESTIONS

from .conftest import event_config, make_tokenizer

QUESTION = "What is happening?"
# tokenizer_config.json as published with Vicuna-7B; its `legacy` says nothing of EventGPT's ids, which meet no special
# token. Video-LLaVA's do, and the lengths that were recorded are of `legacy: false` (below).
VICUNA = {
    "add_bos_token": True, "add_eos_token": False, "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>",
    "legacy": True, "model_max_length": 2048, "tokenizer_class": "LlamaTokenizer",
    "clean_up_tokenization_spaces": False,
}  # fmt: skip


@pytest.fixture(scope="module", params=["tokenizer_config.json", "tokenizer.model alone"])
def vicuna(request: pytest.FixtureRequest, shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("vicuna")
    shutil.copy(shared / "golden" / "llama_tokenizer.model", folder / "tokenizer.model")
    if request.param == "tokenizer_config.json":
        (folder / "tokenizer_config.json").write_text(json.dumps(VICUNA))
        (folder / "config.json").write_text(json.dumps({"model_type": "EventChat_llama"}))
    return load_tokenizer(folder)


@pytest.fixture(scope="module")
def pieces(shared: Path) -> sentencepiece.SentencePieceProcessor:
    return sentencepiece.SentencePieceProcessor(str(shared / "golden" / "llama_tokenizer.model"))


def test_the_published_wording() -> None:
    assert eventgpt_prompt(QUESTION) == (
        "A chat between a curious human and an artificial intelligence assistant. The assistant gives helpful, "
        "detailed, and polite answers to the human's questions. USER: <ev_start><event><ev_end>\nWhat is happening? "
        "ASSISTANT:"
    )
    assert video_llava_prompt(QUESTION) == "USER: <video>\nWhat is happening? ASSISTANT:"
    assert video_llava_prompt(QUESTION, 2) == "USER: <image>\n<image>\nWhat is happening?\nASSISTANT:"


def test_a_pair_may_word_it_otherwise() -> None:
    """The earlier timed runs ended the prompt of the clip with a new line, its extraction without."""
    timed = "USER: {frames}\n{question}\nASSISTANT:"
    assert video_llava_prompt(QUESTION, template=timed) == "USER: <video>\nWhat is happening?\nASSISTANT:"
    assert video_llava_prompt("{frames}?", 2, "{frames} {question}") == "<image>\n<image> {frames}?"
    for wrong in ("{question}", "{frames}", "{frames}{frames}{question}"):
        with pytest.raises(ValueError, match=r"prompt: expected \{frames\} once and \{question\} in it"):
            video_llava_prompt(QUESTION, template=wrong)


def test_eventgpt_ids_are_those_of_the_two_pieces(vicuna: Any, pieces: Any) -> None:
    prompt = eventgpt_prompt(QUESTION)
    before, after = prompt.split("<event>")
    ids = tokenize_eventgpt(vicuna, prompt)[0].tolist()
    assert ids == [1, *pieces.encode(before), EVENT_PLACEHOLDER, *pieces.encode(after)]
    assert ids.count(1) == 1


def test_a_tokenizer_without_bos_loses_nothing(vicuna: Any) -> None:
    class Plain:
        bos_token_id = 1

        def __call__(self, text: str) -> Any:
            return type("Encoding", (), {"input_ids": [ord(character) for character in text]})

    ids = tokenize_eventgpt(Plain(), "ab<event>cd")[0].tolist()
    assert ids == [97, 98, EVENT_PLACEHOLDER, 99, 100]


def test_recorded_answers_keep_their_ids(vicuna: Any, shared: Path) -> None:
    """The vocabulary that both real models use: re-encoding what they said gives the ids they printed."""
    record = json.loads((shared / "recorded" / "test_tokens_1q.json").read_text())
    samples = record["results"]
    checked = 0
    for sample in samples[:200]:
        for side in ("egpt", "vl"):
            ids, text = sample.get(f"{side}_tokens"), sample.get(f"{side}_text")
            if ids and text:
                ids = [i for i in ids if i not in (1, 2)]
                assert vicuna(text, add_special_tokens=False).input_ids == ids
                checked += 1
    assert checked > 100


def test_video_llava_ids(vicuna: Any, pieces: Any) -> None:
    vicuna.add_special_tokens({"additional_special_tokens": [AddedToken("<image>"), AddedToken("<video>")]})
    image, video = vicuna.convert_tokens_to_ids(["<image>", "<video>"])
    ids = tokenize_video_llava(vicuna, video_llava_prompt(QUESTION), "<video>", video, 2056)[0].tolist()
    assert ids.count(video) == 2056
    assert ids[:3] == [1, *pieces.encode("USER:")][:3]
    assert "".join(vicuna.decode([i for i in ids if i < 32000][1:]).split()) == "USER:Whatishappening?ASSISTANT:"
    ids = tokenize_video_llava(vicuna, video_llava_prompt(QUESTION, 8), "<image>", image, 256)[0].tolist()
    assert ids.count(image) == 8 * 256
    with pytest.raises(ValueError, match="<video>: expected the config's id 31999"):
        tokenize_video_llava(vicuna, video_llava_prompt(QUESTION), "<video>", 31999, 2056)


def save_video_llava(folder: Path, shared: Path, legacy: bool) -> Any:
    """Video-LLaVA's tokenizer with or without the word mark that older ones put behind a special token."""
    shutil.copy(shared / "golden" / "llama_tokenizer.model", folder / "tokenizer.model")
    (folder / "tokenizer_config.json").write_text(json.dumps(VICUNA | {"legacy": legacy}))
    tokenizer = load_tokenizer(folder)
    tokenizer.add_special_tokens({"additional_special_tokens": [AddedToken("<image>"), AddedToken("<video>")]})
    return tokenizer


@pytest.mark.parametrize(("legacy", "behind"), [(False, [13, 11008]), (True, [29871, 13, 11008])])
def test_the_ids_behind_the_video(tmp_path: Path, shared: Path, legacy: bool, behind: list[int]) -> None:
    tokenizer = save_video_llava(tmp_path, shared, legacy)
    video = tokenizer.convert_tokens_to_ids("<video>")
    ids = tokenizer(video_llava_prompt("Why is this video funny?")).input_ids
    assert ids[ids.index(video) + 1 :][: len(behind)] == behind
    (pieces,) = {tuple(tokenizer.convert_ids_to_tokens(behind[-2:]))}
    assert pieces == ("<0x0A>", "Why")


@pytest.mark.parametrize("legacy", [False, True])
def test_the_recorded_lengths_are_those_without_the_word_mark(tmp_path: Path, shared: Path, legacy: bool) -> None:
    """2,076 positions are 2,056 of the clip and 20 of the text; an older tokenizer's text has 21."""
    tokenizer = save_video_llava(tmp_path, shared, legacy)
    rows = open_recorded(shared / "recorded" / "five_stage_seq2s_20260127_204018.json").rows
    question = QUESTIONS[0]  # the one those runs asked
    video = tokenizer.convert_tokens_to_ids("<video>")
    for template in (None, "USER: {frames}\n{question}\nASSISTANT:"):  # both endings are as long
        prompt = video_llava_prompt(question, template=template)
        length = tokenize_video_llava(tokenizer, prompt, "<video>", video, 2056).shape[1]
        assert ({row["target_prompt_length"] for row in rows} == {length}) is not legacy
    # The drafter's: 577 places and one moment, as it sees one picture.
    text = tokenize_eventgpt(tokenizer, eventgpt_prompt(question)).shape[1] - 1
    assert {row["drafter_prompt_length"] for row in rows} == {577 + 1 + text}


def test_event_specials_follow_the_config() -> None:
    for settings, added in [
        ({"mm_use_im_patch_token": False}, []),
        ({"mm_use_im_patch_token": True}, ["<ev_patch>"]),
        ({"mm_use_im_patch_token": True, "mm_use_im_start_end": True}, ["<ev_patch>", "<ev_start>", "<ev_end>"]),
    ]:
        tokenizer = make_tokenizer()
        add_event_tokens(tokenizer, event_config(vocab_size=303, **settings))
        assert len(tokenizer) == 300 + len(added)
        assert tokenizer.convert_tokens_to_ids(added) == list(range(300, 300 + len(added)))
    with pytest.raises(ValueError, match="vocab_size: expected more than 301"):
        add_event_tokens(make_tokenizer(), event_config(vocab_size=300, mm_use_im_start_end=True))


def test_a_prompt_has_one_event() -> None:
    with pytest.raises(ValueError, match="expected one <event>, found 2"):
        tokenize_eventgpt(make_tokenizer(), "<event> and <event>")


def test_a_folder_without_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expected tokenizer\.json or tokenizer\.model") as error:
        load_tokenizer(tmp_path)
    assert str(tmp_path) in str(error.value)
