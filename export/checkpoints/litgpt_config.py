"""Reads and validates litgpt's `model_config.yaml`: the fields of its Config, in versions since March 2024."""

from collections.abc import Mapping
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from export.checkpoint import Architecture, CheckpointError, Rotary, shown
from export.checkpoints.rotary import base_frequencies, llama3, with_frequencies
from export.checkpoints.settings import LAYERS, checked, demand, head_dim, real, whole
from export.text_file import read_text

Settings = dict[str, Any]

LIMIT = 32 << 10  # bytes: twenty times what litgpt writes
BRACKETS = 64  # opening brackets: deeply nested ones take the parser minutes
LLAMA3 = ("factor", "low_freq_factor", "high_freq_factor", "original_max_seq_len")
MLPS = ("GptNeoxMLP", "LLaMAMLP", "GemmaMLP")


def settings(path: Path) -> Settings:
    """Reads settings from a YAML file. Raises CheckpointError if it uses aliases, which could expand without end."""
    text = read_text(path, LIMIT)
    if text.count("[") + text.count("{") > BRACKETS:
        raise CheckpointError(f"its {path.name} has more than {BRACKETS} brackets, far more than litgpt writes")
    try:
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, yaml.SafeLoader)):
            raise CheckpointError(f"its {path.name} refers to parts of itself, which litgpt never writes")
        content = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as exc:
        raise CheckpointError(f"its {path.name} is not valid YAML: {exc}") from exc
    if not isinstance(content, dict):
        raise CheckpointError(f"its {path.name} holds no settings")
    return content


def flag(config: Settings, key: str, default: bool) -> bool:
    demand(config, key, True, False)
    return bool(config.get(key, default))


