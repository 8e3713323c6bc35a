"""A decoder-only transformer as one ONNX graph that serves prefill, decode and verification: see docs/wire-contract.md.

Dense layers see packed tokens [T]; only GroupQueryAttention sees the padded view [B, S], with the KV cache updated in place.
One writer covers all families: the architecture's settings and the weights that are present decide what it writes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from onnx import TensorProto

from export.candidates import write_candidates
from export.checkpoint import Architecture
from export.head_padding import padded
from export.onnx_writer import OnnxWriter
from export.quantize import Precision

Tensors = Mapping[str, np.ndarray]


def write_graph(
    path: Path,
    architecture: Architecture,
    weights: Tensors,
    precision: Precision,
    *,
    context_length: int,
    candidates: int,
    query_seqlens: bool,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Writes ``path`` and ``path.data``. Calls ``progress`` after each layer."""
    architecture, weights = padded(architecture, weights)
    with OnnxWriter(path) as onnx:
        writer = _TransformerWriter(onnx, architecture, weights, precision, context_length, candidates, query_seqlens)
        writer.write(progress)
        onnx.save("transformer")


@dataclass
class _TransformerWriter:
    onnx: OnnxWriter
    architecture: Architecture
    weights: Tensors
    precision: Precision
    context_length: int
    candidates: int
    query_seqlens: bool
    packed: dict[str, str] = field(default_factory=dict)  # inputs with one entry per packed token, as the layers see them

    def write(self, progress: Callable[[int, int], None]) -> None:
        layers, backout = self.architecture.layers, self.architecture.backout
        self._declare_inputs()
        residual, update = self._embed(), None
        first, taken_out = residual, None
        for layer in range(layers):
            if self.architecture.residual_scales:
                residual, update = self._rescaled(layer, self._sum(residual, update), first), None
            residual, update = self._layer(f"layers.{layer}", layer, residual, update)
            if backout and layer == backout[0]:
                residual, update = self._sum(residual, update), None
                taken_out = self._times(residual, "backout", -backout[1])
            progress(layer + 1, layers)
        if taken_out is not None:
            residual, update = self._sum(residual, update), taken_out
        assert update is not None  # a model has at least one layer
        self._head(residual, update)

    def _declare_inputs(self) -> None:
        onnx = self.onnx
        per_token = {"tokens": True, "positions": "position_embedding" in self.weights, "pack_index": True}
        per_token["previous"] = self.architecture.smear is not None
        for name in (name for name, needed in per_token.items() if needed):
            self.packed[name] = self._packed(onnx.input(name, np.int64, ["T"]))
        onnx.input("unpack_index", np.int64, ["B", "S"])
        onnx.input("seqlens_k", np.int32, ["B"])
        onnx.input("total_sequence_length", np.int32, [])
        if self.query_seqlens:
            onnx.input("query_seqlens", np.int32, ["B"])
        onnx.input("logit_index", np.int64, ["R"])
        onnx.output("candidate_id", np.int32, ["R", self.candidates])
        onnx.output("candidate_logit", np.float32, ["R", self.candidates])
        onnx.output("log_normalizer", np.float32, ["R"])
        onnx.output("logits", np.float32, ["R", self.architecture.vocabulary_size])

    def _embed(self) -> str:
        onnx = self.onnx
        x = self._embedding(self.packed["tokens"])
        if "position_embedding" in self.weights:
            table = self._parameter("position_embedding", self.weights["position_embedding"][: self.context_length])
            x = onnx.node("Add", [x, onnx.node("Gather", [table, self.packed["positions"]])])
        if self.architecture.smear is None:
            return x
        # ``previous`` is −1 at the start of a sequence: there is no earlier token
        zero = onnx.initializer("token_0", np.int64(0))
        there = onnx.node("Cast", [onnx.node("GreaterOrEqual", [self.packed["previous"], zero])], to=self._activation_type())
        there = self._times(onnx.node("Unsqueeze", [there, self._index(1)]), "smear_scale", self.architecture.smear)
        before = self._embedding(onnx.node("Max", [self.packed["previous"], zero]))
        gate = onnx.node("Mul", [self._gate("smear_gate", x), there])  # [T, 1]
        return onnx.node("Add", [x, onnx.node("Mul", [gate, before])])

    def _embedding(self, ids: str) -> str:
        embedding = self.weights["embedding"][: self.architecture.vocabulary_size]
        return self._norm("embedding_norm", self.precision.embedding.look_up(self.onnx, ids, "embedding", embedding))

    def _layer(self, prefix: str, layer: int, residual: str, update: str | None) -> tuple[str, str]:
        """Returns the residual stream and the update that its MLP (and a parallel attention) will add to it."""
        x, residual = self._norm_sum(f"{prefix}.attention_norm", residual, update)
        attended = self._norm(f"{prefix}.attention_out_norm", self._attention(prefix, layer, x))
        if self.architecture.parallel:
            own = f"{prefix}.mlp_norm.weight" in self.weights
            hidden = self._norm(f"{prefix}.mlp_norm", residual) if own else x
            return residual, self._sum(attended, self._norm(f"{prefix}.mlp_out_norm", self._mlp(prefix, hidden)))
        x, residual = self._norm_sum(f"{prefix}.mlp_norm", residual, attended)
        return residual, self._norm(f"{prefix}.mlp_out_norm", self._mlp(prefix, x))

    def _attention(self, prefix: str, layer: int, x: str) -> str:
        onnx, shape = self.onnx, self.architecture
        caches = []
        for part in ("key", "value"):
            dimensions: list[int | str] = ["B", shape.kv_heads, "M", shape.head_dim]
            caches.append(onnx.input(f"past_key_values.{layer}.{part}", self.precision.activations, dimensions))
            onnx.output(f"present.{layer}.{part}", self.precision.activations, dimensions)
        qkv = onnx.node("Gather", [self._qkv(prefix, x), "unpack_index"])  # [B, S, (heads + 2 kv_heads) head_dim]
        rotary = self._rotary(layer)
        inputs = [qkv, "", "", *caches, "seqlens_k", "total_sequence_length", *rotary]
        if self.query_seqlens:
            inputs += [""] * (16 - len(inputs)) + ["query_seqlens"]
        window = shape.layer_window[layer] if shape.layer_window else None
        settings = {"local_window_size": window, "scale": shape.attention_scale, "softcap": shape.attention_softcap}
        attended = onnx.contrib(
            "GroupQueryAttention",
            inputs,
            [f"{prefix}.attended", f"present.{layer}.key", f"present.{layer}.value"],
            num_heads=shape.heads,
            kv_num_heads=shape.kv_heads,
            do_rotary=int(bool(rotary)),
            rotary_interleaved=0,
            **{name: value for name, value in settings.items() if value is not None},
        )
        flat = onnx.initializer("flat_shape", np.array([-1, shape.heads * shape.head_dim]))
        packed = onnx.node("Gather", [onnx.node("Reshape", [attended, flat]), self.packed["pack_index"]])
        return self._linear(f"{prefix}.attention_out", packed)

    def _qkv(self, prefix: str, x: str) -> str:
        """[T, (heads + 2 kv_heads) head_dim], with the query and key norms and the value embedding applied, if any."""
        onnx, shape = self.onnx, self.architecture
        qkv = self._linear(f"{prefix}.qkv", x)
        normed, embedded = (f"{prefix}.{name}" in self.weights for name in ("q_norm.weight", "value_embedding"))
        if not (normed or embedded):
            return qkv
        heads = (shape.heads, shape.kv_heads, shape.kv_heads)
        sizes = onnx.initializer("qkv_sizes", np.array(heads) * shape.head_dim)
        q, k, v = parts = [f"{prefix}.{part}" for part in ("query", "key", "value")]
        onnx.node("Split", [qkv, sizes], parts, axis=1)
        if normed:
            q, k = self._head_norm(f"{prefix}.q_norm", q, shape.heads), self._head_norm(f"{prefix}.k_norm", k, shape.kv_heads)
        if embedded:
            v = self._sum(v, self._value_embedding(prefix, x))
        return onnx.node("Concat", [q, k, v], axis=1)

    def _head_norm(self, name: str, x: str, heads: int) -> str:
        """An RMS norm per head, or over all heads together."""
        onnx, shape = self.onnx, self.architecture
        weight = self.weights[f"{name}.weight"]
        each = len(weight) == shape.head_dim and heads > 1
        if each:
            x = onnx.node("Reshape", [x, onnx.initializer(f"by_head_{heads}", np.array([-1, heads, shape.head_dim]))])
        epsilon = shape.norm_epsilon if shape.qk_norm_epsilon is None else shape.qk_norm_epsilon
        x = onnx.node("RMSNormalization", [x, self._parameter(f"{name}.weight", weight)], axis=-1, epsilon=epsilon)
        if each:
            x = onnx.node("Reshape", [x, onnx.initializer(f"all_heads_{heads}", np.array([-1, heads * shape.head_dim]))])
        return x

    def _value_embedding(self, prefix: str, x: str) -> str:
        onnx, shape = self.onnx, self.architecture
        table = self.weights[f"{prefix}.value_embedding"][: shape.vocabulary_size]
        values = self.precision.embedding.look_up(onnx, self.packed["tokens"], f"{prefix}.value_embedding", table)
        values = onnx.node("Reshape", [values, onnx.initializer("by_kv_head", np.array([-1, shape.kv_heads, shape.head_dim]))])
        gate = onnx.node("Unsqueeze", [self._gate(f"{prefix}.value_gate", x), self._index(2)])  # [T, kv_heads, 1]
        flat = onnx.initializer("all_kv_heads", np.array([-1, shape.kv_heads * shape.head_dim]))
        return onnx.node("Reshape", [onnx.node("Mul", [values, gate]), flat])

    def _gate(self, name: str, x: str) -> str:
        """The sigmoid of a projection of the first channels of ``x``: [T, rows of the weight]."""
        onnx, weight = self.onnx, self.weights[name]
        end = onnx.initializer(f"channels_{weight.shape[1]}", np.array([weight.shape[1]]))
        channels = onnx.node("Slice", [x, self._index(0), end, self._index(1)])
        return onnx.node("Sigmoid", [onnx.node("Gemm", [channels, self._parameter(name, weight)], transB=1)])

    def _rotary(self, layer: int) -> list[str]:
        """Cos and sin tables [context + 1, head_dim / 2], one row per cache position (the cache has one spare); [] if unused.

        Computed in fp32, in the same order of operations as in training.
        """
        shape = self.architecture
        kind = shape.layer_rotary[layer] if shape.layer_rotary else 0
        if kind is None or not shape.rotary:
            return []
        rotary = shape.rotary[kind]
        frequencies = np.array(rotary.frequencies, np.float32)
        angles = np.arange(self.context_length + 1, dtype=np.float32)[:, None] * frequencies
        scale = np.where(frequencies == 0, np.float32(1), np.float32(rotary.scale))  # unrotated pairs are not scaled either
        tables = {"cos": np.cos(angles) * scale, "sin": np.sin(angles) * scale}
        return [self._parameter(f"rotary_{name}_{kind}", table) for name, table in tables.items()]

    def _mlp(self, prefix: str, x: str) -> str:
        hidden = self._linear(f"{prefix}.mlp_up", x)
        if f"{prefix}.mlp_gate.weight" in self.weights:
            gate = self._activated(self._linear(f"{prefix}.mlp_gate", x))
            hidden = self.onnx.node("Mul", [gate, hidden])
        else:
            hidden = self._activated(hidden)
        return self._linear(f"{prefix}.mlp_down", hidden)

    def _activated(self, x: str) -> str:
        onnx, kind = self.onnx, self.architecture.activation
        if kind == "silu":
            return onnx.contrib("QuickGelu", [x], alpha=1.0)  # x * sigmoid(x)
        if kind in ("gelu", "gelu_tanh"):
            return onnx.contrib("FastGelu" if kind == "gelu_tanh" else "Gelu", [x])
        positive = onnx.node("Relu", [x])
        return positive if kind == "relu" else onnx.node("Mul", [positive, positive])

    def _head(self, residual: str, update: str) -> None:
        """Only the requested rows go through the final norm and the head."""
        onnx, shape = self.onnx, self.architecture
        wanted = [onnx.node("Gather", [x, "logit_index"]) for x in (residual, update)]
        x, _ = self._norm_sum("final_norm", *wanted)
        name = "head" if "head.weight" in self.weights else "embedding"
        weight = self.weights["head.weight" if name == "head" else name][: shape.vocabulary_size]
        bias = self.weights["head.bias"][: shape.vocabulary_size] if "head.bias" in self.weights else None
        logits = self.precision.head.write(onnx, x, name, weight, bias)
        if self.precision.activations is not np.float32:  # a no-op Cast would still copy
            logits = onnx.node("Cast", [logits], to=TensorProto.FLOAT)
        if shape.logit_softcap is not None:
            cap = onnx.initializer("logit_softcap", np.float32(shape.logit_softcap))
            logits = onnx.node("Mul", [onnx.node("Tanh", [onnx.node("Div", [logits, cap])]), cap])
        onnx.rename(logits, "logits")
        write_candidates(onnx, self.candidates)

    def _norm(self, name: str, x: str) -> str:
        """Returns ``x`` unchanged if there is no such norm."""
        if f"{name}.weight" not in self.weights:
            return x
        operator = "LayerNormalization" if self.architecture.norm == "layer" else "RMSNormalization"
        return self.onnx.node(operator, [x, *self._norm_weights(name)], axis=-1, epsilon=self.architecture.norm_epsilon)

    def _norm_sum(self, name: str, residual: str, update: str | None) -> tuple[str, str]:
        """Adds ``update`` to the residual stream and norms the sum. Returns both."""
        if update is None:
            return self._norm(name, residual), residual
        if f"{name}.weight" not in self.weights:
            total = self._sum(residual, update)
            return total, total
        fused = "SkipLayerNormalization" if self.architecture.norm == "layer" else "SkipSimplifiedLayerNormalization"
        outputs = [f"{name}.output", "", "", f"{name}.sum"]
        inputs = [residual, update, *self._norm_weights(name)]
        self.onnx.contrib(fused, inputs, outputs, epsilon=self.architecture.norm_epsilon)
        return outputs[0], outputs[3]

    def _norm_weights(self, name: str) -> list[str]:
        names = [f"{name}.{part}" for part in ("weight", "bias") if f"{name}.{part}" in self.weights]
        return [self._parameter(one, self.weights[one]) for one in names]

    def _rescaled(self, layer: int, residual: str, first: str) -> str:
        of_stream, of_first = self.architecture.residual_scales[layer]
        name = f"layers.{layer}"
        return self._sum(
            self._times(residual, f"{name}.of_stream", of_stream), self._times(first, f"{name}.of_first", of_first)
        )

    def _linear(self, name: str, x: str) -> str:
        layer = self.precision.mlp_down if name.endswith(".mlp_down") else self.precision.linear
        return layer.write(self.onnx, x, name, self.weights[f"{name}.weight"], self.weights.get(f"{name}.bias"))

    def _packed(self, name: str) -> str:
        """An input with one entry per packed token [T]; repeated to [max(T, 2)] if the precision forbids single-row batches."""
        onnx = self.onnx
        if not self.precision.never_alone:
            return name
        rows = onnx.node("Max", [onnx.node("Shape", [name]), onnx.initializer("two_rows", np.array([2]))])
        return onnx.node("Expand", [name, rows])

    def _sum(self, x: str, update: str | None) -> str:
        return x if update is None else self.onnx.node("Add", [x, update])

    def _times(self, x: str, name: str, scale: float) -> str:
        return self.onnx.node("Mul", [x, self._parameter(name, np.float32(scale))])

    def _index(self, number: int) -> str:
        return self.onnx.initializer(f"index_{number}", np.array([number]))

    def _activation_type(self) -> int:
        return TensorProto.FLOAT if self.precision.activations is np.float32 else TensorProto.FLOAT16

    def _parameter(self, name: str, value: np.ndarray | np.generic) -> str:
        return self.onnx.initializer(name, value.astype(self.precision.activations))
