"""SentencePiece's `.model`, read without its library, gives the tokens that its library gives."""

import io
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from export.checkpoint import CheckpointError, TokenizerFiles
from export.text.sentencepiece import from_model, read
from export.text.token_check import SCRIPTS, TEXT, require_own_tokens
from export.text.tokenizer_source import from_directory, named
from tests.export.families import shared
from tests.export.sentencepiece import write_model

NORMAL, USER_DEFINED, BYTE = 1, 4, 6
BPE, UNIGRAM, WORDS, CHARACTERS = 2, 1, 3, 4
WORDS_OF = ["▁", "a", "b", "c", "▁a", "ab", "bc", "abc", "▁ab", "cab", "▁abc", "▁▁"]
BYTES = [(f"<0x{byte:02X}>", 0.0, BYTE) for byte in range(256)]
TRAINED: dict[str, dict[str, Any]] = {
    "as llama2.c trains": {
        "model_type": "bpe", "normalization_rule_name": "identity", "byte_fallback": True, "split_digits": True,
        "allow_whitespace_only_pieces": True,
    },
    "as Llama's": {
        "model_type": "bpe", "normalization_rule_name": "identity", "byte_fallback": True, "split_digits": True,
        "allow_whitespace_only_pieces": True, "remove_extra_whitespaces": False,
    },
    "as Gemma's": {
        "model_type": "bpe", "normalization_rule_name": "identity", "byte_fallback": True, "add_dummy_prefix": False,
        "remove_extra_whitespaces": False, "user_defined_symbols": ["\n", "\n\n", "▁▁", "▁▁▁", "<table>"],
        "pad_id": 0, "eos_id": 1, "bos_id": 2, "unk_id": 3,
    },
    "by default": {},
    "unigram that falls back to bytes": {"byte_fallback": True, "normalization_rule_name": "nfkc_cf"},
    "unigram with symbols": {
        "remove_extra_whitespaces": False, "user_defined_symbols": ["<user>", "<a very long symbol indeed>"],
        "control_symbols": ["<sep>"],
    },
    "BPE with symbols": {
        "model_type": "bpe", "normalization_rule_name": "nmt_nfkc_cf", "user_defined_symbols": ["<user>", "<bot>"],
    },
    "characters": {"model_type": "char", "vocab_size": 500, "user_defined_symbols": ["<user>"]},
}  # fmt: skip
RANDOM = [*"abcdeéAB 012\n\t.,<>xusr中国あﬁ①½🙂İ"]
RANDOM += ["<user>", "<bot>", "  ", "<0x0A>", "<table>", "\n\n", "e\u0301", "か\u3099"]


def loaded(files: TokenizerFiles) -> Tokenizer:
    return Tokenizer.from_str(files.tokenizer_json)


def ids(tokenizer: Tokenizer, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False).ids)


@pytest.mark.parametrize("kind", TRAINED)
def test_tokens_and_text_are_those_of_the_library(kind: str, tmp_path: Path) -> None:
    library = pytest.importorskip("sentencepiece")
    lines = [line for file in (TEXT, SCRIPTS) for line in file.read_text(encoding="utf-8").splitlines() if line]
    written = io.BytesIO()
    settings = {"vocab_size": 900, "hard_vocab_limit": False, "num_threads": 1, "minloglevel": 2} | TRAINED[kind]
    library.SentencePieceTrainer.train(sentence_iterator=iter(lines * 2), model_writer=written, **settings)
    (tmp_path / "tokenizer.model").write_bytes(written.getvalue())
    theirs = library.SentencePieceProcessor(model_proto=written.getvalue())
    files = from_model(tmp_path / "tokenizer.model")
    ours, reference = loaded(files), files.reference
    assert reference is not None
    draw = random.Random(0)
    texts = [*lines, "\n".join(lines), *("".join(draw.choices(RANDOM, k=draw.randrange(2, 30))) for _ in range(300))]
    special = [token.content for token in ours.get_added_tokens_decoder().values() if token.special]
    for text in texts:
        for token in special:
            text = text.replace(token, "")  # the library takes it for ordinary text
        if text.strip() in TRAINED[kind].get("user_defined_symbols", ()):
            continue  # see export/text/sentencepiece.py
        expected = theirs.encode(text)
        found = ids(ours, text)
        assert found == reference(text), text
        if found != expected:  # only where another way to cut the text is as probable
            scores = [sum(map(theirs.get_score, one)) for one in (found, expected)]
            assert scores[0] == pytest.approx(scores[1], abs=1e-3) and text not in lines, text
        if theirs.unk_id() not in expected:
            assert ours.decode(expected) == theirs.decode(expected)
    assert files.end_tokens == (theirs.eos_id(),)
    assert ours.encode("the").ids == [theirs.bos_id(), *theirs.encode("the")]
    require_own_tokens(files)


