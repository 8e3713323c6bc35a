"""Models with llama2.c's names: its ckpt.pt, its .bin files of three versions, and bare state dicts."""

import json
import struct
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from export.checkpoint import CheckpointError
from export.checkpoints import read
from export.text.chat_environment import compile_template, render
from export.text.llama2c_tokenizer import from_bin
from tests.export.families import assert_as_written, assert_same_logits, decoder_of, greedy, prefill, shared
from tests.export.llama2c_files import (
    PIECES,
    ROWS,
    TOKENS,
    llama,
    q80,
    write_bare,
    write_bin,
    write_checkpoint,
    write_tokenizer,
)
from tests.export.samples import Logits


def assert_says(path: Path, logits: Logits, tmp_path: Path, **options: Any) -> None:
    checkpoint = read(path, **options)
    expected = logits(np.array(TOKENS))
    assert_same_logits(prefill(decoder_of(checkpoint, tmp_path), TOKENS, chunk=16), expected)
    assert_same_logits(checkpoint.reference(np.array(TOKENS)), expected)


@pytest.mark.parametrize("file", ["ckpt.pt", "model.bin", "model_v1.bin"])
def test_llama2c_files_say_what_llama2c_says(file: str, tmp_path: Path) -> None:
    folder = shared("llama2c")
    assert_as_written(folder / "out" / file, folder, tmp_path)


def test_llama2c_int8_file_says_what_its_own_numbers_say(tmp_path: Path) -> None:
    folder = shared("llama2c")
    sample = json.loads((folder / "ref.json").read_text(encoding="utf-8"))
    checkpoint = read(folder / "out" / "model_q80.bin")
    decoder = decoder_of(checkpoint, tmp_path)
    logits = prefill(decoder, sample["prompt_ids"])
    assert_same_logits(logits, checkpoint.reference(np.array(sample["prompt_ids"])))
    assert greedy(decoder, logits[-1], len(sample["prompt_ids"]), 48) == sample["v2"]["greedy_ids"]


def test_tokenizer_bin_and_tokenizer_model_are_one_tokenizer_but_for_superfluous_spaces() -> None:
    folder = shared("llama2c")
    ours, theirs = (
        read(folder / "out" / "ckpt.pt", tokenizer=str(folder / name)).tokenizer for name in ("tok512.bin", "tok512.model")
    )
    for text in ("Once upon a time", "x", "a space, 12345\n", "你好 🙂", "<s>is text"):
        found, expected = (Tokenizer.from_str(files.tokenizer_json).encode(text).ids for files in (ours, theirs))
        assert found == expected, text


@pytest.mark.parametrize("tied", [True, False])
def test_checkpoint_with_heads_of_8_says_what_transformers_says(tied: bool, tmp_path: Path) -> None:
    state, logits = llama(tied=tied)
    assert_says(write_checkpoint(tmp_path, state), logits, tmp_path)


def test_checkpoint_of_a_compiled_model_without_key_value_heads_is_read(tmp_path: Path) -> None:
    state, logits = llama(kv_heads=4)
    compiled = {f"_orig_mod.{name}": tensor for name, tensor in state.items()}
    assert_says(write_checkpoint(tmp_path, compiled, n_kv_heads=None), logits, tmp_path)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("version", [0, 1])
def test_fp32_bin_says_what_transformers_says(version: int, tied: bool, tmp_path: Path) -> None:
    state, logits = llama(tied=tied)
    write_tokenizer(tmp_path / f"tok{ROWS}.bin")
    assert_says(write_bin(tmp_path / "model.bin", state, version, tied=tied), logits, tmp_path)


@pytest.mark.parametrize("tied", [True, False])
def test_int8_bin_says_what_its_weights_say_in_fp32(tied: bool, tmp_path: Path) -> None:
    state, _ = llama(tied=tied)
    write_tokenizer(tmp_path / "tokenizer.bin")
    path = write_bin(tmp_path / "model.bin", state, 2, tied=tied)

    def rounded(tensor: torch.Tensor) -> torch.Tensor:
        weights, scales = q80(tensor, 16)
        return torch.from_numpy(weights * scales[:, None]).reshape(tensor.shape)

    fp32 = {name: rounded(tensor) if tensor.dim() > 1 else tensor for name, tensor in state.items()}
    checkpoint = read(write_checkpoint(tmp_path, fp32))
    assert_says(path, checkpoint.reference, tmp_path)


