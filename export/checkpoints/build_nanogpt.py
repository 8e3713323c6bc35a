"""Checkpoints of build-nanogpt: `model`, `config` (a pickled GPTConfig), `step`, `val_loss`."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from export.checkpoint import Checkpoint, CheckpointError, TokenizerFiles
from export.checkpoints import gpt2, torch_file
from export.checkpoints.options import Options
from export.checkpoints.settings import LAYERS, whole
from export.references.frameworks import torch_gpt2
from export.text.tokenizer_source import named
from export.text.tokenizers import vocabulary_size

STEP = re.compile(r"model_(\d{1,12})\.pt")  # in `log/`


def find(path: Path) -> Path | None:
    """The checkpoint of the last step."""
    steps = {int(found[1]): file for file in path.iterdir() if (found := STEP.fullmatch(file.name)) and file.is_file()}
    return steps[max(steps)] if steps else None


def recognises(saved: Mapping[str, Any]) -> bool:
    return torch_file.fields(saved.get("config")) is not None


def read(path: Path, saved: dict[str, Any], options: Options) -> Checkpoint:
    config = torch_file.fields(saved.get("config"))
    if config is None:
        raise CheckpointError(_unknown(saved))
    rows = whole(config, "vocab_size")
    files = named(options.tokenizer, add_bos=False) if options.tokenizer else gpt2.tokenizer(rows)
    return checkpoint(path, saved, config, files, biases=True, activation="gelu_tanh")


def _unknown(saved: Mapping[str, Any]) -> str:
    if "optimizers" in saved and "code" in saved:
        return "it is a checkpoint of modded-nanogpt, whose architecture changes with every record: it is not served"
    return (
        "it lacks `config` (build-nanogpt) or `model_args` (nanoGPT), which tell the model's sizes, "
        "and its tensors have the names of no other project that is served"
    )


def checkpoint(
    path: Path,
    saved: dict[str, Any],
    config: dict[str, Any],
    tokenizer: TokenizerFiles,
    *,
    biases: bool | None,
    activation: Literal["gelu", "gelu_tanh"],
) -> Checkpoint:
    """The part shared by build-nanogpt and nanoGPT, which use the same field names."""
    rows = whole(config, "vocab_size")
    architecture = gpt2.architecture(
        layers=whole(config, "n_layer", limit=LAYERS),
        heads=whole(config, "n_head"),
        width=whole(config, "n_embd"),
        vocabulary_size=vocabulary_size(tokenizer, rows),
        context_length=whole(config, "block_size"),
        activation=activation,
    )
    state = torch_file.state_dict(saved.get("model"))
    weights = gpt2.weights(torch_file.raw_tensors(state), architecture, rows=rows, biases=biases, conv1d=False)
    run = torch_gpt2(state, config, architecture.vocabulary_size, exact_gelu=activation == "gelu")
    return Checkpoint(path, architecture, weights, tokenizer, run)
