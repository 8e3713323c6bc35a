"""Readers of all kinds of checkpoint: what they read is what the original computes; what they cannot serve they name."""

import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from export import reference
from export.checkpoint import Checkpoint, CheckpointError
from export.checkpoints import read
from tests.export import samples

ROOT = Path(__file__).parents[2]
SHAKESPEARE = ROOT.parent / "shared" / "data" / "shakespeare_gpt2.pt"
KINDS: dict[str, Callable[[Path], samples.Logits]] = {
    "build-nanogpt": lambda path: samples.build_nanogpt(path / "model.pt"),
    "nanoGPT": lambda path: samples.nanogpt(path / "ckpt.pt"),
    "nanoGPT without bias": lambda path: samples.nanogpt(path / "ckpt.pt", bias=False, compiled_prefix=True),
    "nanoGPT with GPT-2's BPE": lambda path: samples.nanogpt(path / "ckpt.pt", meta=None),
    "Hugging Face GPT-2": samples.hf_gpt2,
    "Hugging Face GPT-2, exact GELU": lambda path: samples.hf_gpt2(path, activation_function="gelu"),
    "Hugging Face GPT-2, untied": lambda path: samples.hf_gpt2(path, tie_word_embeddings=False, n_inner=96),
    "Hugging Face Llama": samples.hf_llama,
    "Hugging Face Llama, untied, bfloat16 shards": lambda path: samples.hf_llama(
        path, shards=True, dtype="bfloat16", tie_word_embeddings=False
    ),
    "Hugging Face Llama, wide heads": lambda path: samples.hf_llama(path, head_dim=32, num_key_value_heads=1),
    "GGUF Q4_0": lambda path: samples.gguf_llama(path / "model.gguf", "Q4_0"),
    "GGUF Q4_1": lambda path: samples.gguf_llama(path / "model.gguf", "Q4_1"),
    "GGUF Q8_0, untied": lambda path: samples.gguf_llama(path / "model.gguf", "Q8_0", tied=False),
    "GGUF F16": lambda path: samples.gguf_llama(path / "model.gguf", "F16"),
    "GGUF F32": lambda path: samples.gguf_llama(path / "model.gguf", "F32"),
}


@pytest.fixture(params=KINDS)
def sample(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, samples.Logits]:
    logits = KINDS[request.param](tmp_path)
    single = [file for file in tmp_path.iterdir() if file.suffix in (".pt", ".gguf")]
    return (single[0] if single else tmp_path), logits


def test_the_reference_computes_what_the_original_model_computes(sample: tuple[Path, samples.Logits]) -> None:
    path, original = sample
    checkpoint = read(path)
    tokens = some_tokens(checkpoint)
    logits = checkpoint.reference(tokens)
    assert logits.shape == (len(tokens), checkpoint.architecture.vocabulary_size)
    np.testing.assert_allclose(logits, original(tokens)[:, : logits.shape[1]], atol=2e-5)


def test_the_canonical_weights_compute_what_the_original_model_computes(sample: tuple[Path, samples.Logits]) -> None:
    path, original = sample
    checkpoint = read(path)
    tokens = some_tokens(checkpoint)
    logits = canonical_forward(checkpoint, tokens)
    np.testing.assert_allclose(logits, original(tokens)[:, : logits.shape[1]], atol=2e-4)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.startswith("Hugging Face")])