def test_bare_state_dict_is_read_with_the_heads_that_its_owner_names(tmp_path: Path) -> None:
    state, logits = llama()
    masked = state | {f"layers.{layer}.attention.mask": torch.full((1, 1, 8, 8), float("-inf")) for layer in range(2)}
    path = write_bare(tmp_path, masked)
    with pytest.raises(CheckpointError, match="HEADS"):
        read(path)
    assert_says(path, logits, tmp_path, heads=4)
    assert read(path, heads=4).architecture.context_length == 512


@pytest.mark.parametrize(
    ("heads", "sentence"), [(3, "not a multiple of its 3 heads"), (1, "keys have 16 rows, which are no heads of 32")]
)
def test_heads_that_do_not_fit_are_refused(heads: int, sentence: str, tmp_path: Path) -> None:
    state, _ = llama()
    with pytest.raises(CheckpointError, match=sentence):
        read(write_bare(tmp_path, state), heads=heads)


@pytest.mark.parametrize(
    ("rows", "kv_width", "heads", "kv_heads", "theta"),
    [(6400, 256, 16, 8, 1e4), (6400, 128, 8, 2, 1e6)],
    ids=["minimind-v1", "MiniMind2"],
)
def test_heads_and_rotary_base_of_known_projects_need_not_be_named(
    rows: int, kv_width: int, heads: int, kv_heads: int, theta: float, tmp_path: Path
) -> None:
    shapes: dict[str, tuple[int, ...]] = {
        "attention.wq": (512, 512),
        "attention.wk": (kv_width, 512),
        "attention.wv": (kv_width, 512),
        "attention.wo": (512, 512),
    }
    shapes |= {"feed_forward.w1": (8, 512), "feed_forward.w2": (512, 8), "feed_forward.w3": (8, 512)}
    shapes |= {"attention_norm": (512,), "ffn_norm": (512,)}
    state = {f"layers.0.{name}.weight": torch.zeros(shape).half() for name, shape in shapes.items()}
    embedding = torch.zeros(rows, 512).half()
    state |= {"tok_embeddings.weight": embedding, "output.weight": embedding, "norm.weight": torch.ones(512).half()}
    architecture = read(write_bare(tmp_path, state, "pretrain_512.pth")).architecture
    assert (architecture.heads, architecture.kv_heads) == (heads, kv_heads)
    second = architecture.rotary[0].frequencies[1]
    assert second == pytest.approx(theta ** (-2 / architecture.head_dim), rel=1e-6)


def test_tokenizer_bin_encodes_as_run_c_does(tmp_path: Path) -> None:
    write_tokenizer(tmp_path / "tokenizer.bin")
    tokenizer = Tokenizer.from_str(from_bin(tmp_path / "tokenizer.bin").tokenizer_json)
    for text in ("the thing", "anthe in", " the  the", "A你 wing\n", "", "theththe a"):
        assert tokenizer.encode(text).ids == run_c(text), text
        assert tokenizer.decode(tokenizer.encode(text).ids) == text


def run_c(text: str) -> list[int]:
    """run.c's encode: characters, then the neighbours whose union has the best score, until none has one."""
    ids = [1, *[PIECES.index(" ")] * bool(text)]
    for character in text:
        ids += [PIECES.index(character)] if character in PIECES else [byte + 3 for byte in character.encode()]
    while True:
        unions = [PIECES[left] + PIECES[right] for left, right in pairwise(ids)]
        known = [(PIECES.index(union), place) for place, union in enumerate(unions) if union in PIECES]
        if not known:
            return ids
        best, place = min(known)  # the first of the best
        ids[place : place + 2] = [best]


def test_a_text_begins_with_bos_and_the_next_bos_ends_it(tmp_path: Path) -> None:
    state, _ = llama()
    files = read(write_checkpoint(tmp_path, state)).tokenizer
    assert Tokenizer.from_str(files.tokenizer_json).encode("the").ids[0] == 1
    assert {1, 2} <= {*files.end_tokens}
    assert files.chat_template is None