def rows(config: Settings) -> int:
    """Rows of embedding and head, including padding."""
    if config.get("padded_vocab_size") is not None:
        return whole(config, "padded_vocab_size")
    multiple = whole(config, "padding_multiple", 512)
    return -(-whole(config, "vocab_size") // multiple) * multiple


def model_name(config: Settings) -> str:
    """The model's name, which determines details of the norms."""
    origin = config.get("hf_config")
    return str(config.get("name") or (origin.get("name") if isinstance(origin, dict) else ""))


def architecture(config: Settings, vocabulary_size: int) -> Architecture:
    _require_known(config)
    width, heads, layers = whole(config, "n_embd"), whole(config, "n_head"), whole(config, "n_layer", limit=LAYERS)
    size = whole(config, "head_size") if config.get("head_size") is not None else head_dim(width, heads)
    rotary, layer_rotary = _rotary(config, size, layers)
    is_silu, is_tanh = config.get("mlp_class_name") == "LLaMAMLP", config.get("gelu_approximate") == "tanh"
    scalar = _optional(config, "attention_scores_scalar")
    return checked(
        Architecture(
            layers=layers,
            heads=heads,
            kv_heads=whole(config, "n_query_groups", heads),
            head_dim=size,
            width=width,
            mlp_width=whole(config, "intermediate_size", 4 * width),
            vocabulary_size=vocabulary_size,
            context_length=whole(config, "block_size"),
            norm="rms" if config.get("norm_class_name") == "RMSNorm" else "layer",
            norm_epsilon=real(config, "norm_eps", 1e-5),
            activation="silu" if is_silu else "gelu_tanh" if is_tanh else "gelu",
            rotary=rotary,
            layer_rotary=layer_rotary,
            layer_window=_windows(config, layers),
            attention_scale=None if scalar is None else 1 / sqrt(scalar),
            attention_softcap=_optional(config, "attention_logit_softcapping"),
            logit_softcap=_optional(config, "final_logit_softcapping"),
            parallel=flag(config, "parallel_residual", True),
        )
    )


def _require_known(config: Settings) -> None:
    demand(config, "mlp_class_name", *MLPS)
    demand(config, "gelu_approximate", "none", "tanh")
    demand(config, "norm_class_name", "LayerNorm", "RMSNorm")
    demand(config, "norm_qk_type", "default", "olmo2")
    demand(config, "latent_attention", None)
    demand(config, "n_expert", 0, None)
    if config.get("norm_class_name") != "RMSNorm":
        demand(config, "norm_qk", False)
        demand(config, "scale_embeddings", False)
    if flag(config, "parallel_residual", True):
        demand(config, "post_mlp_norm", False)
        if not flag(config, "shared_attention_norm", False):
            demand(config, "norm_2", flag(config, "norm_1", True))
    else:
        demand(config, "shared_attention_norm", False)


def turned(config: Settings, size: int) -> int:
    """How many dimensions of a head of ``size`` have rotary positions."""
    share = real(config, "rotary_percentage", 0.25)
    rows = int(min(share, 2.0) * size)
    if not 2 <= rows <= size or rows % 2:
        way_out = f"which turns {rows} of a head's {size} rows: served are even numbers from 2 on"
        raise CheckpointError(f"its configuration says rotary_percentage = {share}, {way_out}")
    return rows


def _rotary(config: Settings, size: int, layers: int) -> tuple[tuple[Rotary, ...], tuple[int, ...]]:
    """The rotary kinds (the model's, and its local layers' if their base differs), and the kind of each layer."""
    rows, local = turned(config, size), config.get("rope_local_base_freq")
    kinds = [_adjusted(base_frequencies(rows, real(config, "rope_base", 10000.0)), config)]
    if local is not None:
        kinds.append(base_frequencies(rows, real(config, "rope_local_base_freq", 0.0)))
    condensed = np.float32(real(config, "rope_condense_ratio", 1.0))
    rotary = tuple(with_frequencies(frequencies / condensed, size) for frequencies in kinds)
    return rotary, () if local is None else _indices(config, "rope_indices", layers)


def _adjusted(frequencies: np.ndarray, config: Settings) -> np.ndarray:
    """Applies linear or Llama 3 scaling, if configured."""
    adjustments = config.get("rope_adjustments")
    if adjustments is None:
        return frequencies
    if not isinstance(adjustments, dict) or adjustments.keys() not in ({"factor"}, {*LLAMA3}):
        raise CheckpointError(
            f"its configuration says rope_adjustments = {shown(adjustments)}, served are those with {', '.join(LLAMA3)}, "
            "and those with factor alone"
        )
    factor = real(adjustments, "factor", 0.0)
    if len(adjustments) == 1:
        return frequencies / np.float32(factor)
    low, high = real(adjustments, "low_freq_factor", 0.0), real(adjustments, "high_freq_factor", 0.0)
    if low >= high:
        raise CheckpointError(
            f"its configuration says high_freq_factor = {high}, allowed are numbers above low_freq_factor = {low}"
        )
    return llama3(frequencies, factor=factor, low=low, high=high, original=whole(adjustments, "original_max_seq_len"))


def _windows(config: Settings, layers: int) -> tuple[int | None, ...]:
    if config.get("sliding_window_size") is None:
        return ()
    window = whole(config, "sliding_window_size")
    if config.get("sliding_window_layer_placing") in ("interleaved", 2):  # before April 2025
        return tuple(window if layer % 2 == 0 else None for layer in range(layers))
    return tuple(window if local else None for local in _indices(config, "sliding_window_indices", layers))


def _indices(config: Settings, key: str, layers: int) -> tuple[int, ...]:
    """0 or 1 for each layer; 1 by default."""
    given = config.get(key)
    if given is None:
        return (1,) * layers
    if not isinstance(given, list) or len(given) < layers or any(one not in (0, 1) for one in given[:layers]):
        raise CheckpointError(
            f"its configuration says {key} = {shown(given)}, allowed are 0 and 1 for each of its {layers} layers"
        )
    return tuple(int(one) for one in given[:layers])


def _optional(config: Mapping[str, Any], key: str) -> float | None:
    return None if config.get(key) is None else real(config, key, 0.0)
