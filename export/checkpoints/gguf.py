"""Llama models as GGUF files, as llama.cpp writes them."""

from pathlib import Path
from typing import Any

import numpy as np

from export import reference
from export.checkpoint import Architecture, Checkpoint, CheckpointError, shown
from export.checkpoints import gguf_file, gguf_tokenizer, llama
from export.checkpoints.settings import LAYERS, checked, demand, head_dim, real, whole
from export.checkpoints.tensors import is_tied
from export.tokenizer_source import named
from export.tokenizers import vocabulary_size

NAMES = llama.Names(
    embedding="token_embd.weight",
    final_norm="output_norm.weight",
    head="output.weight",
    layer="blk.{}.",
    attention_norm="attn_norm.weight",
    mlp_norm="ffn_norm.weight",
    query="attn_q.weight",
    key="attn_k.weight",
    value="attn_v.weight",
    attention_out="attn_output.weight",
    mlp_gate="ffn_gate.weight",
    mlp_up="ffn_up.weight",
    mlp_down="ffn_down.weight",
)


def read(path: Path, *, tokenizer: str | None) -> Checkpoint:
    metadata, tensors = gguf_file.read(path)
    family = metadata.get("general.architecture")
    if family != "llama":
        raise CheckpointError(f"its general.architecture is {shown(family)}; served is 'llama'")
    if NAMES.embedding not in tensors:
        raise CheckpointError(f"it lacks the tensor {NAMES.embedding}")
    if "rope_freqs.weight" in tensors:
        raise CheckpointError("it holds rope_freqs.weight: scaled rotary positions are not implemented")
    files = named(tokenizer) if tokenizer else gguf_tokenizer.build(metadata)
    rows = tensors[NAMES.embedding].shape[0]
    architecture = _architecture(metadata, vocabulary_size(files, rows))
    tied = is_tied(tensors, NAMES.head, NAMES.embedding)
    weights = llama.weights(tensors, architecture, NAMES, rows=rows, tied=tied, half_split=_half_split)
    run = reference.gguf_llama(metadata, tensors, architecture.vocabulary_size)
    return Checkpoint(path, architecture, weights, files, run)


def _architecture(metadata: dict[str, Any], vocabulary: int) -> Architecture:
    demand(metadata, "llama.rope.scaling.type", "none")
    demand(metadata, "llama.rope.scaling.factor", 0.0, 1.0)
    demand(metadata, "llama.rope.scale_linear", 1.0)
    demand(metadata, "llama.expert_count", 0)
    demand(metadata, "llama.attention.sliding_window", 0)
    width, heads = whole(metadata, "llama.embedding_length"), whole(metadata, "llama.attention.head_count")
    given = "llama.attention.key_length" in metadata
    key_length = whole(metadata, "llama.attention.key_length") if given else head_dim(width, heads)
    demand(metadata, "llama.attention.value_length", key_length)
    demand(metadata, "llama.rope.dimension_count", key_length)
    return checked(
        Architecture(
            family="llama",
            layers=whole(metadata, "llama.block_count", limit=LAYERS),
            heads=heads,
            kv_heads=whole(metadata, "llama.attention.head_count_kv", default=heads),
            head_dim=key_length,
            width=width,
            mlp_width=whole(metadata, "llama.feed_forward_length"),
            vocabulary_size=vocabulary,
            context_length=whole(metadata, "llama.context_length"),
            norm_epsilon=real(metadata, "llama.attention.layer_norm_rms_epsilon", 1e-5),
            rope_theta=real(metadata, "llama.rope.freq_base", 10000.0),
        )
    )


def _half_split(weight: np.ndarray, heads: int) -> np.ndarray:
    """llama.cpp turns neighbouring rows of a head (0 and 1, 2 and 3, …); here row j turns with row j + head_dim / 2."""
    rows, columns = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)
