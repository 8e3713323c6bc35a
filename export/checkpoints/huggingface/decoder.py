"""The many descendants of Llama: a `Kind` describes how a model type differs from Llama."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import numpy as np

from export.checkpoint import Architecture, CheckpointError, TokenizerFiles, shown
from export.checkpoints.canonical import Canonical, Fold, Turn, same
from export.checkpoints.huggingface import rope as ropes
from export.checkpoints.huggingface.biases import Biases, require_biases
from export.checkpoints.huggingface.common import activation, prefixed, require_head
from export.checkpoints.huggingface.rope import FULL, SLIDING, Rope
from export.checkpoints.rotary import half_split
from export.checkpoints.settings import LAYERS, checked, demand, head_dim, real, whole
from export.checkpoints.tensors import RawTensor, Weights
from export.references.llama import Llama
from export.references.transformer import Transformer
from export.text.tokenizers import vocabulary_size

Settings = Mapping[str, Any]
Made = tuple[Architecture, Weights, Transformer]
Family = Callable[[dict[str, Any], Mapping[str, RawTensor], TokenizerFiles], Made]
EMBEDDING, HEAD, FINAL_NORM = "model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"
BEFORE = {"attention_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm"}
BUFFERS = (".rotary_emb.inv_freq", "freqs_cos", "freqs_sin", HEAD)  # a tied head may be saved twice
COMMON = {
    "hidden_act": "silu",
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
}


@dataclass(frozen=True)
class Kind:
    """Keys are those of transformers' configuration; only those among ``defaults`` mean something to the model type."""

    reference: type[Llama] = Llama
    defaults: Settings = field(default_factory=dict)  # of keys that a configuration may lack
    refused: tuple[str, ...] = ()  # keys that ask for a computation which is not implemented
    norm: Literal["layer", "rms"] = "rms"
    norms: Mapping[str, str] = field(default_factory=lambda: BEFORE)  # of a layer, by canonical name
    norm_weights: bool = True
    norm_offset: float = 0.0  # what is added to a norm's weights
    epsilon: str = "rms_norm_eps"
    activation: str = "hidden_act"
    gated: bool = True
    mlp: tuple[str, str] = ("up_proj", "down_proj")
    stacked: bool = False  # queries, keys, values in one tensor; gate and up in another
    biases: Biases = field(default_factory=Biases)
    qk_norm: Literal["head", "all heads"] | None = None
    partial: bool = False  # whether positions may turn a part of each head alone
    neighbours: bool = False  # whether they turn neighbouring rows
    rope_by_type: bool = False  # whether layers with a window have their own
    has_positions: Callable[[Settings, int], bool] | None = None  # a layer of that number; None: all have
    is_sliding: Callable[[Settings, int], bool] | None = None  # the same for windows; None: none has
    layer_types: bool = True  # whether the configuration may say it layer by layer
    embedding_scale: Callable[[Settings], float] | None = None


def read(kind: Kind, config: Settings, tensors: Mapping[str, RawTensor], tokenizer: TokenizerFiles) -> Made:
    config = {**COMMON, **kind.defaults, **config}
    for key in kind.refused:
        demand(config, key, None, False)
    if kind.is_sliding is None:
        demand(config, "sliding_window", None)
    tensors = prefixed(tensors, "model.")
    require_head(config, tensors, HEAD, EMBEDDING, tied=False)
    shape, rope = _architecture(kind, config, tokenizer)
    require_biases(config, tensors, _said_biases(kind), shape.layers, in_norms=kind.norm == "layer")
    scales = {
        "embedding_scale": _embedding_scale(kind, config),
        "residual_scale": _scale(kind, config, "residual_multiplier"),
        "logit_scale": 1 / _scale(kind, config, "logits_scaling"),
    }
    reference = kind.reference.of(tensors, shape, turned=rope.turned, **scales)
    return shape, _Writer(kind, Canonical(tensors, shape, whole(config, "vocab_size")), rope, **scales).weights(), reference


