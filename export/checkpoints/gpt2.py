"""Canonical weights of a GPT-2, as build-nanogpt, nanoGPT and Hugging Face name its tensors."""

from collections.abc import Mapping

import numpy as np

from export.checkpoint import Architecture
from export.checkpoints.tensors import RawTensor, Shape, Source, Weights, is_tied, map_weights

EMBEDDING, POSITIONS, HEAD = "transformer.wte.weight", "transformer.wpe.weight", "lm_head.weight"
# canonical name -> the name inside `transformer.h.{i}.`
NORMS = {"attention_norm": "ln_1", "mlp_norm": "ln_2"}
LINEARS = {"qkv": "attn.c_attn", "attention_out": "attn.c_proj", "mlp_up": "mlp.c_fc", "mlp_down": "mlp.c_proj"}


def weights(tensors: Mapping[str, RawTensor], architecture: Architecture, *, rows: int, bias: bool, conv1d: bool) -> Weights:
    """``rows`` are the file's, of which the architecture's vocabulary is kept.

    ``conv1d``: linear weights lie ``[in, out]``, as Hugging Face's do.
    """
    vocabulary, width = architecture.vocabulary_size, architecture.width
    sources = {
        "embedding": Source({EMBEDDING: (rows, width)}, lambda tensor: tensor[:vocabulary]),
        "position_embedding": Source({POSITIONS: (architecture.context_length, width)}),
    }
    sources |= _norm("final_norm", "transformer.ln_f", width, bias)
    if not is_tied(tensors, HEAD, EMBEDDING):
        sources["head"] = Source({HEAD: (rows, width)}, lambda tensor: tensor[:vocabulary])
    shapes: dict[str, Shape] = {  # [out, in]
        "qkv": (3 * width, width),
        "attention_out": (width, width),
        "mlp_up": (architecture.mlp_width, width),
        "mlp_down": (width, architecture.mlp_width),
    }
    for layer in range(architecture.layers):
        for canonical, raw in NORMS.items():
            sources |= _norm(f"layers.{layer}.{canonical}", f"transformer.h.{layer}.{raw}", width, bias)
        for canonical, raw in LINEARS.items():
            name = f"transformer.h.{layer}.{raw}"
            sources |= _linear(f"layers.{layer}.{canonical}", name, shapes[canonical], bias, conv1d)
    return map_weights(tensors, sources, ignored=_is_mask_or_tied_head)


def _norm(canonical: str, raw: str, width: int, bias: bool) -> dict[str, Source]:
    sources = {f"{canonical}.weight": Source({f"{raw}.weight": (width,)})}
    if bias:
        sources[f"{canonical}.bias"] = Source({f"{raw}.bias": (width,)})
    return sources


def _linear(canonical: str, raw: str, shape: Shape, bias: bool, conv1d: bool) -> dict[str, Source]:
    weight = Source({f"{raw}.weight": shape[::-1]}, np.transpose) if conv1d else Source({f"{raw}.weight": shape})
    sources = {f"{canonical}.weight": weight}
    if bias:
        sources[f"{canonical}.bias"] = Source({f"{raw}.bias": (shape[0],)})
    return sources


def _is_mask_or_tied_head(name: str) -> bool:
    # older versions of all three projects save the causal mask as a buffer; a tied head may be saved twice
    return name.endswith((".attn.bias", ".attn.masked_bias")) or name == HEAD
