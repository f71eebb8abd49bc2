"""Tokenizers whose files say one thing and whose settings another: the difference is told by name."""

import json
import warnings
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from egptlib.models._checkpoint import load_tokenizer

from .conftest import make_tokenizer

TEXT = "USER: what is happening It\nWhat happens? ASSISTANT: the car moves left"


def save_llama(folder: Path, kind: str, legacy: bool | None) -> None:
    """A Llama's tokenizer as transformers 4 saved it, with the word mark by a normalizer or a pre-tokenizer."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    if kind == "prepend":
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=False)
    trainer = trainers.BpeTrainer(
        vocab_size=90, special_tokens=["<unk>", "<s>", "</s>"], initial_alphabet=[*TEXT, "▁"], show_progress=False
    )
    tokenizer.train_from_iterator([TEXT] * 3, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    told = settings if legacy is None else settings | {"legacy": legacy}
    (folder / "tokenizer_config.json").write_text(json.dumps(told))


@pytest.mark.parametrize(
    ("kind", "legacy", "same"),
    [("prepend", None, False), ("metaspace", True, False), ("metaspace", False, True), ("metaspace", None, True)],
)
def test_ids_that_are_not_the_files_are_told(tmp_path: Path, kind: str, legacy: bool | None, same: bool) -> None:
    save_llama(tmp_path, kind, legacy)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        tokenizer = load_tokenizer(tmp_path)
    text = f"USER: </s>{TEXT}"
    own = Tokenizer.from_file(str(tmp_path / "tokenizer.json")).encode(text).ids
    assert (tokenizer(text).input_ids == own) is same
    assert len(caught) == (not same)
    if not same:
        message = str(caught[0].message)
        assert message.startswith(f"{tmp_path}/tokenizer.json: transformers 5")
        assert message.endswith(f"(tokenizer_config.json: legacy is {legacy})")


def test_a_file_with_truncation_and_a_sentence_start_of_its_own_is_not_a_difference(tmp_path: Path) -> None:
    made = make_tokenizer()
    made.backend_tokenizer.enable_truncation(4)
    made.save_pretrained(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_tokenizer(tmp_path)
