"""Checkpoints of build-nanogpt: `model`, `config` (a pickled GPTConfig), `step`, `val_loss`."""

from pathlib import Path
from typing import Any, Literal

from export import reference
from export.checkpoint import Architecture, Checkpoint, CheckpointError, TokenizerFiles
from export.checkpoints import gpt2, torch_file
from export.checkpoints.settings import LAYERS, checked, head_dim, whole
from export.tokenizer_source import named
from export.tokenizers import vocabulary_size

GPT2_ROWS = range(50257, 51201)  # GPT-2's 50257 tokens, and the padding that training scripts add


def read(path: Path, saved: dict[str, Any], *, tokenizer: str | None) -> Checkpoint:
    config = torch_file.fields(saved.get("config"))
    if config is None:
        raise CheckpointError("it lacks `config` (build-nanogpt) or `model_args` (nanoGPT), which tell the model's sizes")
    rows = whole(config, "vocab_size")
    files = named(tokenizer) if tokenizer else default_tokenizer(rows)
    return gpt2_checkpoint(path, saved, config, files, gelu="tanh")


def default_tokenizer(rows: int) -> TokenizerFiles:
    if rows not in GPT2_ROWS:
        raise CheckpointError(
            f"its vocabulary has {rows} tokens, GPT-2's has 50257: name the tokenizer it was trained with (TOKENIZER)"
        )
    return named("gpt2")


def gpt2_checkpoint(
    path: Path,
    saved: dict[str, Any],
    config: dict[str, Any],
    tokenizer: TokenizerFiles,
    *,
    gelu: Literal["tanh", "exact"],
) -> Checkpoint:
    """What build-nanogpt and nanoGPT have in common, from their field names on."""
    width, heads, rows = whole(config, "n_embd"), whole(config, "n_head"), whole(config, "vocab_size")
    architecture = checked(
        Architecture(
            family="gpt2",
            layers=whole(config, "n_layer", limit=LAYERS),
            heads=heads,
            kv_heads=heads,
            head_dim=head_dim(width, heads),
            width=width,
            mlp_width=4 * width,
            vocabulary_size=vocabulary_size(tokenizer, rows),
            context_length=whole(config, "block_size"),
            norm_epsilon=1e-5,
            gelu=gelu,
        )
    )
    state, bias = torch_file.state_dict(saved), config.get("bias", True)
    weights = gpt2.weights(torch_file.raw_tensors(state), architecture, rows=rows, bias=bool(bias), conv1d=False)
    run = reference.torch_gpt2(state, config, architecture.vocabulary_size, exact_gelu=gelu == "exact")
    return Checkpoint(path, architecture, weights, tokenizer, run)
