"""GGUF files of every architecture that is served: what is read from them is what transformers' own models compute."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import MODEL_ARCH

from export.checkpoints import read
from export.checkpoints.gguf import families, file, layout
from tests.export.families import assert_same_logits, decoder_of, prefill
from tests.export.gguf_models import LLAMA, Kind, apart, permuted, shifted, transposed

TOKENS = np.random.default_rng(5).integers(3, 290, 60)
ROPE: dict[str, Any] = {"rope_type": "default", "rope_theta": 10000.0}
LLAMA3 = ROPE | {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}  # fmt: skip
YARN = ROPE | {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
YARN_KEYS = {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0, "rope.scaling.original_context_length": 32}
SHORT, LONG = [1.0, 1.05, 1.1, 1.2, 1.4, 1.7, 2.0, 2.5], [1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0]
LONGROPE = ROPE | {
    "rope_type": "longrope", "short_factor": SHORT, "long_factor": LONG, "original_max_position_embeddings": 64,
    "factor": 2.0,
}  # fmt: skip
GEMMA3_TYPES = [*["sliding_attention"] * 2, "full_attention"] * 2
GEMMA3_ROPE = {
    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
    "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
}


def llama3_factors() -> np.ndarray:
    """As llama.cpp's converter computes them from config.json, one for each pair."""
    factors = []
    for pair in range(8):
        wavelength = 2 * math.pi * 10000.0 ** (pair / 8)
        blend = min(max((32 / wavelength - 1) / 3, 0), 1)
        factors.append(1 / ((1 - blend) / 8 + blend))
    return np.array(factors, np.float32)


