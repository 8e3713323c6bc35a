"""nanochat's model: sizes from `model_config`, optional parts from the tensors.

Some constants exist only in nanochat's code and have changed over time: see `generation`. Source: nanochat/gpt.py.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from export.checkpoint import Architecture, CheckpointError, shown
from export.checkpoints.bare import matrix
from export.checkpoints.canonical import Canonical
from export.checkpoints.rotary import rotary
from export.checkpoints.settings import LAYERS, checked, head_dim, whole
from export.checkpoints.tensors import RawTensor, Weights
from export.references.nanochat import NanoChat

Tensors = Mapping[str, RawTensor]

EMBEDDING = "transformer.wte.weight"
SCALARS = ("resid_lambdas", "x0_lambdas", "smear_lambda", "backout_lambda")
EPSILON = float(np.finfo(np.float32).eps)  # torch's default
SOFTCAP = 15.0  # except for one week in March 2026, when it was 20; no file records it
SMEAR_CHANNELS = 24


@dataclass(frozen=True)
class Generation:
    theta: float  # rotary base
    qk_scale: float  # of queries and keys, after their norms
    gate_channels: int  # read by the gates of value embeddings
    gate_scale: float
    window_share: int  # a short window is the context divided by this


def generation(tensors: Tensors) -> Generation:
    """That of 2026-03-14 and later, of 2026-03-09, or earlier."""
    if "smear_gate.weight" in tensors:
        return Generation(100_000.0, 1.2, 12, 3.0, 4)
    if any(name.endswith(".ve_gate.weight") and tensor.shape[-1:] == (12,) for name, tensor in tensors.items()):
        return Generation(100_000.0, 1.15, 12, 3.0, 3)
    return Generation(10_000.0, 1.0, 32, 2.0, 2)


def assembled(config: Mapping[str, Any], tensors: Tensors) -> tuple[Architecture, Weights, NanoChat]:
    """``config`` is the `model_config` from its meta_NNNNNN.json."""
    kind = generation(tensors)
    shape = _architecture(config, tensors, kind)
    reference = NanoChat.of(
        tensors,
        shape,
        epsilon=EPSILON,
        theta=kind.theta,
        windows=shape.layer_window,
        qk_scale=kind.qk_scale,
        gate_scale=kind.gate_scale,
        softcap=SOFTCAP,
    )
    return shape, _weights(tensors, shape, kind), reference


def _architecture(config: Mapping[str, Any], tensors: Tensors, kind: Generation) -> Architecture:
    layers, heads, width = whole(config, "n_layer", limit=LAYERS), whole(config, "n_head"), whole(config, "n_embd")
    context, vocabulary = whole(config, "sequence_len"), whole(config, "vocab_size")
    size = head_dim(width, heads)
    gates = [tensor.shape[-1] for name, tensor in tensors.items() if name.endswith("_gate.weight") and tensor.shape]
    if width < max(gates, default=0):
        raise CheckpointError(
            f"its configuration says n_embd = {width}, allowed are at least {max(gates)}, which its gates read"
        )
    if matrix(tensors, EMBEDDING)[0] < vocabulary:
        raise CheckpointError(f"its tensor {EMBEDDING} has fewer rows than its configuration has tokens: {vocabulary}")
    scales = [_scalars(tensors, name, layers) for name in SCALARS[:2]] if {*SCALARS[:2]} & tensors.keys() else [(), ()]
    smear, backout = (_scalars(tensors, name, 1)[0] if name in tensors else None for name in SCALARS[2:])
    return checked(
        Architecture(
            layers=layers,
            heads=heads,
            kv_heads=whole(config, "n_kv_head"),
            head_dim=size,
            width=width,
            mlp_width=4 * width,
            vocabulary_size=vocabulary,
            context_length=context,
            norm="rms",
            norm_epsilon=EPSILON,
            activation="relu2",
            rotary=(rotary(size, kind.theta, backwards=True),),
            layer_window=_windows(config, layers, context, kind.window_share),
            logit_softcap=SOFTCAP,
            residual_scales=tuple(zip(*scales, strict=True)),
            smear=smear,
            backout=None if backout is None else (layers // 2, backout),
        )
    )


def _windows(config: Mapping[str, Any], layers: int, context: int, share: int) -> tuple[int | None, ...]:
    """The pattern of S(hort) and L(ong), repeated over the layers; the last layer is long. Short windows other than half the
    context are rounded up to multiples of 128. nanochat does not count a query's own key, hence + 1."""
    pattern = config.get("window_pattern", "L")
    if not isinstance(pattern, str) or not pattern or not {*pattern.upper()} <= {*"SL"}:
        raise CheckpointError(f"its configuration says window_pattern = {shown(pattern)}, allowed are the letters S and L")
    short = context // 2 if share == 2 else -(-context // share // 128) * 128
    windows = [short + 1 if pattern[layer % len(pattern)] in "sS" and short < context else None for layer in range(layers)]
    return (*windows[:-1], None)


def _scalars(tensors: Tensors, name: str, count: int) -> tuple[float, ...]:
    """Reads a small vector; if the file has none, returns the scale that changes nothing."""
    if name not in tensors:
        return (1.0 if name == "resid_lambdas" else 0.0,) * count
    if tensors[name].shape != (count,):
        raise CheckpointError(f"its tensor {name} has shape {list(tensors[name].shape)}, expected is {[count]}")
    values = tensors[name].read()
    if not np.isfinite(values).all():
        raise CheckpointError(f"the checkpoint's tensor {name} holds NaN or infinity, so the training of this model failed")
    return tuple(values.tolist())


def _weights(tensors: Tensors, shape: Architecture, kind: Generation) -> Weights:
    rows, vocabulary = matrix(tensors, EMBEDDING)[0], shape.vocabulary_size

    def scaled(values: np.ndarray) -> np.ndarray:
        return values[:vocabulary] * np.float32(kind.gate_scale)

    out = Canonical(tensors, shape, rows, biases=False)
    out.embedding(EMBEDDING)
    out.add("head.weight", {"lm_head.weight": (rows, shape.width)}, lambda tensor: tensor[:vocabulary])
    out.ones("embedding_norm")
    out.ones("final_norm")
    for layer in range(shape.layers):
        name, raw = f"layers.{layer}", f"transformer.h.{layer}"
        out.ones(f"{name}.attention_norm")
        out.ones(f"{name}.mlp_norm")
        out.qkv(f"{name}.qkv", [f"{raw}.attn.c_{letter}.weight" for letter in "qkv"])
        for part in ("q_norm", "k_norm"):  # before or after rotary makes no difference: a rotation preserves the norm
            out.ones(f"{name}.{part}", kind.qk_scale, size=shape.head_dim)
        out.attention_out(name, f"{raw}.attn.c_proj.weight")
        out.mlp(name, f"{raw}.mlp.c_fc.weight", f"{raw}.mlp.c_proj.weight")
        if (values := f"value_embeds.{layer}.weight") in tensors:
            out.add(f"{name}.value_embedding", {values: (rows, shape.kv_heads * shape.head_dim)}, scaled)
            out.add(f"{name}.value_gate", {f"{raw}.attn.ve_gate.weight": (shape.kv_heads, kind.gate_channels)})
    if shape.smear is not None:
        out.add("smear_gate", {"smear_gate.weight": (1, SMEAR_CHANNELS)})
    return out.weights(ignored=SCALARS)
