"""GGUF files as they lie on a disk: quantised, split, in directories, with their tokenizers; and those that are refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGML_QUANT_SIZES, MODEL_ARCH, GGMLQuantizationType, GGUFWriter
from gguf.quants import dequantize
from tokenizers import Tokenizer, pre_tokenizers

from export.checkpoint import CheckpointError
from export.checkpoints import read
from export.checkpoints.gguf import file, find, tokenizer
from tests.export.families import assert_same_logits
from tests.export.gguf_models import LLAMA, Kind, permuted

TOKENS = np.random.default_rng(5).integers(3, 290, 20)


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        ({"general__architecture": "mamba"}, "general.architecture is 'mamba'; served are llama, granite, smollm3"),
        ({"llama__expert_count": 8}, "it is a mixture of experts .'llama'., which are not implemented yet"),
        ({"general__type": "adapter"}, "general.type = 'adapter'"),
        ({"llama__attention__causal": False}, "llama.attention.causal = False"),
        ({"llama__attention__head_count": [4, 4, 2]}, "llama.attention.head_count = "),
        ({"llama__attention__value_length": 8}, "llama.attention.value_length = 8"),
        ({"llama__rope__dimension_count": 18}, "llama.rope.dimension_count = 18"),
        ({"llama__rope__scaling__type": "dynamic"}, "llama.rope.scaling.type = 'dynamic'"),
        ({"split__count": 99999}, "it is one of 99999 files of a split model"),
        ({"split__count": "many"}, "it is one of 'many' files of a split model"),
        ({"llama__rope__freq_base": 1.0}, "llama.rope.freq_base = 1.0, allowed are numbers above 1"),
        ({"llama__attention__sliding_window": 5, "llama__attention__sliding_window_pattern": "all"}, "sliding_window_pattern"),
    ],
)
def test_what_is_not_implemented_is_refused_by_its_name(metadata: dict[str, Any], said: str, tmp_path: Path) -> None:
    LLAMA.write(tmp_path / "model.gguf", **metadata)
    with pytest.raises(CheckpointError, match=said):
        read(tmp_path / "model.gguf")


@pytest.mark.parametrize(
    ("factors", "said"),
    [
        (np.ones(7, np.float32), r"rope_freqs.weight has shape \[7\], its configuration asks for \[8\]"),
        (np.zeros(8, np.float32), "rope_freqs.weight holds other numbers than positive ones"),
        (np.full(8, np.nan, np.float32), "rope_freqs.weight holds other numbers than positive ones"),
    ],
)
def test_factors_of_positions_that_cannot_be_are_refused(factors: np.ndarray, said: str, tmp_path: Path) -> None:
    Kind(MODEL_ARCH.LLAMA, "Llama", change=permuted, extra={"rope_freqs.weight": factors}).write(tmp_path / "model.gguf")
    with pytest.raises(CheckpointError, match=said):
        read(tmp_path / "model.gguf")


def test_a_tensor_that_the_architecture_does_not_have_is_refused(tmp_path: Path) -> None:
    bias = {"output_norm.bias": np.ones(64, np.float32)}
    Kind(MODEL_ARCH.LLAMA, "Llama", change=permuted, extra=bias).write(tmp_path / "model.gguf")
    with pytest.raises(CheckpointError, match="holds tensors that this kind of model does not have: output_norm.bias"):
        read(tmp_path / "model.gguf")


# --- quantisations ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(file.SERVED))
def test_every_quantisation_is_read_as_the_gguf_package_dequantises_it(name: str, tmp_path: Path) -> None:
    kind = GGMLQuantizationType[name]
    block, size = GGML_QUANT_SIZES[kind]
    rows, columns = 6, 2 * max(block, 16)
    raw = np.random.default_rng(3).integers(0, 60, (rows, columns // block * size), np.uint8)  # no scale of them is NaN
    writer = GGUFWriter(tmp_path / "model.gguf", "llama")
    writer.add_tensor("one", raw, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    tensor = file.read(tmp_path / "model.gguf")[1]["one"]
    assert tensor.shape == (rows, columns)
    np.testing.assert_array_equal(tensor.read(), dequantize(raw, kind).reshape(rows, columns))


# --- split files ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("small_first", [False, True])
def test_any_part_of_a_split_stands_for_all(small_first: bool, tmp_path: Path) -> None:
    original = LLAMA.write(tmp_path / "model.gguf", part=12, small_first=small_first)
    parts = sorted(tmp_path.iterdir())
    assert [part.name for part in parts[:2]] == [f"model-0000{n}-of-0000{len(parts)}.gguf" for n in (1, 2)]
    for path in (parts[0], parts[-1], tmp_path):
        assert_same_logits(read(path).reference(TOKENS), original(TOKENS))


def test_a_part_that_is_missing_is_named(tmp_path: Path) -> None:
    LLAMA.write(tmp_path / "model.gguf", part=12)
    first, second, *_ = sorted(tmp_path.iterdir())
    second.write_bytes(b"")
    with pytest.raises(CheckpointError, match=f"its part {second.name} is missing or empty"):
        read(first)
    second.unlink()
    with pytest.raises(CheckpointError, match=f"its part {second.name} is missing or empty"):
        read(tmp_path)


def test_parts_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    LLAMA.write(tmp_path / "model.gguf", part=12)
    first, second, third = sorted(tmp_path.iterdir())
    content = second.read_bytes()
    second.write_bytes(third.read_bytes())
    with pytest.raises(CheckpointError, match=f"its part {second.name} is not what its name says"):
        read(first)
    second.write_bytes(content)
    third.rename(tmp_path / "renamed.gguf")
    with pytest.raises(CheckpointError, match="it is one of 3 files of a split model, whose names end in -00001-of-"):
        read(tmp_path / "renamed.gguf")


# --- directories ------------------------------------------------------------------------------------------------------


def test_a_directory_with_one_gguf_stands_for_it(tmp_path: Path) -> None:
    LLAMA.write(tmp_path / "model.gguf")
    (tmp_path / "mmproj-model.gguf").write_bytes(b"GGUF")
    (tmp_path / "folder.gguf").mkdir()
    assert find(tmp_path) == tmp_path / "model.gguf"
    assert read(tmp_path).architecture.layers == 3


def test_of_several_models_in_a_directory_one_must_be_named(tmp_path: Path) -> None:
    for name in ("a-Q4_K_M.gguf", "a-Q8_0.gguf", "b-00001-of-00002.gguf", "b-00002-of-00002.gguf"):
        (tmp_path / name).write_bytes(b"GGUF")
    with pytest.raises(
        CheckpointError, match="holds several GGUF models, name one of them: a-Q4_K_M.gguf, a-Q8_0.gguf, b.gguf"
    ):
        read(tmp_path)
    assert find(tmp_path / "nothing") is None


# --- tokenizers -------------------------------------------------------------------------------------------------------


def raw_bpe() -> dict[str, Any]:
    """Gemma's, as the converter writes it where there is no tokenizer.model."""
    characters = ["<pad>", "<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), *"▁theid\n"]
    merges = ["t h", "th e", "▁ the", "t i", "ti d", "tid e", "\n \n"]
    tokens = characters + [merge.replace(" ", "") for merge in merges] + ["<end_of_turn>"]
    types = [3, 2, *[6] * 256, *[1] * (len(tokens) - 259), 3]
    keys = {"model": "gpt2", "pre": "gemma4", "tokens": tokens, "token_type": types, "merges": merges, "eos_token_id": 0}
    return {f"tokenizer.ggml.{key}": value for key, value in keys.items()}


def test_gemmas_characters_are_joined_as_they_are() -> None:
    files = tokenizer.build(raw_bpe())
    made = Tokenizer.from_str(files.tokenizer_json)
    text = "tide the\n\n你<end_of_turn>"
    assert made.encode(text).tokens == ["tide", "▁the", "\n\n", "<0xE4>", "<0xBD>", "<0xA0>", "<end_of_turn>"]
    assert made.decode(made.encode(text).ids, skip_special_tokens=False) == text
    assert files.end_tokens == (0, len(raw_bpe()["tokenizer.ggml.tokens"]) - 1)


def test_phi_3s_special_tokens_swallow_the_spaces_behind_them() -> None:
    tokens, types = ["<unk>", "<s>", "<|user|>", "<0x0A>", "▁", "a", "▁a"], [2, 3, 3, 6, 1, 1, 1]
    keys = {"model": "llama", "tokens": tokens, "token_type": types, "scores": [-float(n) for n in range(7)]}
    metadata = {f"tokenizer.ggml.{key}": value for key, value in keys.items()}
    for architecture, expected in {"phi3": [2, 6], "llama": [2, 4, 3, 5]}.items():
        files = tokenizer.build(metadata | {"general.architecture": architecture})
        assert Tokenizer.from_str(files.tokenizer_json).encode("<|user|>\na", add_special_tokens=False).ids == expected


@pytest.mark.parametrize("model", ["bert", "t5", "rwkv", 3])
def test_another_kind_of_tokenizer_is_refused_with_the_way_out(model: Any) -> None:
    with pytest.raises(CheckpointError, match="tokenizer.ggml.model is .*; served are 'gpt2' and 'llama' .*TOKENIZER"):
        tokenizer.build({"tokenizer.ggml.model": model})


@pytest.mark.parametrize(
    ("pre", "text", "words"),
    [
        ("tekken", "HelloWorld 12", ["Hello", "World", " ", "1", "2"]),
        ("gpt-4o", "HelloWorld's 1234/", ["Hello", "World's", " ", "123", "4", "/"]),
        ("deepseek-v3", "x=中文1234\n", ["x", "=", "中文", "123", "4", "\n"]),
        ("deepseek-coder", "a1.b\n", ["a", "1", ".", "b", "\n"]),
        ("deepseek-llm", "Hello! 12 中", ["Hello", "!", " ", "12", " ", "中"]),
        ("seed-coder", "a!\nb", ["a", "!", "\n", "b"]),
        ("falcon", "a `b` 1234", ["a", " ", "`", "b", "`", " ", "123", "4"]),
        ("viking", "a, b12", ["a", ",", " b", "1", "2"]),
        ("bailingmoe", "it's 12", ["it", "'s", " ", "1", "2"]),
    ],
)
def test_words_are_cut_as_each_models_own_tokenizer_cuts_them(pre: str, text: str, words: list[str]) -> None:
    tokens = sorted(pre_tokenizers.ByteLevel.alphabet())
    metadata = {"model": "gpt2", "pre": pre, "tokens": tokens, "merges": []}
    made = Tokenizer.from_str(
        tokenizer.build({f"tokenizer.ggml.{key}": value for key, value in metadata.items()}).tokenizer_json
    )
    cut = [text[slice(*place)] for _, place in made.pre_tokenizer.pre_tokenize_str(text)]
    assert cut == words