def test_the_model_of_a_llama2_c_gives_the_tokens_it_was_trained_with() -> None:
    folder = shared("llama2c")
    sample = json.loads((folder / "ref.json").read_text(encoding="utf-8"))
    files = named(str(folder / "tok512.model"))
    require_own_tokens(files)
    for check in sample["tokenizer_checks"]:
        assert ids(loaded(files), check["text"]) == check["ids"]
    assert loaded(files).encode("Once").ids[0] == sample["prompt_ids"][0] == 1


@pytest.mark.parametrize("kind", [BPE, UNIGRAM, CHARACTERS])
@given(
    text=st.text(st.sampled_from("abc  你é\n▁"), max_size=30),
    order=st.permutations(range(len(WORDS_OF))),
    falls_back=st.booleans(),
    removes=st.booleans(),
)
@settings(deadline=None, max_examples=60)
def test_two_ways_to_encode_agree_on_any_text(
    kind: int, text: str, order: list[int], falls_back: bool, removes: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    pieces = [(piece, -1.0 - score, NORMAL) for piece, score in zip(WORDS_OF, order, strict=True)]
    files = from_model(
        write_model(
            tmp_path_factory.getbasetemp() / "any.model",
            [*BYTES * falls_back, *pieces],
            model_type=kind,
            byte_fallback=falls_back,
            remove_extra_whitespaces=removes,
        )
    )
    assert files.reference is not None
    assert ids(loaded(files), text) == files.reference(text)
    if falls_back and not removes and "▁" not in text:
        assert loaded(files).decode(files.reference(text)) == text


def test_a_run_of_unknown_characters_is_one_unknown_token(tmp_path: Path) -> None:
    for kind in (BPE, UNIGRAM):
        path = write_model(tmp_path / "m.model", [("▁", -1.0, NORMAL), ("a", -2.0, NORMAL)], model_type=kind)
        assert ids(loaded(from_model(path)), "a你好é a") == [3, 4, 0, 3, 4]


def test_the_name_of_a_byte_is_text_and_never_that_byte(tmp_path: Path) -> None:
    letters = [(letter, -2.0, NORMAL) for letter in "▁0xA>"]  # without `<`
    for kind in (BPE, UNIGRAM):
        path = write_model(tmp_path / "m.model", [*BYTES, *letters], model_type=kind, byte_fallback=True)
        tokens = loaded(from_model(path)).encode("<0x0A>\n", add_special_tokens=False).tokens
        assert tokens == ["▁", "<0x3C>", "0", "x", "0", "A", ">", "<0x0A>"]


@pytest.mark.parametrize("kind", [BPE, UNIGRAM, CHARACTERS])
def test_user_defined_symbols_stay_whole_and_text_goes_on_behind_them(kind: int, tmp_path: Path) -> None:
    letters = [(letter, -2.0, NORMAL) for letter in "▁user<>hi"]
    symbols = [("<user>", 0.0, USER_DEFINED), ("<us", 0.0, USER_DEFINED)]
    files = from_model(write_model(tmp_path / "m.model", [*letters, *symbols], model_type=kind))
    for text, expected in {
        "<user>hi <user>hi": ["▁", "<user>", "h", "i", "▁", "<user>", "h", "i"],
        "hi<us <user": ["▁", "h", "i", "<us", "▁", "<us", "e", "r"],
    }.items():
        assert loaded(files).encode(text, add_special_tokens=False).tokens == expected
    assert loaded(files).decode(ids(loaded(files), "<user>hi")) == "<user>hi"  # it is no special token, which is not shown
    require_own_tokens(files)


def test_lower_case_and_prefix_can_be_asked_for(tmp_path: Path) -> None:
    path = write_model(tmp_path / "m.model", [(letter, -2.0, NORMAL) for letter in "▁hi"])
    assert loaded(from_model(path, lower_case=True, add_bos=False)).encode("HI").tokens == ["▁", "h", "i"]
    assert loaded(from_model(path, add_prefix=False)).encode("hi").tokens == ["<s>", "h", "i"]
    require_own_tokens(from_model(path, lower_case=True))


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, ["<s>", "▁", "h", "</s>", "▁", "h"]),
        ({"add_bos_token": False, "add_eos_token": True}, ["▁", "h", "</s>", "▁", "h", "</s>"]),
        ({"legacy": False}, ["<s>", "▁", "h", "</s>", "h"]),
        ({"tokenizer_class": "T5Tokenizer"}, ["▁", "h", "</s>", "▁", "h"]),
        (
            {"added_tokens_decoder": {"5": {"content": "<|im_end|>"}}, "eos_token": "<|im_end|>"},
            ["<s>", "▁", "h", "</s>", "▁", "h"],
        ),
    ],
)
def test_a_directory_says_what_stands_around_its_pieces(config: dict[str, Any], expected: list[str], tmp_path: Path) -> None:
    write_model(tmp_path / "tokenizer.model", [("▁", -1.0, NORMAL), ("h", -2.0, NORMAL)])
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    files = from_directory(tmp_path)
    assert loaded(files).encode("h</s>h").tokens == expected
    assert files.special_tokens["bos_token"] == "<s>"
    assert files.end_tokens == ((2, 5) if "eos_token" in config else (2,))
    require_own_tokens(files)