def _architecture(kind: Kind, config: Settings, tokenizer: TokenizerFiles) -> tuple[Architecture, Rope]:
    width, heads = whole(config, "hidden_size"), whole(config, "num_attention_heads")
    layers = whole(config, "num_hidden_layers", limit=LAYERS)
    size = whole(config, "head_dim") if config.get("head_dim") is not None else head_dim(width, heads)
    sliding = _sliding_layers(kind, config, layers)
    window = whole(config, "sliding_window") if any(sliding) else None
    found = [ropes.of_layer_type(config, size, name) for name in (FULL, SLIDING)] if kind.rope_by_type else []
    rope = found[0] if found else ropes.of_all_layers(config, size, partial=kind.partial)
    shape = Architecture(
        layers=layers,
        heads=heads,
        kv_heads=whole(config, "num_key_value_heads", default=heads),
        head_dim=size,
        width=width,
        mlp_width=whole(config, "intermediate_size"),
        vocabulary_size=vocabulary_size(tokenizer, whole(config, "vocab_size")),
        context_length=rope.context_length,
        norm=kind.norm,
        norm_epsilon=real(config, kind.epsilon, 1e-6),
        activation=activation(config, kind.activation, "silu"),
        rotary=tuple(one.rotary for one in found or [rope]),
        layer_rotary=_layer_rotary(kind, config, sliding),
        layer_window=tuple(window if slides else None for slides in sliding) if any(sliding) else (),
        attention_scale=_attention_scale(kind, config),
        attention_softcap=_cap(kind, config, "attn_logit_softcapping"),
        logit_softcap=_cap(kind, config, "final_logit_softcapping"),
        parallel="use_parallel_residual" in kind.defaults and config["use_parallel_residual"] is True,
    )
    return checked(shape), rope


def _sliding_layers(kind: Kind, config: Settings, layers: int) -> list[bool]:
    types = config.get("layer_types") if kind.is_sliding and kind.layer_types else None
    if types is not None and (
        not isinstance(types, list) or len(types) != layers or any(one not in (FULL, SLIDING) for one in types)
    ):
        raise CheckpointError(
            f"its configuration says layer_types = {shown(types)}, expected are {layers} of {FULL} or {SLIDING}"
        )
    if kind.is_sliding is None or config.get("sliding_window") is None:
        return [False] * layers
    return [types[layer] == SLIDING if types else kind.is_sliding(config, layer) for layer in range(layers)]


def _layer_rotary(kind: Kind, config: Settings, sliding: list[bool]) -> tuple[int | None, ...]:
    if kind.rope_by_type:
        return tuple(int(slides) for slides in sliding)
    if kind.has_positions is None:
        return ()
    return tuple(0 if kind.has_positions(config, layer) else None for layer in range(len(sliding)))


def _attention_scale(kind: Kind, config: Settings) -> float | None:
    if "query_pre_attn_scalar" in kind.defaults:
        return float(real(config, "query_pre_attn_scalar", 0.0) ** -0.5)
    return _scale(kind, config, "attention_multiplier") if "attention_multiplier" in kind.defaults else None


def _embedding_scale(kind: Kind, config: Settings) -> float:
    return kind.embedding_scale(config) if kind.embedding_scale else _scale(kind, config, "embedding_multiplier")


def _scale(kind: Kind, config: Settings, key: str) -> float:
    return real(config, key, 1.0) if key in kind.defaults else 1.0


def _cap(kind: Kind, config: Settings, key: str) -> float | None:
    return real(config, key, 0.0) if key in kind.defaults and config[key] is not None else None


def _said_biases(kind: Kind) -> dict[str, str | bool]:
    """By module of a layer."""
    attention = ["qkv_proj"] if kind.stacked else ["q_proj", "k_proj", "v_proj"]
    up = ["gate_up_proj"] if kind.stacked else ["gate_proj", kind.mlp[0]] if kind.gated else [kind.mlp[0]]
    said = dict.fromkeys((f"self_attn.{name}" for name in attention), kind.biases.qkv) | {"self_attn.o_proj": kind.biases.out}
    said |= dict.fromkeys((f"mlp.{name}" for name in (*up, kind.mlp[1])), kind.biases.mlp)
    if kind.norm == "rms":
        said |= dict.fromkeys((*kind.norms.values(), "self_attn.q_norm", "self_attn.k_norm"), False)
    return said