def test_chinese_chat_of_a_tuned_model_puts_bos_behind_the_question(tmp_path: Path) -> None:
    state, _ = llama()
    (tmp_path / "chatglm_tokenizer").mkdir()
    write_sentencepiece(tmp_path / "chatglm_tokenizer" / "tokenizer.model")
    for stage in ("pretrain", "sft"):
        (tmp_path / "out" / stage).mkdir(parents=True)
        torch.save(state, tmp_path / "out" / stage / "epoch_0.pth")
    tuned, base = (read(tmp_path / "out" / stage / "epoch_0.pth", heads=4).tokenizer for stage in ("sft", "pretrain"))
    tokenizer = Tokenizer.from_str(tuned.tokenizer_json)
    assert tokenizer.encode("the").ids == run_c("the")[1:]
    assert tuned.chat_template is not None
    names = {"messages": [{"role": "user", "content": "the"}], "add_generation_prompt": True, **tuned.special_tokens}
    assert tokenizer.encode(render(compile_template(tuned.chat_template), names)).ids == [*run_c("the")[1:], 1]
    assert tuned.end_tokens == (2,)
    assert base.chat_template is None


def write_sentencepiece(path: Path) -> None:
    """The same pieces as a SentencePiece model: BPE that falls back to bytes."""

    def field(number: int, content: bytes) -> bytes:
        return bytes([number << 3 | 2, len(content)]) + content

    model = b""
    for number, piece in enumerate(PIECES):
        text = piece.strip("\n").replace(" ", "▁").encode()
        kind = 2 if number == 0 else 3 if number < 3 else 6 if number < 259 else 1
        score = struct.pack("<f", 0.0 if number < 259 else 259.0 - number)
        model += field(1, field(1, text) + b"\x15" + score + b"\x18" + bytes([kind]))
    path.write_bytes(model + field(2, b"\x18\x02" + b"\x98\x02\x01"))


def test_tokenizer_of_a_larger_model_is_not_taken(tmp_path: Path) -> None:
    state, _ = llama()
    path = write_checkpoint(tmp_path, state)
    write_tokenizer(tmp_path / "out" / "tokenizer.bin", [*PIECES, "more"])
    assert read(path).architecture.vocabulary_size == ROWS
    (tmp_path / "data" / f"tok{ROWS}.bin").unlink()
    with pytest.raises(CheckpointError, match=f"names {ROWS + 1} tokens, the checkpoint has {ROWS}: one token has no row"):
        read(path)


def test_mixture_of_experts_is_refused(tmp_path: Path) -> None:
    state, _ = llama()
    state["layers.1.feed_forward.experts.0.w1.weight"] = torch.zeros(96, 32)
    with pytest.raises(CheckpointError, match="mixture of experts"):
        read(write_checkpoint(tmp_path, state))


def _cut(content: bytes) -> bytes:
    return content[:-4]


def _longer(content: bytes) -> bytes:
    return content + bytes(4)


def _at(place: int, number: int, content: bytes) -> bytes:
    return content[:place] + struct.pack("<i", number) + content[place + 4 :]


@pytest.mark.parametrize(
    ("version", "damage", "sentence"),
    [
        (0, _cut, "cut short or damaged"),
        (0, _longer, "cut short or damaged"),
        (0, partial(_at, 0, 31), "not a checkpoint"),  # a width that 4 heads do not share
        (1, _cut, "cut short or damaged"),
        (1, lambda content: content[:100], "within its header"),
        (1, partial(_at, 4, 3), "version 3"),
        (1, partial(_at, 16, 0), "no model of llama2.c has"),  # layers
        (1, partial(_at, 16, 1 << 30), "no model of llama2.c has"),
        (2, partial(_at, 37, 0), "groups of int8"),
        (2, partial(_at, 37, 7), "no multiple of its groups of 7"),
        (2, partial(_at, 37, 1 << 30), "no multiple of its groups"),
    ],
)
def test_damaged_bin_is_refused(version: int, damage: Callable[[bytes], bytes], sentence: str, tmp_path: Path) -> None:
    state, _ = llama()
    write_tokenizer(tmp_path / "tokenizer.bin")
    path = write_bin(tmp_path / "model.bin", state, version, tied=True)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CheckpointError, match=sentence):
        read(path)


@pytest.mark.parametrize(
    "content",
    [b"", b"\x01\x00", struct.pack("<IfI", 9, 0.0, 1 << 31), struct.pack("<IfI", 9, 0.0, 4) + b"\xff\xff\xff\xff"],
)
def test_damaged_tokenizer_bin_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.bin").write_bytes(content)
    with pytest.raises(CheckpointError, match="tokenizer.bin"):
        from_bin(tmp_path / "tokenizer.bin")
