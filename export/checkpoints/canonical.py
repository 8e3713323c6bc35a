"""Builds canonical weights: maps a file's tensors by name, and folds in the constant factors in which families differ."""

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from export.checkpoint import Architecture
from export.checkpoints.tensors import RawTensor, Shape, Source, Weights, is_tied, map_weights

Fold = Callable[[np.ndarray], np.ndarray]  # raw tensor → canonical form
Turn = Callable[[np.ndarray, int], np.ndarray]  # (rows [heads · head_dim, …], heads) → the same in half-split layout


def same(tensor: np.ndarray) -> np.ndarray:
    return tensor


class Canonical:
    """Collects the source of each canonical weight. Names are complete; `weights` reports what the file lacks.

    A bias is used if the file has one, or if the configuration says so.
    """

    def __init__(
        self, tensors: Mapping[str, RawTensor], architecture: Architecture, rows: int, *, biases: bool | None = None
    ) -> None:
        """``rows`` of the file's embedding, of which the architecture's vocabulary is kept. ``biases``: whether norms and
        linear layers have them; None: as in the file."""
        self.tensors, self.architecture, self._rows, self._biases = tensors, architecture, rows, biases
        self.sources: dict[str, Source] = {}

    def add(self, name: str, raw: Mapping[str, Shape], arrange: Callable[..., np.ndarray] = same) -> None:
        self.sources[name] = Source(raw, arrange)

    def embedding(self, raw: str, fold: Fold = same) -> None:
        width, vocabulary = self.architecture.width, self.architecture.vocabulary_size
        self.add("embedding", {raw: (self._rows, width)}, lambda tensor: fold(tensor[:vocabulary]))

    def positions(self, raw: str, *, offset: int = 0) -> None:
        """Learned positions. ``offset``: number of rows before position 0."""
        shape = (self.architecture.context_length + offset, self.architecture.width)
        self.add("position_embedding", {raw: shape}, lambda tensor: tensor[offset:])

    def head(self, raw: str, embedding: str, *, fold: Fold = same) -> None:
        """Adds the head, if it is not tied to the embedding, and its bias, if any."""
        width, vocabulary = self.architecture.width, self.architecture.vocabulary_size
        if not is_tied(self.tensors, raw, embedding):
            self.add("head.weight", {raw: (self._rows, width)}, lambda tensor: fold(tensor[:vocabulary]))
        if (bias := _bias(raw)) in self.tensors:
            self.add("head.bias", {bias: (self._rows,)}, lambda tensor: tensor[:vocabulary])

    def norm(self, name: str, raw: str, fold: Fold = same, *, size: int | None = None) -> None:
        """``raw`` is the weight's name. ``fold`` only applies to the weight. RMS norms have no bias."""
        shape = (size or self.architecture.width,)
        self.add(f"{name}.weight", {raw: shape}, fold)
        if self.architecture.norm == "layer" and self._has_bias(raw):
            self.add(f"{name}.bias", {_bias(raw): shape})

    def ones(self, name: str, value: float = 1.0, *, size: int | None = None) -> None:
        """A norm without a weight."""
        weight = np.full(size or self.architecture.width, value, np.float32)
        self.add(f"{name}.weight", {}, lambda: weight)

    def linear(self, name: str, raw: str, shape: Shape, fold: Fold = same, *, transposed: bool = False) -> None:
        """``shape`` is [out, in]. ``fold`` applies to weight and bias. ``transposed``: the file's weight is [in, out]."""
        weight = shape[::-1] if transposed else shape
        self.add(f"{name}.weight", {raw: weight}, lambda tensor: fold(tensor.T if transposed else tensor))
        if self._has_bias(raw):
            self.add(f"{name}.bias", {_bias(raw): shape[:1]}, fold)

    def qkv(self, name: str, raw: Sequence[str], turn: Turn = lambda rows, heads: rows) -> None:
        """Stacks separate query, key and value tensors. If only some have a bias, the others' is 0."""
        shape = self.architecture
        sizes = [count * shape.head_dim for count in (shape.heads, shape.kv_heads, shape.kv_heads)]

        def stack(query: np.ndarray, key: np.ndarray, value: np.ndarray) -> np.ndarray:
            return np.concatenate([turn(query, shape.heads), turn(key, shape.kv_heads), value])

        self.add(f"{name}.weight", {one: (size, shape.width) for one, size in zip(raw, sizes, strict=True)}, stack)
        biases = {_bias(one): size for one, size in zip(raw, sizes, strict=True)}
        if any(map(self._has_bias, raw)):
            there = {_bias(one): (size,) for one, size in zip(raw, sizes, strict=True) if self._has_bias(one)}

            def stack_biases(*found: np.ndarray) -> np.ndarray:
                given = dict(zip(there, found, strict=True))
                return stack(*(given.get(bias, np.zeros(size, np.float32)) for bias, size in biases.items()))

            self.add(f"{name}.bias", there, stack_biases)

    def stacked_qkv(self, name: str, raw: str, arrange: Fold) -> None:
        """From one stacked tensor. ``arrange`` reorders its rows, and the bias's, to half-split queries, keys and values."""
        shape = self.architecture
        size = (shape.heads + 2 * shape.kv_heads) * shape.head_dim
        self.linear(name, raw, (size, shape.width), arrange)

    def gated_mlp(self, prefix: str, gate: str, up: str, down: str, *, fold_down: Fold = same) -> None:
        width, mlp_width = self.architecture.width, self.architecture.mlp_width
        self.linear(f"{prefix}.mlp_gate", gate, (mlp_width, width))
        self.linear(f"{prefix}.mlp_up", up, (mlp_width, width))
        self.linear(f"{prefix}.mlp_down", down, (width, mlp_width), fold_down)

    def mlp(self, prefix: str, up: str, down: str) -> None:
        width, mlp_width = self.architecture.width, self.architecture.mlp_width
        self.linear(f"{prefix}.mlp_up", up, (mlp_width, width))
        self.linear(f"{prefix}.mlp_down", down, (width, mlp_width))

    def attention_out(self, prefix: str, raw: str, fold: Fold = same) -> None:
        shape = self.architecture
        self.linear(f"{prefix}.attention_out", raw, (shape.width, shape.heads * shape.head_dim), fold)

    def _has_bias(self, weight: str) -> bool:
        return _bias(weight) in self.tensors if self._biases is None else self._biases

    def weights(self, ignored: Iterable[str] = ()) -> Weights:
        """Raises CheckpointError for missing, unknown or misshapen tensors. ``ignored``: name endings of tensors that the model
        does not need."""
        endings = tuple(ignored)
        return map_weights(self.tensors, self.sources, ignored=lambda name: name.endswith(endings) if endings else False)


def _bias(weight: str) -> str:
    return f"{weight.removesuffix('.weight')}.bias"
