"""A GPT-2 or Llama as one ONNX graph that serves prefill, decode and verification.

docs/wire-contract.md names its inputs and outputs.

Dense layers see packed tokens [T]; GroupQueryAttention alone sees the padded view [B, S], with the KV cache in place.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from onnx import TensorProto

from export.checkpoint import Architecture
from export.onnx_writer import OnnxWriter
from export.quantize import Precision


def write_graph(
    path: Path,
    architecture: Architecture,
    weights: Mapping[str, np.ndarray],
    precision: Precision,
    *,
    context_length: int,
    candidates: int,
    query_seqlens: bool,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Writes ``path`` and ``path.data``. ``progress`` is called after each of the layers."""
    with OnnxWriter(path) as onnx:
        writer = _TransformerWriter(onnx, architecture, weights, precision, context_length, candidates, query_seqlens)
        writer.write(progress)
        onnx.save(architecture.family)


@dataclass
class _TransformerWriter:
    onnx: OnnxWriter
    architecture: Architecture
    weights: Mapping[str, np.ndarray]
    precision: Precision
    context_length: int
    candidates: int
    query_seqlens: bool
    packed: dict[str, str] = field(default_factory=dict)  # inputs with an entry for each packed token, as the layers see them

    def write(self, progress: Callable[[int, int], None]) -> None:
        layers = self.architecture.layers
        self._declare_inputs()
        residual, update = self._embed(), None
        for layer in range(layers):
            x, residual = self._norm(f"layers.{layer}.attention_norm", residual, update)
            update = self._attention(f"layers.{layer}", layer, x)
            x, residual = self._norm(f"layers.{layer}.mlp_norm", residual, update)
            update = self._mlp(f"layers.{layer}", x)
            progress(layer + 1, layers)
        self._head(residual, update)

    def _declare_inputs(self) -> None:
        onnx = self.onnx
        for name in ("tokens", "positions", "pack_index"):
            if name != "positions" or self.architecture.family == "gpt2":
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
        embedding = self.weights["embedding"][: self.architecture.vocabulary_size]
        x = self.precision.embedding.look_up(self.onnx, self.packed["tokens"], "embedding", embedding)
        if self.architecture.family == "llama":
            return x
        table = self._parameter("position_embedding", self.weights["position_embedding"][: self.context_length])
        return self.onnx.node("Add", [x, self.onnx.node("Gather", [table, self.packed["positions"]])])

    def _attention(self, prefix: str, layer: int, x: str) -> str:
        onnx, shape = self.onnx, self.architecture
        caches = []
        for part in ("key", "value"):
            dimensions: list[int | str] = ["B", shape.kv_heads, "M", shape.head_dim]
            caches.append(onnx.input(f"past_key_values.{layer}.{part}", self.precision.activations, dimensions))
            onnx.output(f"present.{layer}.{part}", self.precision.activations, dimensions)
        qkv = onnx.node("Gather", [self._linear(f"{prefix}.qkv", x), "unpack_index"])  # [B, S, (heads + 2 kv_heads) head_dim]
        inputs = [qkv, "", "", *caches, "seqlens_k", "total_sequence_length", *self._rotary()]
        if self.query_seqlens:
            inputs += [""] * (16 - len(inputs)) + ["query_seqlens"]
        attended = onnx.contrib(
            "GroupQueryAttention",
            inputs,
            [f"{prefix}.attended", f"present.{layer}.key", f"present.{layer}.value"],
            num_heads=shape.heads,
            kv_num_heads=shape.kv_heads,
            do_rotary=int(shape.family == "llama"),
            rotary_interleaved=0,
        )
        flat = onnx.initializer("flat_shape", np.array([-1, shape.heads * shape.head_dim]))
        packed = onnx.node("Gather", [onnx.node("Reshape", [attended, flat]), self.packed["pack_index"]])
        return self._linear(f"{prefix}.attention_out", packed)

    def _rotary(self) -> list[str]:
        """The tables [context + 1, head_dim / 2]: the cache has a spare position.

        They are computed in fp32, step by step as those that the models were trained with.
        """
        shape = self.architecture
        if shape.family == "gpt2":
            return []
        exponents = np.arange(0, shape.head_dim, 2, dtype=np.float32) / np.float32(shape.head_dim)
        frequencies = np.float32(1) / np.float32(shape.rope_theta) ** exponents
        angles = np.arange(self.context_length + 1, dtype=np.float32)[:, None] * frequencies
        return [self._parameter("rotary_cos", np.cos(angles)), self._parameter("rotary_sin", np.sin(angles))]

    def _mlp(self, prefix: str, x: str) -> str:
        onnx = self.onnx
        up = self._linear(f"{prefix}.mlp_up", x)
        if self.architecture.family == "gpt2":
            hidden = onnx.contrib("FastGelu" if self.architecture.gelu == "tanh" else "Gelu", [up])
        else:
            gate = onnx.contrib("QuickGelu", [self._linear(f"{prefix}.mlp_gate", x)], alpha=1.0)  # x * sigmoid(x): SiLU
            hidden = onnx.node("Mul", [gate, up])
        return self._linear(f"{prefix}.mlp_down", hidden)

    def _head(self, residual: str, update: str | None) -> None:
        """Only the wanted rows reach the last norm and the head."""
        onnx, shape = self.onnx, self.architecture
        assert update is not None  # a model has at least one layer
        wanted = [onnx.node("Gather", [x, "logit_index"]) for x in (residual, update)]
        x, _ = self._norm("final_norm", *wanted)
        name = "head" if "head" in self.weights else "embedding"
        logits = self.precision.head.write(onnx, x, name, self.weights[name][: shape.vocabulary_size], None)
        if self.precision.activations is np.float32:
            onnx.rename(logits, "logits")  # a Cast to the same type would copy them
        else:
            onnx.node("Cast", [logits], ["logits"], to=TensorProto.FLOAT)
        k = onnx.initializer("candidate_count", np.array([self.candidates]))
        onnx.node("TopK", ["logits", k], ["candidate_logit", "candidate_id_int64"], axis=-1, largest=1, sorted=1)
        onnx.node("Cast", ["candidate_id_int64"], ["candidate_id"], to=TensorProto.INT32)
        self._log_normalizer()

    def _log_normalizer(self) -> None:
        """log(sum(exp(logits))) = best - log(softmax(logits)[best]); ReduceLogSumExp is seven times slower and less exact."""
        onnx = self.onnx
        first, second = (onnx.initializer(f"index_{index}", np.array([index])) for index in range(2))
        best, best_id = (onnx.node("Slice", [x, first, second, second]) for x in ("candidate_logit", "candidate_id_int64"))
        share = onnx.node("GatherElements", [onnx.node("Softmax", ["logits"], axis=-1), best_id], axis=1)
        onnx.node("Squeeze", [onnx.node("Sub", [best, onnx.node("Log", [share])]), second], ["log_normalizer"])

    def _norm(self, name: str, residual: str, update: str | None) -> tuple[str, str]:
        """Adds ``update`` to the residual stream and norms the sum. Returns both."""
        onnx = self.onnx
        epsilon = self.architecture.norm_epsilon
        standard, fused = "LayerNormalization", "SkipLayerNormalization"
        if self.architecture.family == "llama":
            standard, fused = "RMSNormalization", "SkipSimplifiedLayerNormalization"
        parameters = [f"{name}.{part}" for part in ("weight", "bias") if f"{name}.{part}" in self.weights]
        parameters = [self._parameter(parameter, self.weights[parameter]) for parameter in parameters]
        if update is None:
            return onnx.node(standard, [residual, *parameters], axis=-1, epsilon=epsilon), residual
        outputs = [f"{name}.output", "", "", f"{name}.sum"]
        onnx.contrib(fused, [residual, update, *parameters], outputs, epsilon=epsilon)
        return outputs[0], outputs[3]

    def _linear(self, name: str, x: str) -> str:
        layer = self.precision.mlp_down if name.endswith(".mlp_down") else self.precision.linear
        return layer.write(self.onnx, x, name, self.weights[f"{name}.weight"], self.weights.get(f"{name}.bias"))

    def _packed(self, name: str) -> str:
        """An input with an entry for each packed token [T]; where a token may not be alone, [max(T, 2)], repeated."""
        onnx = self.onnx
        if not self.precision.never_alone:
            return name
        rows = onnx.node("Max", [onnx.node("Shape", [name]), onnx.initializer("two_rows", np.array([2]))])
        return onnx.node("Expand", [name, rows])

    def _parameter(self, name: str, array: np.ndarray) -> str:
        return self.onnx.initializer(name, array.astype(self.precision.activations))