@dataclass(frozen=True)
class _Writer:
    kind: Kind
    out: Canonical
    rope: Rope
    embedding_scale: float
    residual_scale: float
    logit_scale: float

    def weights(self) -> Weights:
        out = self.out
        out.embedding(EMBEDDING, _times(self.embedding_scale))
        out.head(HEAD, EMBEDDING)
        is_tied = "head.weight" not in out.sources
        self._norm("final_norm", FINAL_NORM, self.logit_scale / (self.embedding_scale if is_tied else 1.0))
        for layer in range(out.architecture.layers):
            self._layer(f"layers.{layer}", f"model.layers.{layer}.")
        return out.weights(ignored=BUFFERS)

    def _layer(self, prefix: str, raw: str) -> None:
        out, kind, shape = self.out, self.kind, self.out.architecture
        for canonical, name in kind.norms.items():
            if not (shape.parallel and canonical == "mlp_norm"):
                self._norm(f"{prefix}.{canonical}", f"{raw}{name}.weight")
        turn = self._turn()
        if kind.stacked:
            out.stacked_qkv(f"{prefix}.qkv", f"{raw}self_attn.qkv_proj.weight", lambda rows: self._turned(rows, turn))
        else:
            out.qkv(f"{prefix}.qkv", [f"{raw}self_attn.{part}_proj.weight" for part in "qkv"], turn)
        if kind.qk_norm:
            for part, heads in (("q", shape.heads), ("k", shape.kv_heads)):
                size = shape.head_dim * (1 if kind.qk_norm == "head" else heads)
                self._norm(f"{prefix}.{part}_norm", f"{raw}self_attn.{part}_norm.weight", size=size)
        out.attention_out(prefix, f"{raw}self_attn.o_proj.weight", _times(self.residual_scale))
        self._mlp(prefix, f"{raw}mlp.")

    def _mlp(self, prefix: str, raw: str) -> None:
        out, kind, width = self.out, self.kind, self.out.architecture.mlp_width
        up, down = (f"{raw}{name}.weight" for name in kind.mlp)
        if not kind.gated:
            out.mlp(prefix, up, down)
        elif not kind.stacked:
            out.gated_mlp(prefix, f"{raw}gate_proj.weight", up, down, fold_down=_times(self.residual_scale))
        else:
            both = {f"{raw}gate_up_proj.weight": (2 * width, out.architecture.width)}
            out.add(f"{prefix}.mlp_gate.weight", both, lambda rows: rows[:width])
            out.add(f"{prefix}.mlp_up.weight", both, lambda rows: rows[width:])
            out.linear(f"{prefix}.mlp_down", down, (out.architecture.width, width))

    def _norm(self, name: str, raw: str, scale: float = 1.0, *, size: int | None = None) -> None:
        offset, scaled = np.float32(self.kind.norm_offset), _times(scale)
        if self.kind.norm_weights:
            self.out.norm(name, raw, lambda weight: scaled(weight + offset), size=size)
        else:
            self.out.ones(name, scale, size=size)

    def _turn(self) -> Turn:
        """Reorders rows of queries or keys to the half-split layout."""
        if self.rope.turned == self.out.architecture.head_dim and not self.kind.neighbours:
            return lambda rows, heads: rows
        return partial(half_split, turned=self.rope.turned, neighbours=self.kind.neighbours)

    def _turned(self, rows: np.ndarray, turn: Turn) -> np.ndarray:
        shape = self.out.architecture
        ends = [shape.heads * shape.head_dim, (shape.heads + shape.kv_heads) * shape.head_dim]
        query, key, value = np.split(rows, ends)
        return np.concatenate([turn(query, shape.heads), turn(key, shape.kv_heads), value])


def _times(scale: float) -> Fold:
    return same if scale == 1 else lambda weight: weight * np.float32(scale)
