"""BERT's vocab.txt gives the tokens of transformers' BertTokenizer, and Chinese text without spaces."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import BertTokenizer

from export.checkpoint import CheckpointError
from export.text.token_check import SCRIPTS, TEXT, require_own_tokens
from export.text.tokenizer_source import from_directory, named
from gateway.text.tokenizer import Tokenizer as Gateway
from tests.export.families import shared

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = [*"abcdefghijklmnopqrstuvwxyz0123456789.,-!?你好世界，。！「」がカé", "the", "gate", "tide", "Tide"]
VOCABULARY = [*SPECIAL, *WORDS, *(f"##{word}" for word in WORDS)]
TEXTS = (
    "the TIDE, tides: the gate-keeper. 你好the世界，123！",
    "a[SEP]b [CLS]\n[MASK]  [UNK] [sep]",
    "É e\u0301 naïve résumé \u200b\u00a0zero\u0000width \ufffd x",
    f"{'a' * 100} {'a' * 101}",
    *TEXT.read_text(encoding="utf-8").splitlines()[:8],
    *SCRIPTS.read_text(encoding="utf-8").splitlines(),
)


def write(directory: Path, **files: dict[str, Any]) -> Path:
    directory.mkdir(exist_ok=True)
    (directory / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")
    for name, content in files.items():
        (directory / f"{name}.json").write_text(json.dumps(content))
    return directory


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    directory = write(tmp_path_factory.mktemp("bert"))
    return Tokenizer.from_str(named(str(directory / "vocab.txt")).tokenizer_json)


@pytest.mark.parametrize(
    "rules",
    [
        {},
        {"do_lower_case": False},
        {"tokenize_chinese_chars": False},
        {"strip_accents": False},
        {"do_lower_case": False, "strip_accents": True},
    ],
)
def test_tokens_are_those_of_transformers_and_of_berts_rules(rules: dict[str, bool], tmp_path: Path) -> None:
    directory = write(tmp_path / "model", tokenizer_config={"tokenizer_class": "BertTokenizer", **rules})
    theirs = BertTokenizer.from_pretrained(directory)
    files = from_directory(directory)
    ours = Tokenizer.from_str(files.tokenizer_json)
    for text in TEXTS:
        assert ours.encode(text).ids == theirs(text, add_special_tokens=False)["input_ids"], text
    assert dict(files.special_tokens) == theirs.special_tokens_map
    assert files.end_tokens == (2, 3)  # [CLS], [SEP]
    require_own_tokens(files)


@given(text=st.text(st.sampled_from("aA1é你 ,\n[S]#tide"), max_size=40))
@settings(deadline=None, max_examples=100)
def test_text_comes_back_in_lower_case_without_spaces_beside_chinese(ours: Tokenizer, text: str) -> None:
    words = ours.decode(ours.encode(text).ids)
    assert "你 " not in words and " 你" not in words
    assert ours.encode(words).ids == [number for number in ours.encode(text).ids if number >= len(SPECIAL)] or "##" in words


def test_a_stream_shows_what_the_whole_text_is(ours: Tokenizer) -> None:
    gateway = Gateway(ours.to_str(), None)
    for text in ("你好the tides, the 世界。gate keeper！123", "the", "好 好"):
        tokens = ours.encode(text).ids
        whole = gateway.decode(tokens)
        for cut in range(len(tokens)):
            stream = gateway.decode_stream(tokens[:cut])
            shown = "".join([*map(stream.push, tokens[cut:]), stream.finish()])
            assert gateway.decode(tokens[:cut]) + shown == whole
    assert gateway.decode(ours.encode("你好the tides, 世界。gate keeper！").ids) == "你好the tides,世界。gate keeper！"


def test_a_directory_whose_model_names_bert_has_its_tokenizer_whatever_file_holds_it(tmp_path: Path) -> None:
    config = {"model_type": "gpt2", "tokenizer_class": "BertTokenizer", "vocab_size": len(VOCABULARY)}
    directory = write(tmp_path / "model", config=config)
    by_vocabulary = from_directory(directory)
    BertTokenizer.from_pretrained(directory).save_pretrained(tmp_path / "saved")
    by_json = from_directory(tmp_path / "saved")
    for files in (by_vocabulary, by_json):
        tokenizer = Tokenizer.from_str(files.tokenizer_json)
        assert tokenizer.encode("你好 the [SEP]").tokens == [
            "你",
            "好",
            "the",
            "[SEP]",
        ]  # a prompt has no [CLS] and [SEP] around it
        assert tokenizer.decode(tokenizer.encode("你好 the gate").ids) == "你好the gate"
        assert files.end_tokens == (2, 3)


def test_a_vocabulary_with_windows_line_ends_or_one_line_twice_is_read_as_bert_reads_it(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_bytes("\r\n".join([*SPECIAL, "a", "b", "a"]).encode())
    files = named(str(tmp_path / "vocab.txt"))
    assert (
        Tokenizer.from_str(files.tokenizer_json).encode("a b").ids
        == [7, 6]
        == BertTokenizer(str(tmp_path / "vocab.txt"))("a b")["input_ids"][1:-1]
    )


def test_a_text_file_that_is_no_vocabulary_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("Buy milk.\n")
    with pytest.raises(CheckpointError, match=r"its notes\.txt has no line \[UNK\], as BERT's vocabularies have"):
        named(str(tmp_path / "notes.txt"))


def test_gpt2_chinese_has_the_tokens_of_its_project() -> None:
    folder = shared("gpt2-chinese")
    sample = json.loads((folder / "ref.json").read_text(encoding="utf-8"))
    files = from_directory(folder)
    tokenizer = Tokenizer.from_str(files.tokenizer_json)
    for check in sample["tokenizer_checks"]:
        assert tokenizer.encode(check["text"]).ids == check["ids"]
    text = tokenizer.decode(sample["prompt_ids"])
    assert text.startswith("萧炎望着测验魔石碑上面闪亮得甚至有些刺眼的五个大字，面无表情，gpt")
    require_own_tokens(files)