KINDS = {
    "llama": LLAMA,
    "llama, biases, q, k and v in one": Kind(
        MODEL_ARCH.LLAMA, "Llama", {"attention_bias": True, "mlp_bias": True}, change=permuted, fused=True
    ),
    "llama, wide heads": Kind(MODEL_ARCH.LLAMA, "Llama", {"head_dim": 32, "num_key_value_heads": 1}, change=permuted),
    "llama, rope_freqs": Kind(
        MODEL_ARCH.LLAMA, "Llama", {"rope_parameters": LLAMA3}, change=permuted, extra={"rope_freqs.weight": llama3_factors()}
    ),
    "llama, linear": Kind(
        MODEL_ARCH.LLAMA,
        "Llama",
        {"rope_parameters": ROPE | {"rope_type": "linear", "factor": 4.0}},
        {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0},
        permuted,
    ),
    "llama, linear, by the old key": Kind(
        MODEL_ARCH.LLAMA,
        "Llama",
        {"rope_parameters": ROPE | {"rope_type": "linear", "factor": 4.0}},
        {"rope.scale_linear": 4.0},
        permuted,
    ),
    "mistral": Kind(
        MODEL_ARCH.LLAMA, "Mistral", {"sliding_window": 9}, {"attention.sliding_window": 9}, permuted
    ),
    "granite": Kind(
        MODEL_ARCH.GRANITE,
        "Granite",
        {
            "attention_multiplier": 0.2, "embedding_multiplier": 6.0, "residual_multiplier": 0.3, "logits_scaling": 4.0,
            "tie_word_embeddings": True,
        },
        {"attention.scale": 0.2, "embedding_scale": 6.0, "residual_scale": 0.3, "logit_scale": 4.0},
        permuted,
    ),
    "smollm3": Kind(MODEL_ARCH.SMOLLM3, "SmolLM3", {"num_hidden_layers": 5, "no_rope_layer_interval": 4}, change=permuted),
    "qwen2": Kind(MODEL_ARCH.QWEN2, "Qwen2", {"tie_word_embeddings": True}),
    "qwen2, yarn": Kind(MODEL_ARCH.QWEN2, "Qwen2", {"rope_parameters": YARN}, YARN_KEYS),
    "qwen2, yarn with settings of its own": Kind(
        MODEL_ARCH.QWEN2,
        "Qwen2",
        {"rope_parameters": YARN | {"beta_fast": 8.0, "beta_slow": 0.5, "attention_factor": 1.3}},
        YARN_KEYS
        | {"rope.scaling.yarn_beta_fast": 8.0, "rope.scaling.yarn_beta_slow": 0.5, "rope.scaling.yarn_attn_factor": 1.3},
    ),
    "qwen3": Kind(MODEL_ARCH.QWEN3, "Qwen3", {"head_dim": 32}),
    "gemma": Kind(MODEL_ARCH.GEMMA, "Gemma", {"head_dim": 32}, change=shifted),
    "gemma2": Kind(
        MODEL_ARCH.GEMMA2,
        "Gemma2",
        {
            "head_dim": 32, "sliding_window": 7, "query_pre_attn_scalar": 32, "attn_logit_softcapping": 3.0,
            "final_logit_softcapping": 2.0, "attn_implementation": "eager",
        },
        {"attention.sliding_window": 7, "attn_logit_softcapping": 3.0, "final_logit_softcapping": 2.0},
        shifted,
    ),
    "gemma3": Kind(
        MODEL_ARCH.GEMMA3,
        "Gemma3",
        {
            "head_dim": 32, "num_hidden_layers": 7, "sliding_window": 7, "query_pre_attn_scalar": 32,
            "layer_types": [*["sliding_attention"] * 5, "full_attention", "sliding_attention"],
            "rope_parameters": GEMMA3_ROPE | {"full_attention": {"rope_type": "default", "rope_theta": 1e6}},
        },
        {"attention.sliding_window": 7},
        shifted,
        configuration="Gemma3TextConfig",
    ),
    "gemma3, as the larger ones": Kind(
        MODEL_ARCH.GEMMA3,
        "Gemma3",
        {
            "head_dim": 32, "num_hidden_layers": 6, "sliding_window": 7, "query_pre_attn_scalar": 32,
            "layer_types": GEMMA3_TYPES, "rope_parameters": GEMMA3_ROPE,
        },
        {
            "attention.sliding_window": 7, "attention.sliding_window_pattern": 3, "rope.freq_base_swa": 10000.0,
            "rope.scaling.type": "linear", "rope.scaling.factor": 8.0,
        },
        shifted,
        configuration="Gemma3TextConfig",
    ),
    "olmo2": Kind(MODEL_ARCH.OLMO2, "Olmo2"),
    "olmo3": Kind(
        MODEL_ARCH.OLMO2,
        "Olmo3",
        {
            "sliding_window": 7, "num_hidden_layers": 4,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
        },
        {"attention.sliding_window": 7, "attention.sliding_window_pattern": [True, False, True, False]},
    ),
    "phi2": Kind(
        MODEL_ARCH.PHI2,
        "Phi",
        {"num_key_value_heads": 4, "rope_parameters": ROPE | {"partial_rotary_factor": 0.5}},
        {"rope.dimension_count": 8},
    ),
    "phi3": Kind(MODEL_ARCH.PHI3, "Phi3", {"sliding_window": 9}, {"attention.sliding_window": 9}),
    "phi3, long": Kind(
        MODEL_ARCH.PHI3,
        "Phi3",
        {"rope_parameters": LONGROPE, "original_max_position_embeddings": 64, "sliding_window": None},
        {
            "rope.scaling.original_context_length": 64, "attention.sliding_window": 0, "rope.dimension_count": 16,
            "rope.scaling.attn_factor": math.sqrt(1 + math.log(2) / math.log(64)),
        },
        extra={
            "rope_factors_short.weight": np.array(SHORT, np.float32),
            "rope_factors_long.weight": np.array(LONG, np.float32),
        },
    ),
    "gptneox": Kind(
        MODEL_ARCH.GPTNEOX,
        "GPTNeoX",
        {"rope_parameters": ROPE | {"partial_rotary_factor": 0.25}},
        {"rope.dimension_count": 4, "use_parallel_residual": True, "attention.head_count_kv": None},
        apart,
    ),
    "gptneox, serial": Kind(
        MODEL_ARCH.GPTNEOX,
        "GPTNeoX",
        {"use_parallel_residual": False, "rope_parameters": ROPE | {"partial_rotary_factor": 1.0}},
        {"rope.dimension_count": 16, "use_parallel_residual": False, "attention.head_count_kv": None},
        apart,
    ),
    "gpt2": Kind(MODEL_ARCH.GPT2, "GPT2", {"n_inner": 96}, {"attention.head_count_kv": None}, transposed),
    "starcoder": Kind(MODEL_ARCH.STARCODER, "GPTBigCode", {"n_inner": 96}, {"attention.head_count_kv": 1}),
    "starcoder2": Kind(MODEL_ARCH.STARCODER2, "Starcoder2", {"sliding_window": None, "tie_word_embeddings": True}),
    "stablelm": Kind(
        MODEL_ARCH.STABLELM,
        "StableLm",
        {"use_qkv_bias": True, "rope_parameters": ROPE | {"partial_rotary_factor": 0.25}},
        {"rope.dimension_count": 4, "use_parallel_residual": False},
    ),
    "stablelm, parallel": Kind(
        MODEL_ARCH.STABLELM,
        "StableLm",
        {"use_parallel_residual": True, "rope_parameters": ROPE | {"partial_rotary_factor": 0.25}},
        {"rope.dimension_count": 4, "use_parallel_residual": True},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", KINDS)
def test_reference_and_graph_compute_what_transformers_computes(name: str, tmp_path: Path) -> None:
    original = KINDS[name].write(tmp_path / "model.gguf")
    checkpoint = read(tmp_path / "model.gguf")
    expected = original(TOKENS)[:, : checkpoint.architecture.vocabulary_size]
    assert_same_logits(checkpoint.reference(TOKENS), expected)
    assert_same_logits(prefill(decoder_of(checkpoint, tmp_path), TOKENS.tolist(), chunk=16), expected)


def test_every_family_has_been_compared_with_transformers() -> None:
    assert {kind.name for kind in KINDS.values()} == families.FAMILIES.keys()


def test_positions_beyond_the_original_context_of_longrope_are_not_served(tmp_path: Path) -> None:
    KINDS["phi3, long"].write(tmp_path / "model.gguf")
    assert read(tmp_path / "model.gguf").architecture.context_length == 64


def test_the_largest_gemmas_divide_scores_by_the_root_of_another_size(tmp_path: Path) -> None:
    KINDS["gemma3"].write(tmp_path / "model.gguf")
    metadata, tensors = file.read(tmp_path / "model.gguf")
    for layers, scale in {7: None, 62: 1 / math.sqrt(64 / 4)}.items():
        metadata["gemma3.block_count"] = layers
        family = families.FAMILIES["gemma3"]
        assert layout.architecture(metadata, tensors, family, 293).attention_scale == scale