def test_without_transformers_the_reference_is_the_same(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = KINDS[kind](tmp_path)
    monkeypatch.setattr(reference, "find_spec", lambda name: None)
    checkpoint = read(tmp_path)
    tokens = some_tokens(checkpoint)
    expected = original(tokens)[:, : checkpoint.architecture.vocabulary_size]
    np.testing.assert_allclose(checkpoint.reference(tokens), expected, atol=2e-5)


@pytest.mark.parametrize("module", ["__main__", "train_gpt2", "model.train_gpt2"])
def test_a_config_class_of_any_module_is_read_beside_optimizer_and_rng_states(module: str, tmp_path: Path) -> None:
    original = samples.build_nanogpt(tmp_path / "model_40000.pt", module=module, resumed=True)
    assert module == "__main__" or module not in sys.modules
    checkpoint = read(tmp_path / "model_40000.pt")
    tokens = some_tokens(checkpoint)
    np.testing.assert_allclose(checkpoint.reference(tokens), original(tokens)[:, :50257], atol=2e-5)
    assert checkpoint.name == "model_40000.pt"


def test_the_padding_of_the_vocabulary_is_cut_away(tmp_path: Path) -> None:
    samples.build_nanogpt(tmp_path / "model.pt", vocab_size=50304)
    checkpoint = read(tmp_path / "model.pt")
    assert checkpoint.architecture.vocabulary_size == 50257
    assert checkpoint.weights["embedding"].shape == (50257, 32)
    assert "head" not in checkpoint.weights


def test_linear_weights_are_out_by_in_whatever_the_file_has(tmp_path: Path) -> None:
    samples.hf_gpt2(tmp_path)
    weights = read(tmp_path).weights
    assert weights["layers.1.qkv.weight"].shape == (96, 32)
    assert weights["layers.1.mlp_up.weight"].shape == (128, 32)
    assert weights["layers.1.mlp_down.weight"].shape == (32, 128)
    assert all(weight.dtype == np.float32 and weight.flags.c_contiguous for weight in weights.values())


def test_bare_models_without_the_prefix_are_read(tmp_path: Path) -> None:
    original = samples.hf_gpt2(tmp_path)
    tensors = {name.removeprefix("transformer."): tensor for name, tensor in load_file(tmp_path / "model.safetensors").items()}
    tensors["h.0.attn.bias"] = torch.ones(1, 1, 128, 128).tril()  # as in OpenAI's own upload
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    checkpoint = read(tmp_path)
    tokens = some_tokens(checkpoint)
    expected = original(tokens)[:, : checkpoint.architecture.vocabulary_size]
    np.testing.assert_allclose(canonical_forward(checkpoint, tokens), expected, atol=2e-4)


def test_a_file_inside_the_directory_stands_for_the_directory(tmp_path: Path) -> None:
    samples.hf_llama(tmp_path)
    assert read(tmp_path / "model.safetensors").name == tmp_path.name


@pytest.mark.skipif(not SHAKESPEARE.exists(), reason="the trained checkpoint lies outside the repository")
def test_a_trained_checkpoint_continues_as_it_did_in_its_own_project() -> None:
    checkpoint = read(SHAKESPEARE)
    for case in json.loads(SHAKESPEARE.with_suffix(".greedy.json").read_text()):
        ids = np.array(case["ids"])
        prompt = len(case["prompt_ids"])
        best = checkpoint.reference(ids).argmax(-1)
        assert best[prompt - 1 : -1].tolist() == ids[prompt:].tolist()


def test_torch_is_needed_for_pt_files_only(tmp_path: Path) -> None:
    (tmp_path / "hf").mkdir()
    samples.hf_llama(tmp_path / "hf", dtype="bfloat16")
    samples.gguf_llama(tmp_path / "model.gguf", "Q4_1")
    samples.build_nanogpt(tmp_path / "model.pt")
    script = (
        "import sys; sys.modules['torch'] = None\n"
        "from export.checkpoints import read\n"
        "for path in sys.argv[1:]:\n"
        "    try: print(read(path).reference([1, 2, 3]).shape)\n"
        "    except Exception as exc: print(exc)\n"
    )
    paths = [str(tmp_path / name) for name in ("hf", "model.gguf", "model.pt")]
    done = subprocess.run([sys.executable, "-c", script, *paths], cwd=ROOT, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert lines[0] == lines[1] == "(3, 293)"
    assert lines[2].endswith("reading a .pt checkpoint needs torch, which is not installed: run `make setup-torch`")


# --- what cannot be served is refused in one sentence -----------------------------------------------------------------


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
        (b"", "no checkpoint"),
        (b"some text\n", "no checkpoint"),
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
    with pytest.raises(CheckpointError, match="its header cannot be 1152921504606846976 bytes long"):
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
        (lambda model: model.clear(), "it lacks `model`"),
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
        (samples.hf_llama, {"rope_parameters": {"rope_type": "llama3", "factor": 8.0}}, "rope_parameters of type 'llama3'"),
        (samples.hf_llama, {"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling of type 'linear'"),
        (samples.hf_llama, {"attention_bias": True}, "attention_bias = True"),
        (samples.hf_llama, {"hidden_act": "gelu"}, "hidden_act = 'gelu'"),
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
        ({"llama__rope__scaling__type": "yarn"}, "llama.rope.scaling.type = 'yarn'"),
        ({"llama__block_count": None}, "lacks llama.block_count"),
        ({"tokenizer__ggml__pre": "tekken"}, "tokenizer.ggml.pre is 'tekken'"),
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


def tokenizer_file(directory: Path) -> str:
    samples.small_tokenizer().save(str(directory / "other.json"))
    return os.fspath(directory / "other.json")


def some_tokens(checkpoint: Checkpoint) -> np.ndarray:
    return np.random.default_rng(1).integers(0, checkpoint.architecture.vocabulary_size, 50)


def canonical_forward(checkpoint: Checkpoint, tokens: np.ndarray) -> np.ndarray:
    """The model as export/checkpoint.py promises it: from canonical weights and the architecture alone."""
    a, w = checkpoint.architecture, {name: torch.from_numpy(weight.copy()) for name, weight in checkpoint.weights.items()}
    F = torch.nn.functional
    n = len(tokens)

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        if a.family == "llama":
            return F.rms_norm(x, (a.width,), w[f"{name}.weight"], a.norm_epsilon)
        return F.layer_norm(x, (a.width,), w[f"{name}.weight"], w.get(f"{name}.bias"), a.norm_epsilon)

    def linear(x: torch.Tensor, name: str) -> torch.Tensor:
        return F.linear(x, w[f"{name}.weight"], w.get(f"{name}.bias"))

    def rotated(x: torch.Tensor) -> torch.Tensor:
        if a.rope_theta is None:
            return x
        angles = torch.arange(n)[:, None] / a.rope_theta ** (torch.arange(0, a.head_dim, 2) / a.head_dim)
        left, right = x.chunk(2, -1)
        return torch.cat([left * angles.cos() - right * angles.sin(), right * angles.cos() + left * angles.sin()], -1)

    x = w["embedding"][torch.from_numpy(tokens)]
    if a.family == "gpt2":
        x = x + w["position_embedding"][:n]
    for i in range(a.layers):
        qkv = linear(norm(x, f"layers.{i}.attention_norm"), f"layers.{i}.qkv").view(n, -1, a.head_dim).transpose(0, 1)
        q, k, v = qkv.split([a.heads, a.kv_heads, a.kv_heads])
        y = F.scaled_dot_product_attention(rotated(q), rotated(k), v, is_causal=True, enable_gqa=True)
        x = x + linear(y.transpose(0, 1).reshape(n, -1), f"layers.{i}.attention_out")
        hidden = norm(x, f"layers.{i}.mlp_norm")
        up = linear(hidden, f"layers.{i}.mlp_up")
        if a.family == "llama":
            hidden = F.silu(linear(hidden, f"layers.{i}.mlp_gate")) * up
        else:
            hidden = F.gelu(up, approximate="tanh" if a.gelu == "tanh" else "none")
        x = x + linear(hidden, f"layers.{i}.mlp_down")
    return F.linear(norm(x, "final_norm"), w.get("head", w["embedding"])).numpy()
