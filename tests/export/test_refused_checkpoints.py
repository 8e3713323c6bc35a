"""A checkpoint that cannot be served is refused when it is read, in one sentence that names what is wrong."""

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from export.checkpoint import CheckpointError
from export.checkpoints import read
from tests.export import samples
from tests.export.test_checkpoints import KINDS


@pytest.mark.parametrize("kind", ["build-nanogpt", "Hugging Face Llama", "GGUF Q4_1"])
def test_a_file_that_is_cut_short_is_refused(kind: str, tmp_path: Path) -> None:
    KINDS[kind](tmp_path)
    file = next(file for file in tmp_path.iterdir() if file.suffix in (".pt", ".gguf", ".safetensors"))
    whole = file.read_bytes()
    for kept in (0, 3, 7, 9, 40, 300, len(whole) // 2, len(whole) - 1):
        file.unlink()  # never shrink a file that may still be mapped
        file.write_bytes(whole[:kept])
        with pytest.raises(CheckpointError) as refusal:
            read(file)
        assert "\n" not in str(refusal.value) and str(tmp_path) in str(refusal.value)


@pytest.mark.parametrize(
    "content, said",
    [
        (b"", "not a checkpoint"),
        (b"some text\n", "not a checkpoint"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"PK\x03\x04" + bytes(100), "zip archive"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1 << 60, 1), "claims more than the file holds"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1 << 62) + bytes(64), "claims more than the file holds"),
        (b"GGUF" + struct.pack("<IQQ", 77, 0, 0), "GGUF version 77"),
    ],
)
def test_what_is_no_checkpoint_is_refused(content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "file.pt").write_bytes(content)
    with pytest.raises(CheckpointError, match=said):
        read(tmp_path / "file.pt")


def test_a_path_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no such file"):
        read(tmp_path / "nothing.pt")


def test_an_absurd_safetensors_header_is_refused(tmp_path: Path) -> None:
    samples.hf_llama(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", 1 << 60) + b"{}")
    said = "model.safetensors is no safetensors file, or damaged or cut short: .*header too large"
    with pytest.raises(CheckpointError, match=said):
        read(tmp_path)


def test_an_index_cannot_name_files_outside_the_directory(tmp_path: Path) -> None:
    samples.hf_llama(tmp_path, shards=True)
    index = {"weight_map": {"model.norm.weight": "../elsewhere.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="names the shard '../elsewhere.safetensors'"):
        read(tmp_path)


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda model: model.pop("transformer.h.1.mlp.c_fc.bias"), "it lacks the tensors transformer.h.1.mlp.c_fc.bias"),
        (lambda model: model.update({"transformer.h.0.moe": torch.ones(3)}), "does not have: transformer.h.0.moe"),
        (
            lambda model: model.update({"transformer.ln_f.weight": torch.ones(31)}),
            r"its tensor transformer.ln_f.weight has shape \[31\], its configuration asks for \[32\]",
        ),
        (lambda model: model.clear(), "its `model` is no state dict: it holds no tensors"),
        (lambda model: model.update({"transformer.ln_f.weight": "ones"}), "is no state dict"),
    ],
)
def test_tensors_that_do_not_fit_are_named(change: Callable[[dict[str, Any]], None], said: str, tmp_path: Path) -> None:
    samples.nanogpt(tmp_path / "ckpt.pt")
    saved = torch.load(tmp_path / "ckpt.pt", weights_only=True)
    change(saved["model"])
    torch.save(saved, tmp_path / "changed.pt")
    with pytest.raises(CheckpointError, match=said):
        read(tmp_path / "changed.pt")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused_when_they_are_read(value: float, tmp_path: Path) -> None:
    samples.nanogpt(tmp_path / "ckpt.pt")
    saved = torch.load(tmp_path / "ckpt.pt", weights_only=True)
    saved["model"]["transformer.h.1.attn.c_proj.weight"][3, 5] = value
    torch.save(saved, tmp_path / "changed.pt")
    weights = read(tmp_path / "changed.pt").weights
    with pytest.raises(CheckpointError, match="transformer.h.1.attn.c_proj.weight holds NaN or infinity"):
        dict(weights)


@pytest.mark.parametrize(
    "arguments, said",
    [
        ({"n_layer": 10**9}, r"n_layer = 1000000000, allowed are 1 to 1024"),
        ({"n_layer": 0}, "n_layer = 0"),
        ({"n_head": "4"}, "n_head = '4'"),
        ({"n_head": 5}, "width 32 is not a multiple of its 5 heads"),
        ({"block_size": None}, "lacks block_size"),
        ({"vocab_size": 10**12}, "vocab_size = 1000000000000"),
    ],
)
def test_sizes_that_cannot_be_are_named(arguments: dict, said: str, tmp_path: Path) -> None:
    samples.nanogpt(tmp_path / "ckpt.pt")
    saved = torch.load(tmp_path / "ckpt.pt", weights_only=True)
    saved["model_args"] |= arguments
    torch.save(saved, tmp_path / "changed.pt")
    with pytest.raises(CheckpointError, match=said):
        read(tmp_path / "changed.pt")


