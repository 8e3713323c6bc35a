"""nanochat in transformers' form, which it had until January 2026: without windows, value embeddings and scales."""

from collections.abc import Mapping
from typing import Any

from export.checkpoint import Architecture, Rotary, TokenizerFiles
from export.checkpoints import settings
from export.checkpoints.canonical import Canonical
from export.checkpoints.huggingface.common import prefixed, require_head
from export.checkpoints.huggingface.rope import of_all_layers
from export.checkpoints.settings import LAYERS, checked, demand, real, whole
from export.checkpoints.tensors import RawTensor, Weights
from export.references.nanochat import HuggingFaceNanoChat
from export.references.transformer import Transformer
from export.text.tokenizers import vocabulary_size

HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


def nanochat(
    config: Mapping[str, Any], tensors: Mapping[str, RawTensor], tokenizer: TokenizerFiles
) -> tuple[Architecture, Weights, Transformer]:
    demand(config, "hidden_act", "relu2")
    tensors = prefixed(tensors, "model.")
    require_head(config, tensors, HEAD, EMBEDDING, tied=False)
    shape, rows, theta = _architecture(config, tokenizer)
    reference = HuggingFaceNanoChat.of(
        tensors,
        shape,
        theta=theta,
        softcap=shape.logit_softcap,
    )
    return shape, _weights(tensors, shape, rows), reference


def _architecture(config: Mapping[str, Any], tokenizer: TokenizerFiles) -> tuple[Architecture, int, float]:
    """With the rows of its embedding and the base of its positions. What is missing is as transformers has it by default."""
    given = config.get("rope_scaling") or config.get("rope_parameters") or {}
    demand(given if isinstance(given, dict) else {}, "rope_type", "default", "dynamic", None)
    width, heads = whole(config, "hidden_size", 768), whole(config, "num_attention_heads", 6)
    size = whole(config, "head_dim", default=settings.head_dim(width, heads))
    rope = of_all_layers({"max_position_embeddings": 2048, "rope_theta": 10000.0, **config}, size)
    rows, uncapped = whole(config, "vocab_size", 50304), config.get("final_logit_softcapping", 15.0) is None
    shape = Architecture(
        layers=whole(config, "num_hidden_layers", 12, limit=LAYERS),
        heads=heads,
        kv_heads=whole(config, "num_key_value_heads", heads),
        head_dim=size,
        width=width,
        mlp_width=whole(config, "intermediate_size", 8192),
        vocabulary_size=vocabulary_size(tokenizer, rows),
        context_length=rope.context_length,
        norm="rms",
        norm_epsilon=real(config, "rms_norm_eps", 1e-6),
        activation="relu2",
        rotary=(Rotary(tuple(-one for one in rope.rotary.frequencies)),),
        logit_softcap=None if uncapped else real(config, "final_logit_softcapping", 15.0),
    )
    return checked(shape), rows, given.get("rope_theta") or config.get("rope_theta") or 10000.0


def _weights(tensors: Mapping[str, RawTensor], shape: Architecture, rows: int) -> Weights:
    out = Canonical(tensors, shape, rows)
    out.embedding(EMBEDDING)
    out.head(HEAD, EMBEDDING)
    out.ones("embedding_norm")
    out.ones("final_norm")
    for layer in range(shape.layers):
        name, raw = f"layers.{layer}", f"model.layers.{layer}"
        out.ones(f"{name}.attention_norm")
        out.ones(f"{name}.mlp_norm")
        out.qkv(f"{name}.qkv", [f"{raw}.self_attn.{letter}_proj.weight" for letter in "qkv"])
        out.ones(f"{name}.q_norm", size=shape.head_dim)
        out.ones(f"{name}.k_norm", size=shape.head_dim)
        out.attention_out(name, f"{raw}.self_attn.o_proj.weight")
        out.mlp(name, f"{raw}.mlp.fc1.weight", f"{raw}.mlp.fc2.weight")
    return out.weights(ignored=(HEAD,))  # a tied head may be saved twice
