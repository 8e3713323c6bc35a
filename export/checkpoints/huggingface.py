"""Hugging Face directories of GPT-2 and Llama models: `config.json`, `*.safetensors`, tokenizer."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from export import reference
from export.checkpoint import Architecture, Checkpoint, CheckpointError, TokenizerFiles, shown
from export.checkpoints import gpt2, llama, safetensors_file
from export.checkpoints.settings import LAYERS, checked, demand, head_dim, real, whole
from export.checkpoints.tensors import RawTensor, Weights, is_tied
from export.own_files import require_own_files
from export.text_file import read_object
from export.tokenizer_source import from_directory, named
from export.tokenizers import vocabulary_size

GELUS: dict[str, Literal["tanh", "exact"]] = {
    "gelu_new": "tanh",
    "gelu_pytorch_tanh": "tanh",
    "gelu_fast": "tanh",
    "gelu": "exact",
}
LLAMA = llama.Names(
    embedding="model.embed_tokens.weight",
    final_norm="model.norm.weight",
    head="lm_head.weight",
    layer="model.layers.{}.",
    attention_norm="input_layernorm.weight",
    mlp_norm="post_attention_layernorm.weight",
    query="self_attn.q_proj.weight",
    key="self_attn.k_proj.weight",
    value="self_attn.v_proj.weight",
    attention_out="self_attn.o_proj.weight",
    mlp_gate="mlp.gate_proj.weight",
    mlp_up="mlp.up_proj.weight",
    mlp_down="mlp.down_proj.weight",
    ignored=("rotary_emb.inv_freq",),
)


def read(path: Path, *, tokenizer: str | None) -> Checkpoint:
    require_own_files(path)
    if not (path / "config.json").is_file():
        raise CheckpointError("it lacks config.json, as Hugging Face directories have")
    config = read_object(path / "config.json")
    readers = {"gpt2": _gpt2, "llama": _llama}
    demand({"model_type": config.get("model_type")}, "model_type", *readers)
    demand(config, "quantization_config", None)
    files = named(tokenizer) if tokenizer else from_directory(path, rows=whole(config, "vocab_size"))
    tensors = safetensors_file.directory(path)
    architecture, weights = readers[config["model_type"]](config, tensors, files)
    # an id outside the vocabulary is a default that nobody adjusted: it can never be sampled
    end_tokens = tuple(token for token in _end_tokens(path, config, files) if token < architecture.vocabulary_size)
    files = replace(files, end_tokens=end_tokens)
    run = reference.huggingface(path, config, tensors, architecture.vocabulary_size)
    return Checkpoint(path, architecture, weights, files, run)


def _end_tokens(path: Path, config: Mapping[str, Any], files: TokenizerFiles) -> tuple[int, ...]:
    """Those the tokenizer knows, and those of generation_config.json or, without it, of config.json: a number or a list."""
    generation = path / "generation_config.json"
    declared = read_object(generation).get("eos_token_id") if generation.is_file() else None
    if declared is None:
        declared = config.get("eos_token_id")
    ids = declared if isinstance(declared, list) else [] if declared is None else [declared]
    if not all(isinstance(token, int) and not isinstance(token, bool) and token >= 0 for token in ids):
        raise CheckpointError(f"its configuration says eos_token_id = {shown(declared)}, allowed are token ids")
    return tuple(sorted({*files.end_tokens, *ids}))


def _gpt2(config: dict[str, Any], tensors: dict[str, RawTensor], tokenizer: TokenizerFiles) -> tuple[Architecture, Weights]:
    activation = config.get("activation_function", "gelu_new")
    demand({"activation_function": activation}, "activation_function", *GELUS)
    demand(config, "scale_attn_weights", True)
    demand(config, "scale_attn_by_inverse_layer_idx", False)
    demand(config, "add_cross_attention", False)
    width, heads = whole(config, "n_embd"), whole(config, "n_head")
    rows = whole(config, "vocab_size")
    architecture = checked(
        Architecture(
            family="gpt2",
            layers=whole(config, "n_layer", limit=LAYERS),
            heads=heads,
            kv_heads=heads,
            head_dim=head_dim(width, heads),
            width=width,
            mlp_width=whole(config, "n_inner", default=4 * width),
            vocabulary_size=vocabulary_size(tokenizer, rows),
            context_length=whole(config, "n_positions"),
            norm_epsilon=real(config, "layer_norm_epsilon", 1e-5),
            gelu=GELUS[activation],
        )
    )
    prefixed = _prefixed(tensors, "transformer.")
    _check_head(config, prefixed, gpt2.HEAD, gpt2.EMBEDDING, default=True)
    return architecture, gpt2.weights(prefixed, architecture, rows=rows, bias=True, conv1d=True)


def _llama(config: dict[str, Any], tensors: dict[str, RawTensor], tokenizer: TokenizerFiles) -> tuple[Architecture, Weights]:
    demand(config, "hidden_act", "silu", "swish")
    demand(config, "attention_bias", False, None)
    demand(config, "mlp_bias", False, None)
    demand(config, "sliding_window", None)
    demand(config, "partial_rotary_factor", 1, None)
    width, heads, rows = whole(config, "hidden_size"), whole(config, "num_attention_heads"), whole(config, "vocab_size")
    architecture = checked(
        Architecture(
            family="llama",
            layers=whole(config, "num_hidden_layers", limit=LAYERS),
            heads=heads,
            kv_heads=whole(config, "num_key_value_heads", default=heads),
            head_dim=whole(config, "head_dim") if config.get("head_dim") is not None else head_dim(width, heads),
            width=width,
            mlp_width=whole(config, "intermediate_size"),
            vocabulary_size=vocabulary_size(tokenizer, rows),
            context_length=whole(config, "max_position_embeddings", default=2048),
            norm_epsilon=real(config, "rms_norm_eps", 1e-6),
            rope_theta=_rope_theta(config),
        )
    )
    prefixed = _prefixed(tensors, "model.")
    tied = _check_head(config, prefixed, LLAMA.head, LLAMA.embedding, default=False)
    return architecture, llama.weights(prefixed, architecture, LLAMA, rows=rows, tied=tied)


def _rope_theta(config: Mapping[str, Any]) -> float:
    """From `rope_theta`, or from `rope_parameters` as transformers 5 writes it; scaled rotary positions are refused."""
    rope: dict[str, Any] = {}
    for key in ("rope_scaling", "rope_parameters"):
        entry = config.get(key) or {}
        if not isinstance(entry, dict):
            raise CheckpointError(f"its configuration says {key} = {shown(entry)}, expected an object or null")
        kind = entry.get("rope_type", entry.get("type", "default"))
        if kind != "default":
            raise CheckpointError(f"its configuration says {key} of type {shown(kind)}; scaled positions are not implemented")
        demand(entry, "partial_rotary_factor", 1, None)
        rope |= entry
    return real({"rope_theta": config.get("rope_theta", rope.get("rope_theta"))}, "rope_theta", 10000.0)


def _prefixed(tensors: Mapping[str, RawTensor], prefix: str) -> dict[str, RawTensor]:
    """Names with ``prefix``, which the files of bare models (without a head) leave out."""
    return {name if name.startswith((prefix, "lm_head.")) else prefix + name: tensor for name, tensor in tensors.items()}


def _check_head(config: Mapping[str, Any], tensors: Mapping[str, RawTensor], head: str, embedding: str, default: bool) -> bool:
    """Whether the head is tied, as the configuration says; a file that says otherwise is refused."""
    tied = bool(config.get("tie_word_embeddings", default))
    if tied and not is_tied(tensors, head, embedding):
        raise CheckpointError(f"its config.json ties the head to the embedding, but its tensor {head} differs from {embedding}")
    if not tied and head not in tensors:
        raise CheckpointError(f"it lacks the tensor {head}, though its config.json says tie_word_embeddings = false")
    return tied
