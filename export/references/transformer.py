"""A decoder-only transformer in numpy, as its paper has it: one text, no cache, every head by itself.

Families derive from `Transformer`, or from `Model`, and override what is different in them. They read the raw tensors under
their raw names, in the file's own layout, and share nothing with `export.checkpoints`' mapping or the graph: a wrong mapping
shows.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import erf, pi, sqrt
from typing import Any, Self

import numpy as np

from export.checkpoint import Architecture

Array = np.ndarray


@dataclass
class Model(ABC):
    """``t(name)``: a raw tensor, fp32. Shapes: x [n, width]; q [n, heads, head_dim]; k, v [n, kv_heads, head_dim]."""

    t: Callable[[str], Array]
    has: Callable[[str], bool]
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    epsilon: float = 1e-5
    theta: float = 10000.0

    @classmethod
    def of(cls, tensors: Mapping[str, Any], architecture: Architecture, /, **settings: Any) -> Self:
        """``tensors``: RawTensors. Sizes and epsilon are the architecture's, where ``settings`` have no others."""
        shape = architecture
        sizes = {"layers": shape.layers, "heads": shape.heads, "kv_heads": shape.kv_heads, "head_dim": shape.head_dim}
        given = sizes | {"epsilon": shape.norm_epsilon} | settings
        return cls(lambda name: tensors[name].read(), tensors.__contains__, **given)

    @abstractmethod
    def __call__(self, tokens: Array) -> Array:
        """tokens [n] → logits [n, rows of the head]."""

    def linear(self, x: Array, name: str) -> Array:
        """x · weightᵀ + bias, if it has one."""
        y = x @ self.t(f"{name}.weight").T
        return y + self.t(f"{name}.bias") if self.has(f"{name}.bias") else y

    def layer_norm(self, x: Array, name: str) -> Array:
        centred = x - x.mean(-1, keepdims=True)
        y = centred / np.sqrt((centred * centred).mean(-1, keepdims=True) + np.float32(self.epsilon)) * self.t(f"{name}.weight")
        return y + self.t(f"{name}.bias") if self.has(f"{name}.bias") else y

    def rms(self, x: Array) -> Array:
        """Without a weight."""
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + np.float32(self.epsilon))

    def rms_norm(self, x: Array, name: str) -> Array:
        return self.rms(x) * self.t(f"{name}.weight")

    def split(self, x: Array, heads: int) -> Array:
        return x.reshape(len(x), heads, -1)

    def frequencies(self, turned: int) -> Array:
        """Of each pair, [turned / 2]; families with scaled ones override it."""
        return np.asarray(self.theta ** (-np.arange(0, turned, 2) / turned))

    def attend(
        self,
        q: Array,
        k: Array,
        v: Array,
        *,
        window: int | None = None,
        scale: float | None = None,
        softcap: float | None = None,
    ) -> Array:
        """[n, heads · head_dim]. ``window``: keys per query, its own included. Memory: one head's scores."""
        n, heads, size = q.shape
        distance = np.arange(n)[:, None] - np.arange(n)
        seen = (distance >= 0) & (distance < (window or n))
        out = np.empty((n, heads, v.shape[-1]), np.float32)
        for head in range(heads):
            group = head * k.shape[1] // heads
            scores = q[:, head] @ k[:, group].T * np.float32(1 / sqrt(size) if scale is None else scale)
            if softcap:
                scores = np.tanh(scores / np.float32(softcap)) * np.float32(softcap)
            out[:, head] = softmax(np.where(seen, scores, np.float32(-np.inf))) @ v[:, group]
        return out.reshape(n, -1)


@dataclass
class Transformer(Model):
    """Layers that know nothing of each other."""

    def __call__(self, tokens: Array) -> Array:
        x = self.embed(np.asarray(tokens, np.int64))
        for layer in range(self.layers):
            x = self.block(x, layer)
        return self.head(x)

    @abstractmethod
    def embed(self, tokens: Array) -> Array: ...

    @abstractmethod
    def block(self, x: Array, layer: int) -> Array: ...

    @abstractmethod
    def head(self, x: Array) -> Array: ...


def rotate_halves(x: Array, frequencies: Array, scale: float = 1.0) -> Array:
    """Rotates the first 2 · len(frequencies) dimensions of each head, pairing their two halves (GPT-NeoX, Hugging Face)."""
    half = len(frequencies)
    a, b, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    cos, sin = _turn(len(x), frequencies, scale)
    return np.concatenate([a * cos - b * sin, b * cos + a * sin, rest], axis=-1)


def rotate_pairs(x: Array, frequencies: Array, scale: float = 1.0) -> Array:
    """The same for adjacent pairs (0 and 1, 2 and 3, …), as in the paper, Llama's own code and GPT-J."""
    turned = 2 * len(frequencies)
    a, b = x[..., 0:turned:2], x[..., 1:turned:2]
    cos, sin = _turn(len(x), frequencies, scale)
    pairs = np.stack([a * cos - b * sin, b * cos + a * sin], axis=-1).reshape(*x.shape[:-1], turned)
    return np.concatenate([pairs, x[..., turned:]], axis=-1)


def _turn(n: int, frequencies: Array, scale: float) -> tuple[Array, Array]:
    angles = (np.arange(n)[:, None] * frequencies)[:, None]
    return (np.cos(angles) * scale).astype(np.float32), (np.sin(angles) * scale).astype(np.float32)


def softmax(x: Array) -> Array:
    x = np.exp(x - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def silu(x: Array) -> Array:
    return x * sigmoid(x)


def gelu_tanh(x: Array) -> Array:
    return np.float32(0.5) * x * (1 + np.tanh(np.float32(sqrt(2 / pi)) * (x + np.float32(0.044715) * x * x * x)))


def gelu(x: Array) -> Array:
    return (0.5 * x * (1 + np.vectorize(erf)(x / sqrt(2)))).astype(np.float32)


def relu(x: Array) -> Array:
    return np.maximum(x, 0)


def relu2(x: Array) -> Array:
    return np.square(np.maximum(x, 0))
