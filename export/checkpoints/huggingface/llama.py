"""Llama and model types that differ from it only slightly. Sources: transformers' configuration_*.py and modeling_*.py."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from export.checkpoint import CheckpointError, shown
from export.checkpoints.huggingface.biases import Biases
from export.checkpoints.huggingface.decoder import Family, Kind, read
from export.checkpoints.settings import whole
from export.references import llama as references

Settings = Mapping[str, Any]


def _always(config: Settings, layer: int) -> bool:
    return True


def _upper_layers(config: Settings, layer: int) -> bool:
    key = "max_window_layers"  # the lower ones, which have none
    return config["use_sliding_window"] is True and layer >= (0 if config[key] == 0 else whole(config, key))


def _without_positions(config: Settings, layer: int) -> bool:
    return config["use_sliding_window"] is True and not _has_positions(config, layer)


def _has_positions(config: Settings, layer: int) -> bool:
    """In `no_rope_layers`, 1 means that the layer has positions."""
    given = config.get("no_rope_layers")
    if given is None:
        return (layer + 1) % whole(config, "no_rope_layer_interval", 4) != 0
    if not isinstance(given, list) or len(given) != config["num_hidden_layers"] or any(one not in (0, 1) for one in given):
        expected = f"expected are {config['num_hidden_layers']} of 0 or 1"
        raise CheckpointError(f"its configuration says no_rope_layers = {shown(given)}, {expected}")
    return bool(given[layer])


def _three_of_four(config: Settings, layer: int) -> bool:
    return (layer + 1) % 4 != 0


BIASES = Biases("attention_bias", "attention_bias", "mlp_bias")
ATTENTION_BIASES = Biases("attention_bias", "attention_bias")
NO_BIASES = {"attention_bias": False, "mlp_bias": False}
QWEN = {
    "max_position_embeddings": 32768,
    "num_key_value_heads": 32,
    "use_sliding_window": False,
    "sliding_window": 4096,
    "max_window_layers": 28,
}
OLMO = {"attention_bias": False, "rms_norm_eps": 1e-5}
BEHIND = {"attention_out_norm": "post_attention_layernorm", "mlp_out_norm": "post_feedforward_layernorm"}
MISTRAL = {"max_position_embeddings": 131072, "num_key_value_heads": 8, "sliding_window": 4096}

KINDS: dict[str, Kind] = {
    "llama": Kind(defaults=NO_BIASES, biases=BIASES),
    "mistral": Kind(defaults=MISTRAL, is_sliding=_always, layer_types=False),
    "ministral": Kind(defaults=MISTRAL, is_sliding=_always),
    "qwen2": Kind(defaults=QWEN, is_sliding=_upper_layers, biases=Biases(qkv=True)),
    "qwen3": Kind(
        reference=references.Qwen3,
        defaults={**QWEN, "head_dim": 128, "attention_bias": False},
        is_sliding=_upper_layers,
        biases=ATTENTION_BIASES,
        qk_norm="head",
    ),
    "smollm3": Kind(
        defaults={
            **NO_BIASES,
            "max_position_embeddings": 32768,
            "num_key_value_heads": 4,
            "rope_theta": 2000000.0,
            "sliding_window": None,
            "tie_word_embeddings": True,
            "use_sliding_window": False,
        },
        has_positions=_has_positions,
        is_sliding=_without_positions,
        biases=BIASES,
    ),
    "phi3": Kind(
        reference=references.Phi3,
        defaults={
            "max_position_embeddings": 4096,
            "original_max_position_embeddings": 4096,
            "partial_rotary_factor": 1.0,
            "rms_norm_eps": 1e-5,
            "sliding_window": None,
        },
        stacked=True,
        partial=True,
        is_sliding=_always,
        layer_types=False,
    ),
    "olmo": Kind(
        reference=references.Olmo,
        defaults={"attention_bias": False, "layer_norm_eps": 1e-5},
        refused=("clip_qkv",),
        norm="layer",
        norm_weights=False,
        epsilon="layer_norm_eps",
        biases=ATTENTION_BIASES,
    ),
    "olmo2": Kind(
        reference=references.Olmo2,
        defaults=OLMO,
        norms=BEHIND,
        biases=ATTENTION_BIASES,
        qk_norm="all heads",
    ),
    "olmo3": Kind(
        reference=references.Olmo2,
        defaults={**OLMO, "rope_theta": 500000.0, "sliding_window": 4096},
        norms=BEHIND,
        biases=ATTENTION_BIASES,
        qk_norm="all heads",
        rope_by_type=True,
        is_sliding=_three_of_four,
    ),
    "granite": Kind(
        defaults={
            **NO_BIASES,
            "attention_multiplier": 1.0,
            "embedding_multiplier": 1.0,
            "logits_scaling": 1.0,
            "residual_multiplier": 1.0,
        },
        biases=BIASES,
    ),
    "stablelm": Kind(
        reference=references.StableLm,
        defaults={
            "layer_norm_eps": 1e-5,
            "max_position_embeddings": 4096,
            "num_key_value_heads": 32,
            "partial_rotary_factor": 0.25,
            "use_parallel_residual": False,
            "use_qkv_bias": False,
        },
        refused=("qk_layernorm",),
        norm="layer",
        epsilon="layer_norm_eps",
        biases=Biases("use_qkv_bias"),
        partial=True,
    ),
    "starcoder2": Kind(
        reference=references.Starcoder2,
        defaults={
            "hidden_act": "gelu_pytorch_tanh",
            "max_position_embeddings": 4096,
            "norm_epsilon": 1e-5,
            "num_key_value_heads": 2,
            "sliding_window": None,
            "tie_word_embeddings": True,
            "use_bias": True,
        },
        norm="layer",
        epsilon="norm_epsilon",
        gated=False,
        mlp=("c_fc", "c_proj"),
        biases=Biases("use_bias", "use_bias", "use_bias"),
        is_sliding=_always,
        layer_types=False,
    ),
    "helium": Kind(
        reference=references.Helium,
        defaults={
            **NO_BIASES,
            "head_dim": 128,
            "max_position_embeddings": 4096,
            "num_key_value_heads": 20,
            "rms_norm_eps": 1e-8,
            "rope_theta": 100000.0,
        },
        biases=Biases(qkv="attention_bias", mlp="mlp_bias"),
        neighbours=True,
    ),
    "ernie4_5": Kind(
        reference=references.Helium,
        defaults={
            "head_dim": 128,
            "max_position_embeddings": 131072,
            "num_key_value_heads": 2,
            "rms_norm_eps": 1e-5,
            "rope_theta": 500000.0,
            "tie_word_embeddings": True,
            "use_bias": False,
        },
        biases=Biases("use_bias", "use_bias", "use_bias"),
        neighbours=True,
    ),
    "seed_oss": Kind(
        defaults={
            "attention_bias": True,
            "attention_out_bias": False,
            "head_dim": 128,
            "max_position_embeddings": 524288,
            "mlp_bias": False,
            "num_key_value_heads": 8,
        },
        biases=Biases("attention_bias", "attention_out_bias", "mlp_bias"),
    ),
    "arcee": Kind(
        reference=references.Arcee,
        defaults={**NO_BIASES, "hidden_act": "relu2", "max_position_embeddings": 4096, "rms_norm_eps": 1e-5},
        gated=False,
        biases=BIASES,
    ),
}
FAMILIES: dict[str, Family] = {name: partial(read, kind) for name, kind in KINDS.items()}
