"""Canonical weights of a Llama, for files that name its tensors in different ways."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from export.checkpoint import Architecture
from export.checkpoints.tensors import RawTensor, Source, Weights, map_weights

Rotary = Callable[[np.ndarray, int], np.ndarray]  # (weight [heads * head_dim, in], heads) -> the same in the half-split layout


@dataclass(frozen=True)
class Names:
    """What a kind of file calls a Llama's tensors; those of a layer come after ``layer.format(i)``."""

    embedding: str
    final_norm: str
    head: str
    layer: str
    attention_norm: str
    mlp_norm: str
    query: str
    key: str
    value: str
    attention_out: str
    mlp_gate: str
    mlp_up: str
    mlp_down: str
    ignored: tuple[str, ...] = ()  # endings of tensors that hold nothing a model needs


def weights(
    tensors: Mapping[str, RawTensor],
    architecture: Architecture,
    names: Names,
    *,
    rows: int,
    tied: bool,
    half_split: Rotary = lambda weight, heads: weight,
) -> Weights:
    """``rows`` are the file's, of which the architecture's vocabulary is kept; ``half_split`` undoes another rotary layout."""
    width, vocabulary = architecture.width, architecture.vocabulary_size
    sources = {
        "embedding": Source({names.embedding: (rows, width)}, lambda tensor: tensor[:vocabulary]),
        "final_norm.weight": Source({names.final_norm: (width,)}),
    }
    if not tied:
        sources["head"] = Source({names.head: (rows, width)}, lambda tensor: tensor[:vocabulary])
    for layer in range(architecture.layers):
        for canonical, source in _layer(architecture, names, names.layer.format(layer), half_split).items():
            sources[f"layers.{layer}.{canonical}.weight"] = source
    return map_weights(tensors, sources, ignored=lambda name: name.endswith(names.ignored) or (tied and name == names.head))


def _layer(architecture: Architecture, names: Names, prefix: str, half_split: Rotary) -> dict[str, Source]:
    width, mlp_width = architecture.width, architecture.mlp_width
    heads, kv_heads = architecture.heads, architecture.kv_heads
    queries, keys = heads * architecture.head_dim, kv_heads * architecture.head_dim

    def stack(query: np.ndarray, key: np.ndarray, value: np.ndarray) -> np.ndarray:
        return np.concatenate([half_split(query, heads), half_split(key, kv_heads), value])

    attention = {prefix + names.query: (queries, width), prefix + names.key: (keys, width), prefix + names.value: (keys, width)}
    return {
        "attention_norm": Source({prefix + names.attention_norm: (width,)}),
        "qkv": Source(attention, stack),
        "attention_out": Source({prefix + names.attention_out: (width, queries)}),
        "mlp_norm": Source({prefix + names.mlp_norm: (width,)}),
        "mlp_gate": Source({prefix + names.mlp_gate: (mlp_width, width)}),
        "mlp_up": Source({prefix + names.mlp_up: (mlp_width, width)}),
        "mlp_down": Source({prefix + names.mlp_down: (width, mlp_width)}),
    }
