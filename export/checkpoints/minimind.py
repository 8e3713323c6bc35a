"""minimind's state dicts, saved without a configuration: `out/full_sft_768.pth`, and `*_resume.pth` with the optimizer's.

minimind-3 normalizes queries and keys; these norms reveal the head size. MiniMind2 (April 2025 to March 2026) does not.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from export.checkpoint import Checkpoint, CheckpointError
from export.checkpoints import bare, nearby, torch_file
from export.checkpoints.huggingface.minimind import minimind, require_dense
from export.checkpoints.llama2c import kv_heads
from export.checkpoints.options import Options
from export.checkpoints.settings import head_dim
from export.checkpoints.tensors import RawTensor, is_tied
from export.text.tokenizer_source import named

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
LORA = ".lora.A.weight"
ROWS = 6400  # minimind's vocabulary size
HEADS = dict.fromkeys((512, 640, 768), 8)  # of MiniMind2's models, by width
GROUP = 4  # their query heads per key-value head
TOKENIZERS = ("tokenizer.json", "model/tokenizer.json", "model/minimind_tokenizer/tokenizer.json")


def recognises(saved: Mapping[str, Any]) -> bool:
    model = saved.get("model", saved)
    return isinstance(model, Mapping) and any(isinstance(name, str) and name.endswith((EMBEDDING, LORA)) for name in model)


def read(path: Path, saved: dict[str, Any], options: Options) -> Checkpoint:
    is_bare = "model" not in saved
    state = torch_file.state_dict(saved if is_bare else saved["model"], "it" if is_bare else "its `model`")
    tensors = torch_file.raw_tensors(state)
    if any(name.endswith(LORA) for name in tensors):
        raise CheckpointError(
            "it holds LoRA matrices: merge them into the model they were trained for (convert_merge_base_lora of minimind's "
            "scripts/convert_model.py)"
        )
    require_dense(tensors)
    config = _config(tensors, options)
    tokenizer = named(options.tokenizer) if options.tokenizer else nearby.tokenizer(path, TOKENIZERS, config["vocab_size"])[1]
    architecture, weights, reference = minimind(config, tensors, tokenizer)
    return Checkpoint(
        path, architecture, weights, tokenizer, lambda tokens: reference(tokens)[:, : architecture.vocabulary_size]
    )


def _config(tensors: Mapping[str, RawTensor], options: Options) -> dict[str, Any]:
    """The equivalent config.json."""
    rows, width = bare.matrix(tensors, EMBEDDING)
    first = "model.layers.0."
    q_width, _ = bare.matrix(tensors, f"{first}self_attn.q_proj.weight")
    k_width, _ = bare.matrix(tensors, f"{first}self_attn.k_proj.weight")
    norm = tensors.get(f"{first}self_attn.q_norm.weight")
    if norm is not None:
        heads = _heads_of_norm(q_width, norm, options)
    elif rows == ROWS:
        heads = bare.heads(options, q_width, HEADS.get(width) if q_width == GROUP * k_width else None)
    else:
        raise CheckpointError(
            f"it has a Llama's names without a configuration, and its vocabulary of {rows} is not minimind's {ROWS}: nothing "
            "tells its rotary positions; save it as a Hugging Face directory (minimind's scripts/convert_model.py does)"
        )
    size = head_dim(q_width, heads)
    return {
        "vocab_size": rows,
        "hidden_size": width,
        "intermediate_size": bare.matrix(tensors, f"{first}mlp.gate_proj.weight")[0],
        "num_hidden_layers": bare.layer_count(tensors, "model.layers."),
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads(k_width, size),
        "head_dim": size,
        "rms_norm_eps": 1e-5 if norm is None else 1e-6,
        "tie_word_embeddings": is_tied(tensors, HEAD, EMBEDDING),
    }


def _heads_of_norm(q_width: int, norm: RawTensor, options: Options) -> int:
    size = norm.shape[0] if len(norm.shape) == 1 else 0
    if size < 1 or q_width % size:
        raise CheckpointError(
            f"its norm of queries has shape {list(norm.shape)}, which is no head of its queries' {q_width} rows"
        )
    heads = q_width // size
    if options.heads not in (None, heads):
        raise CheckpointError(f"it has {heads} heads, as its norm of queries tells; HEADS says {options.heads}")
    return heads
