"""The files of a model directory beside the graph: config.pbtxt, tokenizer, model card."""

import json
from collections.abc import Mapping
from pathlib import Path

from export.checkpoint import Checkpoint, TokenizerFiles

# Several gateways' requests that wait at the same moment run as one forward pass.
MAX_MERGED_REQUESTS = 16

STEP_INPUTS = {
    "sequence_id": "TYPE_UINT64",
    "past_length": "TYPE_INT32",
    "token_count": "TYPE_INT32",
    "token_limit": "TYPE_INT32",
    "tokens": "TYPE_INT32",
    "logit_count": "TYPE_INT32",
    "full_logits": "TYPE_BOOL",
    "release": "TYPE_UINT64",
    "describe": "TYPE_BOOL",
}


def step_outputs(candidates: int, vocabulary_size: int) -> dict[str, tuple[str, list[int]]]:
    return {
        "cached_length": ("TYPE_INT32", [-1]),
        "candidate_id": ("TYPE_INT32", [-1, candidates]),
        "candidate_logit": ("TYPE_FP32", [-1, candidates]),
        "log_normalizer": ("TYPE_FP32", [-1]),
        "logits": ("TYPE_FP32", [-1, vocabulary_size]),
        "description": ("TYPE_UINT8", [-1]),
    }


def model_parameters(
    checkpoint: Checkpoint, *, precision: str, context_length: int, candidates: int, slots: str, fingerprint: str
) -> dict[str, str]:
    """What both sides of the wire must agree on: the parameters of config.pbtxt, named in docs/wire-contract.md."""
    return {
        "context_length": str(context_length),
        "candidates": str(candidates),
        "vocabulary_size": str(checkpoint.architecture.vocabulary_size),
        "end_tokens": ",".join(map(str, checkpoint.tokenizer.end_tokens)),
        "slots": slots,
        "precision": precision,
        "family": checkpoint.architecture.family,
        "checkpoint": checkpoint.name,
        "created": str(int(checkpoint.source.stat().st_mtime)),
        "fingerprint": fingerprint,
    }


def config_pbtxt(parameters: Mapping[str, str]) -> str:
    """The model configuration; model_repository/README.md explains it line by line."""
    inputs = [
        f'  {{ name: "{name}" data_type: {dtype} dims: [ -1 ] allow_ragged_batch: true optional: true }}'
        for name, dtype in STEP_INPUTS.items()
    ]
    outputs = [
        f'  {{ name: "{name}" data_type: {dtype} dims: [ {", ".join(map(str, dims))} ] }}'
        for name, (dtype, dims) in step_outputs(int(parameters["candidates"]), int(parameters["vocabulary_size"])).items()
    ]
    entries = [
        f'parameters {{ key: "{key}" value {{ string_value: {json.dumps(value, ensure_ascii=False)} }} }}'
        for key, value in parameters.items()
    ]
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
        "instance_group [ { kind: KIND_AUTO count: 1 } ]",
        *entries,
    ]
    return "\n".join(lines) + "\n"


def write_tokenizer(directory: Path, tokenizer: TokenizerFiles) -> None:
    (directory / "tokenizer.json").write_text(tokenizer.tokenizer_json, encoding="utf-8")
    if tokenizer.chat_template is not None:
        (directory / "chat_template.jinja").write_text(tokenizer.chat_template, encoding="utf-8")


def write_model_card(directory: Path, name: str, card: Mapping[str, object]) -> None:
    """``card`` as JSON for programs (1/model_card.json) and as Markdown for people (MODEL_CARD.md)."""
    text = json.dumps(card, indent=2, ensure_ascii=False) + "\n"
    (directory / "1" / "model_card.json").write_text(text, encoding="utf-8")
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
