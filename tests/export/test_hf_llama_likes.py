"""Llama and its like: tiny models that transformers makes, in the decoder that serves them."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig

from export.checkpoint import CheckpointError
from export.checkpoints import read
from export.checkpoints.huggingface.decoder import COMMON, Kind
from export.checkpoints.huggingface.llama import KINDS
from tests.export.families import assert_as_written, shared
from tests.export.transformers_models import assert_as_transformers, edit, saved

SLIDING, FULL = "sliding_attention", "full_attention"
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "rope_theta": 1e4}
LONG = {"rope_type": "longrope", "short_factor": [1.0, 1.1, 1.2, 1.3], "long_factor": [9.0] * 4, "rope_theta": 1e4}
LONG |= {"original_max_position_embeddings": 64, "partial_rotary_factor": 0.5}
MULTIPLIERS = {"embedding_multiplier": 12.0, "residual_multiplier": 0.22, "attention_multiplier": 0.11, "logits_scaling": 3.0}
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("llama", {}),
    ("llama", {"head_dim": 24, "num_key_value_heads": 1, "tie_word_embeddings": True, "rms_norm_eps": 1e-3}),
    ("llama", {"attention_bias": True, "mlp_bias": True, "hidden_act": "gelu"}),
    ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 500.0}}),
    ("llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 500.0}}),
    ("llama", {"rope_parameters": LLAMA3 | {"original_max_position_embeddings": 16, "rope_theta": 500.0}}),
    ("llama", {"rope_parameters": YARN}),
    ("llama", {"rope_parameters": YARN | {"attention_factor": 1.5, "beta_fast": 8.0, "beta_slow": 2.0}}),
    ("llama", {"rope_parameters": YARN | {"mscale": 0.7, "mscale_all_dim": 1.3, "truncate": False}}),
    ("mistral", {"sliding_window": 8}),
    ("mistral", {"sliding_window": None, "head_dim": 12}),
    ("ministral", {"sliding_window": 8, "layer_types": [SLIDING, FULL, SLIDING], "head_dim": 16}),
    ("qwen2", {"tie_word_embeddings": True}),
    ("qwen2", {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}),
    ("qwen2", {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 0, "tie_word_embeddings": True}),
    ("qwen3", {"head_dim": 24}),
    ("qwen3", {"head_dim": 32, "attention_bias": True, "tie_word_embeddings": True}),
    ("qwen3", {"use_sliding_window": True, "sliding_window": 8, "layer_types": [FULL, SLIDING, FULL]}),
    ("smollm3", {"num_hidden_layers": 4}),
    ("smollm3", {"no_rope_layers": [0, 1, 0], "use_sliding_window": True, "sliding_window": 8, "attention_bias": True}),
    ("phi3", {}),
    ("phi3", {"sliding_window": 8, "rope_parameters": {"partial_rotary_factor": 0.5, "rope_theta": 500.0}}),
    ("phi3", {"rope_parameters": LONG | {"attention_factor": 1.3}}),
    ("olmo", {}),
    ("olmo2", {}),
    ("olmo2", {"attention_bias": True, "num_key_value_heads": 1, "hidden_size": 48}),
    ("olmo3", {"sliding_window": 8, "num_hidden_layers": 4}),
    ("granite", MULTIPLIERS | {"tie_word_embeddings": True}),
    ("granite", MULTIPLIERS | {"attention_bias": True, "mlp_bias": True}),
    ("stablelm", {}),
    ("stablelm", {"use_qkv_bias": True, "rope_parameters": {"partial_rotary_factor": 0.5, "rope_theta": 500.0}}),
    ("stablelm", {"use_parallel_residual": True}),
    ("starcoder2", {"sliding_window": 8}),
    ("starcoder2", {"use_bias": False, "tie_word_embeddings": False, "hidden_act": "gelu"}),
    ("helium", {"head_dim": 16, "num_key_value_heads": 4}),
    ("ernie4_5", {"head_dim": 24, "use_bias": True}),
    ("seed_oss", {"head_dim": 16, "attention_out_bias": True}),
    ("arcee", {"mlp_bias": True, "attention_bias": True}),
]


@pytest.mark.parametrize(("kind", "config"), VARIANTS, ids=[f"{kind}-{number}" for number, (kind, _) in enumerate(VARIANTS)])
def test_a_model_is_served_as_transformers_computes_it(kind: str, config: dict[str, Any], tmp_path: Path) -> None:
    assert_as_transformers(tmp_path, saved(kind, tmp_path, **config))


SHARED = ("hf-llama3-rope", "hf-llama-bias", "hf-mistral", "hf-qwen2", "hf-qwen3", "hf-smollm3", "hf-phi3", "hf-olmo2")


@pytest.mark.parametrize("config", ["config.json", "config_v4.json"])
@pytest.mark.parametrize("name", SHARED)
def test_a_model_says_what_it_said_where_it_was_made(name: str, config: str, tmp_path: Path) -> None:
    directory = shutil.copytree(shared(name), tmp_path / "model")
    (directory / config).rename(directory / "config.json")
    assert_as_written(directory, directory, tmp_path)


def test_minimind_says_what_it_said_where_it_was_made(tmp_path: Path) -> None:
    directory = shared("minimind-3-hf")
    assert_as_written(directory, directory, tmp_path)


def assert_defaults_of(kind: Kind, config: Any) -> None:
    ours = {**COMMON, **kind.defaults}
    rope = config.rope_parameters.get(FULL, config.rope_parameters)
    theirs = {key: getattr(config, key) for key in ours if hasattr(config, key)} | {
        key: rope[key] for key in ("rope_theta", "partial_rotary_factor") if key in rope
    }
    if theirs.get("use_sliding_window") is False:
        del theirs["sliding_window"]  # transformers makes None of it
    # transformers makes the number of heads of a None
    assert theirs.pop("num_key_value_heads", None) in (ours.get("num_key_value_heads"), config.num_attention_heads)
    assert theirs == {key: ours[key] for key in theirs}


@pytest.mark.parametrize("name", KINDS)
def test_what_a_configuration_lacks_is_as_transformers_has_it(name: str) -> None:
    assert_defaults_of(KINDS[name], AutoConfig.for_model(name))


@pytest.mark.parametrize(
    ("kind", "config", "written"),
    [
        (
            "llama",
            {"rope_parameters": LLAMA3 | {"original_max_position_embeddings": 16, "rope_theta": 500.0}},
            {"rope_theta": 500.0, "rope_scaling": LLAMA3 | {"original_max_position_embeddings": 16}},
        ),
        (
            "qwen2",
            {"rope_parameters": YARN},
            {"rope_theta": 1e4, "rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}},
        ),
        (
            "stablelm",
            {"rope_parameters": {"partial_rotary_factor": 0.5, "rope_theta": 500.0}},
            {"rope_theta": 500.0, "partial_rotary_factor": 0.5, "rope_scaling": None},
        ),
        (
            "olmo3",
            {"num_hidden_layers": 4, "sliding_window": 8, "rope_parameters": {FULL: YARN | {"rope_theta": 5e5}, SLIDING: None}},
            {"rope_theta": 5e5, "rope_scaling": YARN | {"rope_theta": 5e5}},
        ),
    ],
)
def test_transformers_4_writes_positions_in_keys_of_their_own(
    kind: str, config: dict[str, Any], written: dict[str, Any], tmp_path: Path
) -> None:
    model = saved(kind, tmp_path, **config)
    edit(tmp_path, drop=("rope_parameters",), **written)
    assert_as_transformers(tmp_path, model)


@pytest.mark.parametrize("name", ["su", "longrope", "yarn"])
def test_phi_3_is_served_in_the_context_for_which_its_short_factors_are(name: str, tmp_path: Path) -> None:
    model = saved("phi3", tmp_path, rope_parameters=LONG, original_max_position_embeddings=56)
    scaling = {key: value for key, value in LONG.items() if key not in ("rope_theta", "partial_rotary_factor")}
    changes: dict[str, Any] = {"rope_scaling": scaling | {"type": name}, "rope_theta": 1e4, "partial_rotary_factor": 0.5}
    del changes["rope_scaling"]["rope_type"]
    edit(tmp_path, drop=("rope_parameters",), **changes)
    assert assert_as_transformers(tmp_path, model).architecture.context_length == 56


def test_a_model_that_was_saved_without_its_head_is_served_with_its_embedding(tmp_path: Path) -> None:
    model: Any = saved("llama", tmp_path, tie_word_embeddings=True)
    model.model.save_pretrained(tmp_path)
    edit(tmp_path, architectures=["LlamaModel"])
    assert not any(name.startswith("model.") for name in load_file(tmp_path / "model.safetensors"))
    assert_as_transformers(tmp_path, model)


SCALED = "rope_parameters"
REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "a mixture": (
        "llama",
        {"model_type": "qwen3_moe"},
        "model_type = 'qwen3_moe', a mixture of experts, which is not served yet",
    ),
    "Mixtral": ("llama", {"model_type": "mixtral", "num_local_experts": 8}, "a mixture of experts, which is not served yet"),
    "images": (
        "llama",
        {"model_type": "llava", "vision_config": {}},
        "'llava', a model of more than text, which is not served yet",
    ),
    "another": ("llama", {"model_type": "mamba"}, "'mamba', which is not implemented; served are arcee, .*llama.*starcoder2"),
    "quantised": (
        "llama",
        {"quantization_config": {"quant_method": "gptq"}},
        "quantization_config = .*, which is not implemented",
    ),
    "a window": ("llama", {"sliding_window": 8}, "sliding_window = 8, which is not implemented"),
    "clipped": ("olmo", {"clip_qkv": 8.0}, "clip_qkv = 8.0, which is not implemented"),
    "norms of heads": ("stablelm", {"qk_layernorm": True}, "qk_layernorm = True, which is not implemented"),
    "quick": ("llama", {"hidden_act": "quick_gelu"}, "hidden_act = 'quick_gelu', which is not implemented; served are silu"),
    "mrope": ("qwen2", {SCALED: {"rope_type": "mrope"}}, "rope_type = 'mrope', which is not implemented; served are default"),
    "half a head": ("llama", {SCALED: {"partial_rotary_factor": 0.5}}, "partial_rotary_factor = 0.5, which is not implemented"),
    "odd": ("stablelm", {SCALED: {"partial_rotary_factor": 0.2}}, "turns 3 of a head's 16 rows"),
    "by type": ("qwen3", {SCALED: {FULL: {"rope_theta": 1e4}}}, "for each type of layer, which its model type has not"),
    "no object": ("llama", {SCALED: [1]}, r"rope_parameters = \[1\], expected is an object"),
    "no factor": ("llama", {SCALED: {"rope_type": "linear"}}, "factor = 0.0, allowed are positive numbers"),
    "backwards": ("llama", {SCALED: LLAMA3 | {"low_freq_factor": 5}}, "allowed are numbers above its low_freq_factor 5"),
    "no numbers": (
        "llama",
        {SCALED: {"rope_type": "linear", "factor": 1e-300}},
        "linear scaling of positions gives numbers that",
    ),
    "no number": (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": "2", "layer_types": None},
        "max_window_layers = '2', allowed are",
    ),
    "theta 1": ("llama", {SCALED: {"rope_theta": 1}}, "rope_theta = 1.0, allowed are numbers above 1"),
    "few": (
        "phi3",
        {SCALED: {"rope_type": "longrope", "short_factor": [1.0]}},
        r"short_factor = \[1.0\], expected are 8 numbers",
    ),
    "chunks": ("qwen2", {"sliding_window": 8, "layer_types": ["chunked_attention"] * 3}, "expected are 3 of full_attention or"),
    "too few types": ("qwen3", {"layer_types": [FULL]}, "layer_types = .*, expected are 3 of"),
    "layers": ("smollm3", {"no_rope_layers": [1, 0]}, r"no_rope_layers = \[1, 0\], expected are 3 of 0 or 1"),
    "no bias": (
        "llama",
        {"attention_bias": True},
        "it lacks the tensor .*q_proj.bias, though its config.json says attention_bias = True",
    ),
    "heads": ("qwen3", {"num_key_value_heads": 3}, "4 heads do not share 3 key-value heads evenly"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_not_implemented_is_refused_by_its_name(what: str, tmp_path: Path) -> None:
    kind, changes, said = REFUSED[what]
    saved(kind, tmp_path)
    edit(tmp_path, **changes)
    with pytest.raises(CheckpointError, match=said):
        read(tmp_path)


@pytest.mark.parametrize("name", ["model.layers.0.self_attn.q_proj.bias", "model.norm.bias", "lm_head.bias"])
def test_a_bias_that_the_model_type_does_not_have_is_refused(name: str, tmp_path: Path) -> None:
    saved("mistral", tmp_path)
    tensors = load_file(tmp_path / "model.safetensors") | {name: torch.zeros(64)}
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(
        CheckpointError, match=f"it holds the tensor {name}, though its config.json says model_type = 'mistral'"
    ):
        read(tmp_path)


def test_a_head_that_is_not_what_the_configuration_says_is_refused(tmp_path: Path) -> None:
    saved("llama", tmp_path)
    edit(tmp_path, tie_word_embeddings=True)
    with pytest.raises(CheckpointError, match="ties the head to the embedding, but its tensor lm_head.weight differs"):
        read(tmp_path)