@pytest.mark.parametrize(
    "make, change, said",
    [
        (samples.hf_llama, {"rope_parameters": {"rope_type": "llama4", "factor": 8.0}}, "rope_type = 'llama4'"),
        (samples.hf_llama, {"rope_parameters": {"rope_type": "linear", "factor": 0.0}}, "factor = 0.0, allowed are positive"),
        (samples.hf_llama, {"attention_bias": True}, "attention_bias = True"),
        (samples.hf_llama, {"hidden_act": "tanh"}, "hidden_act = 'tanh'"),
        (samples.hf_llama, {"sliding_window": 4096}, "sliding_window = 4096"),
        (samples.hf_llama, {"quantization_config": {"quant_method": "gptq"}}, "quantization_config"),
        (samples.hf_llama, {"num_key_value_heads": 3}, "4 heads do not share 3 key-value heads"),
        (samples.hf_llama, {"tie_word_embeddings": False}, "lacks the tensor lm_head.weight"),
        (samples.hf_llama, {"model_type": "mamba"}, "model_type = 'mamba'"),
        (samples.hf_gpt2, {"activation_function": "relu"}, "activation_function = 'relu'"),
        (samples.hf_gpt2, {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx = True"),
    ],
)
def test_what_is_not_implemented_is_refused_by_its_name(
    make: Callable[[Path], samples.Logits], change: dict[str, Any], said: str, tmp_path: Path
) -> None:
    make(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(CheckpointError, match=said):
        read(tmp_path)


@pytest.mark.parametrize(
    "metadata, said",
    [
        ({"general__architecture": "falcon"}, "general.architecture is 'falcon'"),
        ({"llama__rope__scaling__type": "ntk"}, "llama.rope.scaling.type = 'ntk'"),
        ({"llama__block_count": None}, "lacks llama.block_count"),
        ({"tokenizer__ggml__pre": "tokken"}, "tokenizer.ggml.pre is 'tokken'"),
        ({"tokenizer__ggml__model": "bert"}, "tokenizer.ggml.model is 'bert'"),
    ],
)
def test_a_gguf_that_is_not_implemented_is_refused_by_its_name(metadata: dict, said: str, tmp_path: Path) -> None:
    samples.gguf_llama(tmp_path / "model.gguf", **metadata)
    with pytest.raises(CheckpointError, match=said):
        read(tmp_path / "model.gguf")


def test_an_absent_vocabulary_file_is_said_with_the_way_out(tmp_path: Path) -> None:
    samples.hf_gpt2(tmp_path, tokenizer=False)
    with pytest.raises(CheckpointError, match="holds neither tokenizer.json nor vocab.json with merges.txt"):
        read(tmp_path)
    assert read(tmp_path, tokenizer=tokenizer_file(tmp_path)).architecture.vocabulary_size == 293


def test_a_tokenizer_that_names_more_than_the_checkpoint_has_is_refused(tmp_path: Path) -> None:
    samples.hf_llama(tmp_path)
    with pytest.raises(CheckpointError, match="its tokenizer names 50257 tokens, the checkpoint has 293"):
        read(tmp_path, tokenizer="gpt2")


def test_a_tokenizer_with_one_token_too_many_is_refused_with_just_that(tmp_path: Path) -> None:
    samples.hf_llama(tmp_path, vocab_size=292)
    with pytest.raises(CheckpointError, match="its tokenizer names 293 tokens, the checkpoint has 292: one token has no row"):
        read(tmp_path, tokenizer=tokenizer_file(tmp_path))


def test_modded_nanogpt_is_refused_by_its_name(tmp_path: Path) -> None:
    torch.save({"step": 1750, "code": "", "model": {"embed.weight": torch.ones(2, 2)}, "optimizers": []}, tmp_path / "state.pt")
    with pytest.raises(CheckpointError, match="it is a checkpoint of modded-nanogpt, whose architecture changes"):
        read(tmp_path / "state.pt")


def test_a_dictionary_of_unknown_tensors_is_refused(tmp_path: Path) -> None:
    torch.save({"encoder.weight": torch.ones(2, 2)}, tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match="its tensors have the names of no other project that is served"):
        read(tmp_path / "model.pt")


def tokenizer_file(directory: Path) -> str:
    samples.small_tokenizer().save(str(directory / "other.json"))
    return os.fspath(directory / "other.json")
