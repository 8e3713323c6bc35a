"""A tokenizer that has a family's turn tokens and no chat template gets the family's turns."""

import json
from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer, models

from export.checkpoints import read
from export.text.chat_environment import compile_template, render
from export.text.chat_template import with_tokens
from export.text.default_templates import default_template
from export.text.tokenizer_source import named
from export.text.tokenizers import END_TEXTS
from tests.export.transformers_models import saved

CHAT = [
    {"role": "system", "content": "Be short."},
    {"role": "user", "content": " Hello \n"},
    {"role": "assistant", "content": "Hi."},
    {"role": "user", "content": "Bye"},
]
GEMMA = ["<bos>", "<start_of_turn>", "<end_of_turn>"]
LLAMA3 = ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
CHATML = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
RENDERED = {
    "gemma": "<bos><start_of_turn>user\nBe short.\n\nHello<end_of_turn>\n<start_of_turn>model\nHi.<end_of_turn>\n"
    "<start_of_turn>user\nBye<end_of_turn>\n<start_of_turn>model\n",
    "llama3": "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe short.<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nHello<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nHi.<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nBye<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    "chatml": "<|im_start|>system\nBe short.<|im_end|>\n<|im_start|>user\n Hello \n<|im_end|>\n"
    "<|im_start|>assistant\nHi.<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n",
}
TOKENS = {"gemma": GEMMA, "llama3": LLAMA3, "chatml": CHATML}


def directory_with(tokens: list[str], directory: Path, *, special: bool = True) -> str:
    tokenizer = Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    tokenizer.add_tokens([AddedToken(token, special=special, normalized=False) for token in tokens])
    tokenizer.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(json.dumps({"bos_token": tokens[0]}))
    return str(directory)


@pytest.mark.parametrize("family", TOKENS)
def test_the_turns_of_a_family_are_rendered_as_its_own_template_does(family: str, tmp_path: Path) -> None:
    files = named(directory_with(TOKENS[family], tmp_path))
    template = default_template(files)
    assert template is not None
    whole = compile_template(with_tokens(template, files.special_tokens))
    assert render(whole, {"messages": CHAT, "add_generation_prompt": True}) == RENDERED[family]
    assert END_TEXTS.intersection(TOKENS[family]) and files.end_tokens


def test_turn_tokens_that_are_ordinary_text_or_incomplete_make_no_template(tmp_path: Path) -> None:
    assert default_template(named(directory_with(["<s>", "<|im_start|>", "<|im_end|>"], tmp_path, special=False))) is None
    assert default_template(named(directory_with(["<s>", "<|im_start|>"], tmp_path))) is None


def test_a_directorys_own_template_outweighs_the_familys(tmp_path: Path) -> None:
    saved("llama", tmp_path)  # with a tokenizer that has ChatML's tokens
    own = read(tmp_path).tokenizer.chat_template
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|im_end|>"}))
    default = read(tmp_path).tokenizer.chat_template
    assert own is not None and "<|im_start|>" in own
    assert default is not None and default != own
