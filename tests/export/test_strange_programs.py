"""An export with a tokenizer or a chat template that is broken or hostile: both are programs that came with a checkpoint."""

import json
from pathlib import Path
from typing import Any

import pytest

from export import trial
from export.checkpoint import CheckpointError
from export.checkpoints import read
from tests.export import samples
from tests.export.strangers import TERABYTE, holed, llama_directory, refused

BPE = {"type": "BPE", "vocab": {"a": 0}, "merges": []}


TOKENIZERS: dict[str, tuple[str | bytes, str]] = {
    "garbage": (b"\x00\xff" * 500, "is not UTF-8"),
    "empty": ("", "is no tokenizer.json"),
    "of another kind": ('{"model": {"type": "Magic"}}', "is no tokenizer.json"),
    "without a token": (json.dumps({"model": BPE | {"vocab": {}}}), "names no tokens"),
    "with an id of 4 thousand million": (
        json.dumps({"model": BPE | {"vocab": {"a": 2**32 - 2}}}),
        "has the id 4294967294, allowed are ids below",
    ),
    "with a merge of nothing": (json.dumps({"model": BPE | {"merges": ["x y"]}}), "is no tokenizer.json"),
    "deep": ("[" * 10**6, "is no tokenizer.json"),
}


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_a_tokenizer_that_is_none_is_refused(kind: str, tmp_path: Path) -> None:
    content, said = TOKENIZERS[kind]
    path = llama_directory(tmp_path)
    (path / "tokenizer.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(CheckpointError, match=said):
        read(path)


def test_a_huge_tokenizer_is_refused_unread(tmp_path: Path) -> None:
    path = llama_directory(tmp_path)
    holed(path / "tokenizer.json", b"{", TERABYTE)
    assert f"tokenizer.json is {TERABYTE} bytes long, allowed are" in refused(path)


ENDLESS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"


TEMPLATES = {
    "loops for ever": (ENDLESS, "does not come to an end"),
    "multiplies": ("{{ 'a' * 10**10 }}", "MemoryError|more memory"),
    "ranges": ("{% for i in range(10**9) %}{% endfor %}", "OverflowError: Range too big"),
    "fills": ("{{ 'a' | center(10**11) }}", "MemoryError|more memory"),
    "doubles": (
        "{% set ns = namespace(a='aaaaaaaa') %}{% for i in range(60) %}{% set ns.a = ns.a + ns.a %}{% endfor %}",
        "emory",
    ),
    "powers": ("{% set number = 9 ** (9 ** 9) %}", "does not come to an end|emory"),
}


@pytest.mark.parametrize("kind", TEMPLATES)
def test_a_chat_template_that_never_ends_or_takes_all_memory_is_refused(kind: str, tmp_path: Path) -> None:
    template, said = TEMPLATES[kind]
    path = llama_directory(tmp_path)
    samples.save_tokenizer(path, template)
    with pytest.raises(CheckpointError, match=said):
        trial.try_out(path, None, None, cpu_seconds=6)


@pytest.mark.slow
def test_an_export_of_an_endless_template_ends_with_one_sentence(tmp_path: Path) -> None:
    path = llama_directory(tmp_path)
    samples.save_tokenizer(path, ENDLESS)
    assert "does not come to an end" in refused(path)


def with_tokenizer(path: Path, **changes: Any) -> Path:
    document = json.loads((path / "tokenizer.json").read_text())
    (path / "tokenizer.json").write_text(json.dumps(document | changes))
    return path


def test_a_normalizer_that_makes_a_terabyte_of_a_letter_is_refused(tmp_path: Path) -> None:
    growing = {"type": "Replace", "pattern": {"String": "e"}, "content": "e" * 1000}
    path = with_tokenizer(llama_directory(tmp_path), normalizer={"type": "Sequence", "normalizers": [growing] * 4})
    with pytest.raises(CheckpointError, match="its normalizer puts more than 64 characters in the place of one"):
        trial.try_out(path, None, None, cpu_seconds=8)


def test_a_regular_expression_that_tries_everything_is_refused(tmp_path: Path) -> None:
    split = {"type": "Split", "pattern": {"Regex": "(([A-Za-z ,.]+)+)+#"}, "behavior": "Isolated", "invert": False}
    path = with_tokenizer(llama_directory(tmp_path), pre_tokenizer=split)
    with pytest.raises(CheckpointError, match="its tokenizer (takes more than 1 s|cannot be used: Onig)"):
        trial.try_out(path, None, None, cpu_seconds=8)


def replaced(pattern: dict[str, str], content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern, "content": content}


HARMFUL: dict[str, tuple[dict[str, Any], str]] = {
    "a megabyte of a rare letter": (
        {"normalizer": replaced({"String": "ꙮ"}, "a" * 10**6)},
        "its normalizer puts more than 64 characters in the place of one",
    ),
    "a megabyte of two letters, step by step": (
        {"normalizer": {"type": "Sequence", "normalizers": [replaced({"String": "qzq"}, "qzq" * 20)] * 3}},
        "its normalizer puts more than 64 characters in the place of one",
    ),
    "a decoder that tries everything": (
        {"decoder": {"type": "Sequence", "decoders": [{"type": "Fuse"}, replaced({"Regex": "(x+x+)+y"}, "z")]}},
        "its decoder takes more than 1 s|its tokenizer cannot be used: Onig",
    ),
    "a text of one token": (
        {"decoder": {"type": "Sequence", "decoders": [replaced({"String": "e"}, "e" * 30)] * 2}},
        "its decoder puts more than 64 characters in the place of one",
    ),
}


@pytest.mark.parametrize("kind", HARMFUL)
def test_a_tokenizer_that_would_harm_the_gateway_is_refused_at_the_export(kind: str, tmp_path: Path) -> None:
    changes, said = HARMFUL[kind]
    path = with_tokenizer(llama_directory(tmp_path), **changes)
    with pytest.raises(CheckpointError, match=said):
        trial.try_out(path, None, None, cpu_seconds=8)


def test_a_template_that_loops_only_sometimes_is_rendered_in_a_bounded_process_alone(tmp_path: Path) -> None:
    path = llama_directory(tmp_path)
    samples.save_tokenizer(path, "{% if [0, 1] | random %}" + ENDLESS + "{% endif %}")
    for _ in range(8):  # one rendering in the parent would take hours, every second time
        assert read(path).tokenizer.chat_template is not None