def test_a_class_that_numbers_its_pieces_in_another_way_is_refused_by_name(tmp_path: Path) -> None:
    write_model(tmp_path / "sentencepiece.bpe.model", [("▁", -1.0, NORMAL)])
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "XGLMTokenizer"}))
    with pytest.raises(
        CheckpointError, match=r"its tokenizer_class is 'XGLMTokenizer'; sentencepiece\.bpe\.model are read for"
    ):
        from_directory(tmp_path)


def test_a_model_file_of_ranks_is_read_as_tiktokens(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_text("IQ== 0\nIg== 1\n")
    with pytest.raises(CheckpointError, match="has 2 ranks, and does not say how texts are cut"):
        named(str(tmp_path / "tokenizer.model"))


@pytest.mark.parametrize(
    ("pieces", "fields", "said"),
    [
        ([("a", 0.0, NORMAL)], {"model_type": WORDS}, "is of the kind 3, implemented are unigram"),
        ([("a", 0.0, NORMAL)] * 2, {}, "has an empty piece, or one piece twice"),
        ([("", 0.0, NORMAL)], {}, "has an empty piece, or one piece twice"),
        ([("a" * 1025, 0.0, NORMAL)], {}, "has pieces longer than 1024 characters"),
        ([("a", float("nan"), NORMAL)], {}, "has a score that is no finite number"),
        ([("a", 0.0, 2)], {}, "has 2 unknown pieces, expected is one"),
        (BYTES[:-1], {"byte_fallback": True}, "has 255 pieces for bytes, and byte_fallback is True"),
        (
            [],
            {"precompiled_charsmap": b"\xff\xff\xff\x7f" + bytes(16)},
            "has a charsmap of 20 bytes that is shorter than it says",
        ),
        ([], {"precompiled_charsmap": (8).to_bytes(4, "little") + b"\xff" * 16}, "makes no tokenizer"),
        ([], {"treat_whitespace_as_suffix": True}, "says treat_whitespace_as_suffix = True, implemented is False"),
        ([], {"escape_whitespaces": False}, "says escape_whitespaces = False, implemented is True"),
    ],
)
def test_a_model_that_cannot_be_served_is_refused(
    pieces: list[tuple[str, float, int]], fields: dict[str, Any], said: str, tmp_path: Path
) -> None:
    path = write_model(tmp_path / "m.model", pieces, **fields)
    with pytest.raises(CheckpointError, match=f"its m.model {said}"):
        from_model(path)


@pytest.mark.parametrize("damage", [lambda content: content[:-3], lambda content: b"no protobuf", lambda content: b""])
def test_a_damaged_file_is_refused(damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    path = write_model(tmp_path / "m.model", [("▁", 0.0, NORMAL)])
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CheckpointError, match=r"its m\.model (is no SentencePiece model|has 0 pieces)"):
        read(path)
