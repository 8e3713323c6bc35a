"""Readers of all kinds of checkpoint: what they read is what the original computes."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from export.checkpoint import Checkpoint
from export.checkpoints import read
from export.references import frameworks
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
    monkeypatch.setattr(frameworks, "find_spec", lambda name: None)
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


def test_training_directories_stand_for_their_newest_checkpoint(tmp_path: Path) -> None:
    for step in (900, 10000, 2000):
        samples.build_nanogpt(tmp_path / f"model_{step:05d}.pt", n_layer=1)
    (tmp_path / "out").mkdir()
    samples.nanogpt(tmp_path / "out" / "ckpt.pt", n_layer=1)
    assert read(tmp_path).name == "model_10000.pt"
    assert read(tmp_path / "out").name == "ckpt.pt"


def test_characters_whose_number_was_rounded_up_are_those_of_meta_pkl(tmp_path: Path) -> None:
    original = samples.nanogpt(tmp_path / "ckpt.pt", vocab_size=128)
    checkpoint = read(tmp_path / "ckpt.pt")
    assert checkpoint.architecture.vocabulary_size == len(samples.CHARACTERS)
    tokens = some_tokens(checkpoint)
    np.testing.assert_allclose(checkpoint.reference(tokens), original(tokens)[:, : len(samples.CHARACTERS)], atol=2e-5)


def test_a_nanogpt_from_before_its_bias_option_has_the_approximated_gelu_and_the_biases_of_its_file(tmp_path: Path) -> None:
    original = samples.nanogpt(tmp_path / "new.pt", approximate="tanh")
    saved = torch.load(tmp_path / "new.pt", weights_only=True)
    del saved["model_args"]["bias"]
    torch.save(saved, tmp_path / "old.pt")
    checkpoint = read(tmp_path / "old.pt")
    tokens = some_tokens(checkpoint)
    np.testing.assert_allclose(canonical_forward(checkpoint, tokens), original(tokens), atol=2e-4)
    np.testing.assert_allclose(checkpoint.reference(tokens), original(tokens), atol=2e-5)
    for name in [name for name in saved["model"] if ".ln_" in name and name.endswith("bias")]:
        del saved["model"][name]
    torch.save(saved, tmp_path / "without.pt")
    assert "final_norm.bias" not in read(tmp_path / "without.pt").weights


def test_the_padding_of_the_vocabulary_is_cut_away(tmp_path: Path) -> None:
    samples.build_nanogpt(tmp_path / "model.pt", vocab_size=50304)
    checkpoint = read(tmp_path / "model.pt")
    assert checkpoint.architecture.vocabulary_size == 50257
    assert checkpoint.weights["embedding"].shape == (50257, 32)
    assert "head.weight" not in checkpoint.weights


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
    assert "reading a .pt checkpoint needs torch, which is not installed: `make setup-torch`" in lines[2]


def some_tokens(checkpoint: Checkpoint) -> np.ndarray:
    return np.random.default_rng(1).integers(0, checkpoint.architecture.vocabulary_size, 50)


def canonical_forward(checkpoint: Checkpoint, tokens: np.ndarray) -> np.ndarray:
    """The model as export/checkpoint.py promises it: from canonical weights and the architecture alone."""
    a, w = checkpoint.architecture, {name: torch.from_numpy(weight.copy()) for name, weight in checkpoint.weights.items()}
    F = torch.nn.functional
    n = len(tokens)

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        if a.norm == "rms":
            return F.rms_norm(x, (a.width,), w[f"{name}.weight"], a.norm_epsilon)
        return F.layer_norm(x, (a.width,), w[f"{name}.weight"], w.get(f"{name}.bias"), a.norm_epsilon)

    def linear(x: torch.Tensor, name: str) -> torch.Tensor:
        return F.linear(x, w[f"{name}.weight"], w.get(f"{name}.bias"))

    def rotated(x: torch.Tensor) -> torch.Tensor:
        if not a.rotary:
            return x
        angles = torch.arange(n)[:, None] * torch.tensor(a.rotary[0].frequencies)
        left, right = x.chunk(2, -1)
        return torch.cat([left * angles.cos() - right * angles.sin(), right * angles.cos() + left * angles.sin()], -1)

    x = w["embedding"][torch.from_numpy(tokens)]
    if "position_embedding" in w:
        x = x + w["position_embedding"][:n]
    for i in range(a.layers):
        qkv = linear(norm(x, f"layers.{i}.attention_norm"), f"layers.{i}.qkv").view(n, -1, a.head_dim).transpose(0, 1)
        q, k, v = qkv.split([a.heads, a.kv_heads, a.kv_heads])
        y = F.scaled_dot_product_attention(rotated(q), rotated(k), v, is_causal=True, enable_gqa=True)
        x = x + linear(y.transpose(0, 1).reshape(n, -1), f"layers.{i}.attention_out")
        hidden = norm(x, f"layers.{i}.mlp_norm")
        up = linear(hidden, f"layers.{i}.mlp_up")
        if f"layers.{i}.mlp_gate.weight" in w:
            hidden = F.silu(linear(hidden, f"layers.{i}.mlp_gate")) * up
        else:
            hidden = F.gelu(up, approximate="tanh" if a.activation == "gelu_tanh" else "none")
        x = x + linear(hidden, f"layers.{i}.mlp_down")
    return F.linear(norm(x, "final_norm"), w.get("head.weight", w["embedding"])).numpy()
