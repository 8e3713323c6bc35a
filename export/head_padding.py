"""Pads heads to a size that GroupQueryAttention supports. Zeros appended to each half of a head change no product.

onnxruntime requires a multiple of 8, or of 16 with rotary positions, whose tables have half as many columns.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from math import sqrt

import numpy as np

from export.checkpoint import Architecture

Tensors = Mapping[str, np.ndarray]
MULTIPLE, MULTIPLE_WITH_ROTARY = 8, 16


def padded(architecture: Architecture, weights: Tensors) -> tuple[Architecture, Tensors]:
    """The same model with a supported head size. Weights are padded lazily, on access."""
    shape, multiple = architecture, MULTIPLE_WITH_ROTARY if architecture.rotary else MULTIPLE
    size, larger = shape.head_dim, -(-shape.head_dim // multiple) * multiple
    if size == larger:
        return architecture, weights
    more = (0.0,) * ((larger - size) // 2)
    epsilon = shape.norm_epsilon if shape.qk_norm_epsilon is None else shape.qk_norm_epsilon
    return (
        replace(
            shape,
            head_dim=larger,
            rotary=tuple(replace(rotary, frequencies=rotary.frequencies + more) for rotary in shape.rotary),
            attention_scale=1 / sqrt(size) if shape.attention_scale is None else shape.attention_scale,
            qk_norm_epsilon=epsilon * size / larger,
        ),
        _Padded(weights, shape, larger),
    )


class _Padded(Mapping[str, np.ndarray]):
    def __init__(self, weights: Tensors, architecture: Architecture, larger: int) -> None:
        self._weights, size, half = weights, architecture.head_dim, architecture.head_dim // 2
        places = np.arange(size)
        if architecture.rotary:  # a pair has one position in each half
            places = np.concatenate([np.arange(half), larger // 2 + np.arange(half)])

        def rows(weight: np.ndarray) -> np.ndarray:
            """[heads · size, …] → [heads · larger, …]"""
            heads = weight.reshape(-1, size, *weight.shape[1:])
            out = np.zeros((len(heads), larger, *weight.shape[1:]), np.float32)
            out[:, places] = heads
            return out.reshape(-1, *weight.shape[1:])

        def columns(weight: np.ndarray) -> np.ndarray:
            return np.ascontiguousarray(rows(weight.T).T)

        def norm(weight: np.ndarray) -> np.ndarray:
            """Compensates for the mean of squares being taken over more elements."""
            return rows(weight) * np.float32(sqrt(size / larger))

        self._ways: dict[str, Callable[[np.ndarray], np.ndarray]] = {
            "qkv.weight": rows,
            "qkv.bias": rows,
            "attention_out.weight": columns,
            "q_norm.weight": norm,
            "k_norm.weight": norm,
            "value_embedding": columns,
        }

    def __getitem__(self, name: str) -> np.ndarray:
        way = self._ways.get(name.split(".", 2)[-1]) if name.startswith("layers.") else None
        return way(self._weights[name]) if way else self._weights[name]

    def __contains__(self, name: object) -> bool:
        return name in self._weights

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights)

    def __len__(self) -> int:
        return len(self._weights)
