"""GPT-2: the same model under the names used by each project that trains it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from export.checkpoint import Architecture, CheckpointError, TokenizerFiles
from export.checkpoints import bare
from export.checkpoints.canonical import Canonical
from export.checkpoints.settings import checked, head_dim
from export.checkpoints.tensors import RawTensor, Weights
from export.references.transformer import Transformer
from export.text.tokenizer_source import named

ROWS = range(50257, 51201)  # GPT-2's 50257 tokens, plus the padding that training scripts add
MASKS = (".attn.bias", ".attn.masked_bias", ".attn.mask", ".att.mask")  # causal masks saved as buffers


@dataclass(frozen=True)
class Names:
    """Module names in a file."""

    embedding: str
    positions: str  # the tensor itself
    block: str  # the prefix of a layer's number
    norms: tuple[str, str]  # before attention and MLP
    qkv: tuple[str, ...]  # one stacked module, or three
    attention_out: str
    mlp: tuple[str, str]  # up and down
    final_norm: str
    head: str
    norm_parts: tuple[str, str] = ("weight", "bias")


def names(prefix: str = "transformer.") -> Names:
    """The names of build-nanogpt, nanoGPT, minGPT, llm.c and Hugging Face, whose files may lack the prefix."""
    return Names(
        embedding=f"{prefix}wte",
        positions=f"{prefix}wpe.weight",
        block=f"{prefix}h.",
        norms=("ln_1", "ln_2"),
        qkv=("attn.c_attn",),
        attention_out="attn.c_proj",
        mlp=("mlp.c_fc", "mlp.c_proj"),
        final_norm=f"{prefix}ln_f",
        head="lm_head",
    )


def weights(
    tensors: Mapping[str, RawTensor],
    architecture: Architecture,
    *,
    rows: int,
    biases: bool | None,
    conv1d: bool,
    prefix: str = "transformer.",
) -> Weights:
    """For a file with GPT-2's own names; see `named_weights`."""
    return named_weights(tensors, architecture, names(prefix), rows=rows, biases=biases, conv1d=conv1d)


def named_weights(
    tensors: Mapping[str, RawTensor],
    architecture: Architecture,
    names: Names,
    *,
    rows: int,
    biases: bool | None,
    conv1d: bool = False,
) -> Weights:
    """``rows`` of the file's embedding, of which the architecture's vocabulary is kept. ``biases``: None: as in the file.

    ``conv1d``: linear weights are stored as ``[in, out]``, as in Hugging Face's GPT-2.
    """
    width, mlp_width = architecture.width, architecture.mlp_width
    out = Canonical(tensors, architecture, rows, biases=biases)

    def norm(name: str, raw: str) -> None:
        if names.norm_parts == ("weight", "bias"):
            out.norm(name, f"{raw}.weight")
        else:
            for part, raw_part in zip(("weight", "bias"), names.norm_parts, strict=True):
                out.add(f"{name}.{part}", {f"{raw}.{raw_part}": (width,)})

    out.embedding(f"{names.embedding}.weight")
    out.positions(names.positions)
    norm("final_norm", names.final_norm)
    out.head(f"{names.head}.weight", f"{names.embedding}.weight")
    for layer in range(architecture.layers):
        name, raw = f"layers.{layer}", f"{names.block}{layer}"
        for canonical, raw_norm in zip(("attention_norm", "mlp_norm"), names.norms, strict=True):
            norm(f"{name}.{canonical}", f"{raw}.{raw_norm}")
        if len(names.qkv) == 1:
            out.linear(f"{name}.qkv", f"{raw}.{names.qkv[0]}.weight", (3 * width, width), transposed=conv1d)
        else:
            out.qkv(f"{name}.qkv", [f"{raw}.{part}.weight" for part in names.qkv])
        up, down = names.mlp
        out.linear(f"{name}.attention_out", f"{raw}.{names.attention_out}.weight", (width, width), transposed=conv1d)
        out.linear(f"{name}.mlp_up", f"{raw}.{up}.weight", (mlp_width, width), transposed=conv1d)
        out.linear(f"{name}.mlp_down", f"{raw}.{down}.weight", (width, mlp_width), transposed=conv1d)
    return out.weights(ignored=(*MASKS, f"{names.head}.weight"))  # a tied head may be saved twice


def architecture(
    *,
    layers: int,
    heads: int,
    width: int,
    vocabulary_size: int,
    context_length: int,
    kv_heads: int | None = None,
    mlp_width: int | None = None,
    activation: Literal["gelu", "gelu_tanh"] = "gelu_tanh",
) -> Architecture:
    return checked(
        Architecture(
            layers=layers,
            heads=heads,
            kv_heads=kv_heads or heads,
            head_dim=head_dim(width, heads),
            width=width,
            mlp_width=mlp_width or 4 * width,
            vocabulary_size=vocabulary_size,
            context_length=context_length,
            norm="layer",
            norm_epsilon=1e-5,
            activation=activation,
        )
    )


@dataclass(frozen=True)
class Sizes:
    """What the tensors of a file without a configuration reveal."""

    layers: int
    rows: int  # of the embedding
    width: int
    context_length: int
    mlp_width: int
    kv_width: int  # kv_heads · head_dim


def sizes(tensors: Mapping[str, RawTensor], names: Names) -> Sizes:
    first = f"{names.block}0."
    rows, width = bare.matrix(tensors, f"{names.embedding}.weight")
    return Sizes(
        layers=bare.layer_count(tensors, names.block),
        rows=rows,
        width=width,
        context_length=bare.matrix(tensors, names.positions)[0],
        mlp_width=bare.matrix(tensors, f"{first}{names.mlp[0]}.weight")[0],
        kv_width=width if len(names.qkv) == 1 else bare.matrix(tensors, f"{first}{names.qkv[1]}.weight")[0],
    )


def tokenizer(rows: int) -> TokenizerFiles:
    """GPT-2's tokenizer. Raises CheckpointError if the model's vocabulary is not GPT-2's."""
    if rows not in ROWS:
        raise CheckpointError(
            f"its vocabulary has {rows} tokens, GPT-2's has 50257: name the tokenizer it was trained with (TOKENIZER); "
            "of a model of characters, that is the meta.pkl of its training data"
        )
    return named("gpt2")


def reference(
    kind: type[Transformer], tensors: Mapping[str, RawTensor], architecture: Architecture, **settings: Any
) -> Callable[[np.ndarray], np.ndarray]:
    model = kind.of(tensors, architecture, **settings)
    return lambda tokens: model(tokens)[:, : architecture.vocabulary_size]
