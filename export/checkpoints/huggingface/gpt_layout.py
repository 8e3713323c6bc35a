"""What Hugging Face's GPTs with layer norms share: their settings and tensors under each family's names."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from export.checkpoint import Architecture, CheckpointError, TokenizerFiles
from export.checkpoints.canonical import Canonical, Fold, Turn, same
from export.checkpoints.huggingface.common import activation, require_head
from export.checkpoints.huggingface.rope import Rope, of_all_layers
from export.checkpoints.settings import LAYERS, checked, demand, head_dim, real, whole
from export.checkpoints.tensors import RawTensor, Weights
from export.text.tokenizers import vocabulary_size

Settings = dict[str, Any]
Tensors = Mapping[str, RawTensor]


@dataclass(frozen=True)
class Keys:
    """Names of settings in config.json."""

    layers: str = "num_hidden_layers"
    heads: str = "num_attention_heads"
    width: str = "hidden_size"
    mlp_width: str = "intermediate_size"
    context: str = "max_position_embeddings"
    epsilon: str = "layer_norm_eps"
    activation: str = "hidden_act"


@dataclass(frozen=True)
class Names:
    """Names of modules. Those of a layer follow ``layer.format(i)``."""

    prefix: str  # which the files of bare models (without a head) leave out
    embedding: str
    layer: str
    attention_norm: str
    qkv: tuple[str, ...]  # one stacked module, or one each
    attention_out: str
    mlp_norm: str | None  # None: the norm before attention is the MLP's too
    mlp: tuple[str, str]  # up and down
    final_norm: str
    head: str = "lm_head"
    without_bias: tuple[str, ...] = ()  # modules of a layer; all others have one
    buffers: tuple[str, ...] = ()  # endings of tensors that older versions saved


def flag(config: Settings, key: str, default: bool) -> bool:
    demand(config, key, True, False)
    return bool(config.get(key, default))


def architecture(
    config: Settings, tokenizer: TokenizerFiles, keys: Keys, default_activation: str, **rest: Any
) -> tuple[Architecture, int]:
    """And the rows of its embedding. ``default_activation``: where the configuration names none."""
    width, heads, rows = whole(config, keys.width), whole(config, keys.heads), whole(config, "vocab_size")
    return (
        checked(
            Architecture(
                layers=whole(config, keys.layers, limit=LAYERS),
                heads=heads,
                kv_heads=heads,
                head_dim=head_dim(width, heads),
                width=width,
                mlp_width=whole(config, keys.mlp_width, 4 * width),
                vocabulary_size=vocabulary_size(tokenizer, rows),
                context_length=whole(config, keys.context),
                norm="layer",
                norm_epsilon=real(config, keys.epsilon, 1e-5),
                activation=activation(config, keys.activation, default_activation),
                **rest,
            )
        ),
        rows,
    )


def canonical(
    tensors: Tensors,
    architecture: Architecture,
    names: Names,
    rows: int,
    *,
    turn: Turn = lambda rows, heads: rows,
    arrange: Fold = same,
    affine: bool = True,
) -> Canonical:
    """All but positions and head. ``turn``: queries and keys stored apart; ``arrange``: stacked ones; ``affine``: if norms
    have weights."""
    out, plain = (Canonical(tensors, architecture, rows, biases=biases) for biases in (True, False))
    plain.sources = out.sources

    def of(part: str) -> Canonical:
        return plain if part in names.without_bias else out

    def norm(name: str, raw: str) -> None:
        if affine:
            out.norm(name, f"{raw}.weight")
        else:
            out.ones(name)

    out.embedding(f"{names.embedding}.weight")
    norm("final_norm", names.final_norm)
    for layer in range(architecture.layers):
        name, raw = f"layers.{layer}", names.layer.format(layer)
        norm(f"{name}.attention_norm", raw + names.attention_norm)
        if len(names.qkv) == 1:
            of(names.qkv[0]).stacked_qkv(f"{name}.qkv", f"{raw}{names.qkv[0]}.weight", arrange)
        else:
            of(names.qkv[0]).qkv(f"{name}.qkv", [f"{raw}{part}.weight" for part in names.qkv], turn)
        of(names.attention_out).attention_out(name, f"{raw}{names.attention_out}.weight")
        if names.mlp_norm:
            norm(f"{name}.mlp_norm", raw + names.mlp_norm)
        of(names.mlp[0]).mlp(name, *(f"{raw}{part}.weight" for part in names.mlp))
    return out


def stacked(groups: int, heads: int, turn: Turn, order: tuple[int, int, int] = (0, 1, 2)) -> Fold:
    """For rows that are stored group by group, queries, keys and values of each in some ``order``."""

    def arrange(rows: np.ndarray) -> np.ndarray:
        parts = rows.reshape(groups, 3, -1, *rows.shape[1:])
        query, key, value = (parts[:, place].reshape(-1, *rows.shape[1:]) for place in order)
        return np.concatenate([turn(query, heads), turn(key, heads), value])

    return arrange


def weights(out: Canonical, config: Settings, names: Names, *, tied: bool) -> Weights:
    """With the head. ``tied``: whether it is the embedding, where the configuration does not say."""
    head, embedding = f"{names.head}.weight", f"{names.embedding}.weight"
    require_head(config, out.tensors, head, embedding, tied=tied)
    out.head(head, embedding)
    return out.weights(ignored=(*names.buffers, head))  # a tied head may be saved twice


def read_rope(config: Settings, size: int, *, theta: str, part: str, default_part: float) -> tuple[Rope, Settings]:
    """And what a reference computes it from. ``theta`` and ``part`` (of a head's ``size`` rows): the family's keys of
    transformers 4; `rope_parameters`, where there are any, outweigh them."""
    own = {"rope_theta": config.get(theta) or 10000.0, "partial_rotary_factor": config.get(part) or default_part}
    found = of_all_layers(config | own, size, partial=True)
    given = config.get("rope_scaling") or config.get("rope_parameters") or {}
    kind = given.get("rope_type") or given.get("type") or "default"
    demand({"rope_type": kind}, "rope_type", "default", "dynamic", "linear")
    divisor = given["factor"] if kind == "linear" else 1.0
    return found, {"theta": given.get("rope_theta") or own["rope_theta"], "divisor": divisor, "turned": found.turned}


def require_even(turned: int, size: int) -> int:
    if not 2 <= turned <= size or turned % 2:
        raise CheckpointError(f"its rotary_dim is {turned}, allowed are even numbers from 2 to its head size {size}")
    return turned
