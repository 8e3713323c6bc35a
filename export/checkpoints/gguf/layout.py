"""Maps a GGUF file's metadata and tensors to the graph's architecture and weights."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from math import sqrt
from typing import Any

import numpy as np

from export.checkpoint import Architecture, CheckpointError, Rotary, shown
from export.checkpoints.canonical import Canonical, Fold, same
from export.checkpoints.gguf.families import Family
from export.checkpoints.rotary import base_frequencies, half_split, with_frequencies, yarn, yarn_scale
from export.checkpoints.settings import LAYERS, checked, demand, head_dim, real, whole
from export.checkpoints.tensors import RawTensor, Weights, is_tied

Tensors = Mapping[str, RawTensor]

EMBEDDING, HEAD, POSITIONS = "token_embd.weight", "output.weight", "position_embd.weight"
ROPE_FREQS, ROPE_SHORT, ROPE_LONG = "rope_freqs.weight", "rope_factors_short.weight", "rope_factors_long.weight"
NORMS = {
    "attn_norm": "attention_norm",
    "ffn_norm": "mlp_norm",
    "post_attention_norm": "attention_out_norm",
    "post_ffw_norm": "mlp_out_norm",
}


@dataclass(frozen=True)
class Keys:
    """The metadata of one architecture, whose keys start with its name. Absent values read as 0, as in llama.cpp."""

    metadata: Mapping[str, Any]

    @property
    def name(self) -> str:
        return str(self.metadata["general.architecture"])

    def get(self, key: str, default: Any = None) -> Any:
        return self.metadata.get(f"{self.name}.{key}", default)

    def whole(self, key: str, default: int | None = None, **limit: int) -> int:
        return whole(self.metadata, f"{self.name}.{key}", default, **limit)

    def real(self, key: str, default: float | None = None) -> float | None:
        if self.get(key, 0) == 0:
            return default
        return real(self.metadata, f"{self.name}.{key}", 1.0)

    def number(self, key: str, default: float) -> float:
        return self.real(key) or default

    def demand(self, key: str, *allowed: Any) -> None:
        demand(self.metadata, f"{self.name}.{key}", *allowed)


def architecture(metadata: Mapping[str, Any], tensors: Tensors, family: Family, vocabulary: int) -> Architecture:
    keys = Keys(metadata)
    layers = keys.whole("block_count", limit=LAYERS)
    width, heads = keys.whole("embedding_length"), keys.whole("attention.head_count")
    size = keys.whole("attention.key_length") if keys.get("attention.key_length") else head_dim(width, heads)
    keys.demand("attention.value_length", size)
    context = keys.whole("context_length")
    if ROPE_SHORT in tensors:  # beyond it all of a text would have other positions
        context = min(context, keys.whole("rope.scaling.original_context_length", context))
    local = _local_layers(keys, family, layers)
    window = keys.whole("attention.sliding_window", family.window) if any(local) else None
    rotary, of_layer = _positions(keys, tensors, family, size, local)
    epsilon = "attention.layer_norm_epsilon" if family.norm == "layer" else "attention.layer_norm_rms_epsilon"
    scale = 1 / sqrt(width / heads) if layers == family.scale_by_width else None
    return checked(
        Architecture(
            layers=layers,
            heads=heads,
            kv_heads=keys.whole("attention.head_count_kv", heads),
            head_dim=size,
            width=width,
            mlp_width=keys.whole("feed_forward_length"),
            vocabulary_size=vocabulary,
            context_length=context,
            norm=family.norm,
            norm_epsilon=keys.number(epsilon, 1e-5),
            activation=family.activation,
            rotary=rotary,
            layer_rotary=of_layer,
            layer_window=_unless_all_none([window if one and window and window < context else None for one in local]),
            attention_scale=keys.real("attention.scale", scale),
            attention_softcap=keys.real("attn_logit_softcapping", family.attention_softcap),
            logit_softcap=keys.real("final_logit_softcapping", family.logit_softcap),
            parallel=family.parallel,
        )
    )


def _local_layers(keys: Keys, family: Family, layers: int) -> list[bool]:
    """Which layers only see a window."""
    if not keys.get("attention.sliding_window", family.window):
        return [False] * layers
    pattern = keys.get("attention.sliding_window_pattern", family.all_every or 0)
    if isinstance(pattern, list) and len(pattern) >= layers and all(isinstance(one, bool) for one in pattern):
        return pattern[:layers]
    if isinstance(pattern, int) and not isinstance(pattern, bool) and 0 <= pattern <= LAYERS:
        return [pattern == 0 or layer % pattern < pattern - 1 for layer in range(layers)]
    key = f"{keys.name}.attention.sliding_window_pattern"
    raise CheckpointError(
        f"its configuration says {key} = {shown(pattern)}, allowed are one of true and false a layer, or a number"
    )


def _positions(
    keys: Keys, tensors: Tensors, family: Family, size: int, local: list[bool]
) -> tuple[tuple[Rotary, ...], tuple[int | None, ...]]:
    """The kinds of rotary positions, and the kind of each layer."""
    if family.positions == "learned":
        return (), ()
    if keys.name == "granite":
        keys.demand("rope.scaling.finetuned", True)  # false: no positions at all
    turned, theta = _turned(keys, size), _theta(keys, "rope.freq_base", 10000.0)
    kinds: list[int | None] = [0] * len(local)
    rotary = [_scaled(keys, tensors, turned, theta, size)]
    if family.own_local_rotary and any(local):
        own = _theta(keys, "rope.freq_base_swa", family.local_theta or theta)
        rotary.append(with_frequencies(base_frequencies(turned, own), size))
        kinds = [int(one) for one in local]
    if family.still_every:
        kinds = [None if (layer + 1) % family.still_every == 0 else kind for layer, kind in enumerate(kinds)]
    return tuple(rotary), tuple(kinds) if any(kind != 0 for kind in kinds) else ()


def _turned(keys: Keys, size: int) -> int:
    """How many dimensions of a head are rotated."""
    turned = keys.whole("rope.dimension_count", size)
    if turned > size or turned % 2:
        raise CheckpointError(
            f"its configuration says {keys.name}.rope.dimension_count = {turned}, allowed are even numbers to {size}"
        )
    return turned


def _theta(keys: Keys, key: str, default: float) -> float:
    theta = keys.number(key, default)
    if theta <= 1:
        raise CheckpointError(f"its configuration says {keys.name}.{key} = {theta}, allowed are numbers above 1")
    return theta


def _scaled(keys: Keys, tensors: Tensors, turned: int, theta: float, size: int) -> Rotary:
    frequencies = base_frequencies(turned, theta)
    for factors in (ROPE_FREQS, ROPE_SHORT):
        if factors in tensors:
            frequencies = frequencies / _factors(tensors[factors], factors, turned)
    kind = keys.get("rope.scaling.type", "linear")
    keys.demand("rope.scaling.type", "none", "linear", "yarn", "longrope")
    scale = keys.number("rope.scaling.attn_factor", 1.0)
    factor = keys.real("rope.scaling.factor") or keys.number("rope.scale_linear", 1.0)
    if kind == "linear":
        frequencies = frequencies / np.float32(factor)
    if kind == "yarn":
        keys.demand("rope.scaling.yarn_log_multiplier", 0.0)
        keys.demand("rope.scaling.yarn_ext_factor", 1.0, -1.0)
        frequencies = yarn(
            frequencies,
            theta=theta,
            factor=factor,
            original=keys.whole("rope.scaling.original_context_length", keys.whole("context_length")),
            fast=keys.number("rope.scaling.yarn_beta_fast", 32.0),
            slow=keys.number("rope.scaling.yarn_beta_slow", 1.0),
        )
        scale *= keys.number("rope.scaling.yarn_attn_factor", yarn_scale(factor))
    return with_frequencies(frequencies, size, scale)


def _factors(tensor: RawTensor, name: str, turned: int) -> np.ndarray:
    """The divisors of each pair's frequency."""
    if tensor.shape != (turned // 2,):
        raise CheckpointError(f"its tensor {name} has shape {list(tensor.shape)}, its configuration asks for {[turned // 2]}")
    factors = tensor.read()
    if not (np.isfinite(factors) & (factors > 0)).all():
        raise CheckpointError(f"its tensor {name} holds other numbers than positive ones")
    return factors


def weights(metadata: Mapping[str, Any], tensors: Tensors, family: Family, shape: Architecture) -> Weights:
    """Folds multipliers of embeddings, residuals and logits into the weights. Gemma's norms already include the + 1."""
    keys = Keys(metadata)
    residual = _times(keys.number("residual_scale", 1.0))
    embedding = keys.number("embedding_scale", sqrt(shape.width) if family.embedding_by_width else 1.0)
    tied = is_tied(tensors, HEAD, EMBEDDING)
    unused = {ROPE_FREQS, ROPE_SHORT, ROPE_LONG, *([HEAD] if tied else [])}
    out = Canonical(
        {name: tensor for name, tensor in tensors.items() if name not in unused}, shape, tensors[EMBEDDING].shape[0]
    )
    out.embedding(EMBEDDING, _times(embedding))
    if family.positions == "learned":
        out.positions(POSITIONS)
    out.head(HEAD, EMBEDDING)
    _norm(out, family, "final_norm", "output_norm", _times(1 / keys.number("logit_scale", 1.0) / (embedding if tied else 1.0)))
    turned = _turned(keys, shape.head_dim) if shape.rotary else 0
    turn = partial(half_split, turned=turned, neighbours=family.positions == "neighbours")
    for layer in range(shape.layers):
        _layer(out, family, f"layers.{layer}", f"blk.{layer}", turn, residual)
    return out.weights()


def _layer(out: Canonical, family: Family, name: str, block: str, turn: Callable[..., np.ndarray], residual: Fold) -> None:
    shape = out.architecture
    for norm in family.norms:
        _norm(out, family, f"{name}.{NORMS[norm]}", f"{block}.{norm}")
    if f"{block}.attn_qkv.weight" in out.tensors:
        out.stacked_qkv(f"{name}.qkv", f"{block}.attn_qkv.weight", partial(_turn_stacked, shape, turn))
    else:
        out.qkv(f"{name}.qkv", [f"{block}.attn_{one}.weight" for one in "qkv"], turn)
    for one, heads in {"q": shape.heads, "k": shape.kv_heads}.items() if family.qk_norm else ():
        count = heads if family.qk_norm == "all" else 1
        raw = {f"{block}.attn_{one}_norm.weight": (count * shape.head_dim,)}
        out.add(f"{name}.{one}_norm.weight", raw, partial(turn, heads=count))
    out.attention_out(name, f"{block}.attn_output.weight", residual)
    up, down = f"{block}.ffn_up.weight", f"{block}.ffn_down.weight"
    if family.mlp == "plain":
        out.mlp(name, up, down)
    elif family.mlp == "gated":
        out.gated_mlp(name, f"{block}.ffn_gate.weight", up, down, fold_down=residual)
    else:
        both = {up: (2 * shape.mlp_width, shape.width)}
        out.add(f"{name}.mlp_gate.weight", both, lambda rows: rows[: shape.mlp_width])
        out.add(f"{name}.mlp_up.weight", both, lambda rows: rows[shape.mlp_width :])
        out.linear(f"{name}.mlp_down", down, (shape.width, shape.mlp_width), residual)


def _norm(out: Canonical, family: Family, name: str, raw: str, fold: Fold = same) -> None:
    if family.norm == "layer":
        out.norm(name, f"{raw}.weight", fold)
    else:
        out.add(f"{name}.weight", {f"{raw}.weight": (out.architecture.width,)}, fold)


def _turn_stacked(shape: Architecture, turn: Callable[..., np.ndarray], rows: np.ndarray) -> np.ndarray:
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    query, key, value = np.split(rows, [queries, queries + keys])
    return np.concatenate([turn(query, shape.heads), turn(key, shape.kv_heads), value])


def _times(factor: float) -> Fold:
    return same if factor == 1 else lambda tensor: tensor * np.float32(factor)


def _unless_all_none(values: list[int | None]) -> tuple[int | None, ...]:
    return tuple(values) if any(value is not None for value in values) else ()
