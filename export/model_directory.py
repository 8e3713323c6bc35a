"""The files next to the graph in a model directory: config.pbtxt, tokenizer, model card."""

import json
from collections.abc import Mapping
from pathlib import Path

from backends.onnx_decoder.contract.tensors import INPUTS, OUTPUTS, Tensor
from export.checkpoint import Checkpoint, TokenizerFiles

# Requests of different gateways that wait at the same time run as one forward pass.
MAX_MERGED_REQUESTS = 16
# Versions of a model loaded at once: the current one, and the previous one while it finishes its sequences.
VERSIONS = 2


def model_parameters(
    checkpoint: Checkpoint, *, precision: str, context_length: int, candidates: int, slots: str, fingerprint: str
) -> dict[str, str]:
    """What both sides of the wire must agree on: the model card's parameters, described in docs/wire-contract.md."""
    return {
        "context_length": str(context_length),
        "candidates": str(candidates),
        "vocabulary_size": str(checkpoint.architecture.vocabulary_size),
        "end_tokens": ",".join(map(str, checkpoint.tokenizer.end_tokens)),
        "slots": slots,
        "precision": precision,
        "checkpoint": checkpoint.name,
        "created": str(int(checkpoint.source.stat().st_mtime)),
        "fingerprint": fingerprint,
    }


def config_pbtxt() -> str:
    """The model configuration; model_repository/README.md explains it line by line.

    Identical for every version of every model: Triton reloads all versions of a model when it changes.
    """
    inputs = [
        f'  {{ name: "{name}" {_type(tensor)} allow_ragged_batch: true optional: true }}' for name, tensor in INPUTS.items()
    ]
    outputs = [f'  {{ name: "{name}" {_type(tensor)} }}' for name, tensor in OUTPUTS.items()]
    lines = [
        'backend: "onnx_decoder"',
        f"max_batch_size: {MAX_MERGED_REQUESTS}",
        "input [",
        ",\n".join(inputs),
        "]",
        "output [",
        ",\n".join(outputs),
        "]",
        "dynamic_batching { }",
        "instance_group [ { kind: KIND_CPU count: 1 } ]",  # KIND_GPU would create one per GPU, each with its own cache
        f"version_policy {{ latest {{ num_versions: {VERSIONS} }} }}",
    ]
    return "\n".join(lines) + "\n"


def _type(tensor: Tensor) -> str:
    """No dimension is fixed: candidates and vocabulary may change between versions."""
    return f"data_type: TYPE_{tensor.datatype} dims: [ {', '.join(['-1'] * len(tensor.shape))} ]"


def write_tokenizer(directory: Path, tokenizer: TokenizerFiles) -> None:
    (directory / "tokenizer.json").write_text(tokenizer.tokenizer_json, encoding="utf-8")
    if tokenizer.chat_template is not None:
        (directory / "chat_template.jinja").write_text(tokenizer.chat_template, encoding="utf-8")


def write_model_card(directory: Path, name: str, card: Mapping[str, object]) -> None:
    """``card`` as JSON for programs (model_card.json) and as Markdown for people (MODEL_CARD.md)."""
    text = json.dumps(card, indent=2, ensure_ascii=False) + "\n"
    (directory / "model_card.json").write_text(text, encoding="utf-8")
    lines = [
        f"# {name}",
        "",
        "Written by `python -m export`; the graph was compared with the checkpoint before it came here.",
        "",
    ]
    for title, section in card.items():
        if isinstance(section, Mapping):
            lines += [f"## {title.capitalize()}", "", "| | |", "| --- | --- |"]
            lines += [f"| {key.replace('_', ' ')} | {_shown(value)} |" for key, value in section.items()] + [""]
    (directory / "MODEL_CARD.md").write_text("\n".join(lines), encoding="utf-8")


def _shown(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
