"""Hugging Face directories: config.json, weights, and the tokenizer's files."""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from export.checkpoint import Checkpoint, CheckpointError, TokenizerFiles, shown
from export.checkpoints import lone_file
from export.checkpoints.huggingface import gemma, gpt, llama, weight_files
from export.checkpoints.huggingface.decoder import Family
from export.checkpoints.huggingface.minimind import minimind
from export.checkpoints.huggingface.nanochat import nanochat
from export.checkpoints.options import Options
from export.checkpoints.settings import demand, whole
from export.own_files import require_own_files
from export.references import frameworks
from export.text.default_templates import default_template
from export.text.tokenizer_source import from_directory, named
from export.text_file import read_object

CONFIG = "config.json"
INSIDE = (CONFIG, "pytorch_model.bin")  # files that stand for their directory
INSIDE_ENDINGS = (".safetensors", ".safetensors.index.json", ".bin.index.json")
FAMILIES: dict[str, Family] = {
    **llama.FAMILIES,
    **gemma.FAMILIES,
    "Tiny-K": minimind,  # happy-llm's
    "codegen": gpt.codegen,
    "gpt2": gpt.gpt2,
    "gpt_bigcode": gpt.gpt_bigcode,
    "gpt_neo": gpt.gpt_neo,
    "gpt_neox": gpt.gpt_neox,
    "gptj": gpt.gptj,
    "minimind": minimind,
    "nanochat": nanochat,
    "opt": gpt.opt,
    "phi": gpt.phi,
}
EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")  # keys that count them
OTHER_SENSES = ("vision_config", "audio_config", "mm_vision_tower", "image_token_id", "image_token_index")
OLD_GPT2 = {"n_ctx", "n_embd", "n_head", "n_layer"}  # of before configurations had a model_type


def find(directory: Path) -> Path | None:
    """The directory itself, or the one in it: a snapshot in the hub's cache, the last checkpoint of a training, or the only
    model. None where there is none."""
    if (directory / CONFIG).is_file():
        is_of_another = not weight_files.are_in(directory) and any(directory.glob("*.gguf"))
        return None if is_of_another else directory
    snapshots = directory / "snapshots"
    if directory.name.startswith("models--") and snapshots.is_dir():
        return _snapshot(directory, snapshots)
    inside = [path for path in directory.iterdir() if (path / CONFIG).is_file() and weight_files.are_in(path)]
    steps = {int(step[1]): path for path in inside if (step := re.fullmatch(r"checkpoint-(\d{1,12})", path.name, re.ASCII))}
    if len(steps) < len(inside):  # what was saved at the end is named otherwise
        inside = [path for path in inside if path not in steps.values()]
        return inside[0] if len(inside) == 1 else None
    return steps[max(steps)] if steps else None


def _snapshot(repository: Path, snapshots: Path) -> Path | None:
    """The snapshot that `refs/main` names, or else the newest."""
    inside = [path for path in snapshots.iterdir() if (path / CONFIG).is_file()]
    main = repository / "refs" / "main"
    if main.is_file() and main.stat().st_size < 256:
        commit = main.read_text(encoding="utf-8", errors="replace").strip()
        inside = [path for path in inside if path.name == commit] or inside
    return max(inside, key=lambda path: path.stat().st_mtime, default=None)


def read(path: Path, options: Options) -> Checkpoint:
    require_own_files(path)
    if not (path / CONFIG).is_file():
        if (path / "adapter_config.json").is_file():
            raise CheckpointError(
                "it is an adapter (PEFT, LoRA), not a whole model: merge it into the model it was trained on (merge_and_unload)"
            )
        if not any(entry.name in INSIDE or entry.name.endswith(INSIDE_ENDINGS) for entry in path.iterdir()):
            raise lone_file.nothing(path)
        raise CheckpointError(f"it lacks {CONFIG}, as Hugging Face directories have")
    config = read_object(path / CONFIG)
    said, kind = config.get("model_type"), _kind(config)
    tensors = weight_files.tensors(path)
    if kind == "gemma3":
        config, tensors = gemma.text_model(config, tensors)
        said, kind = None, "gemma3_text"
    files = named(options.tokenizer) if options.tokenizer else from_directory(path, rows=whole(config, "vocab_size"))
    if files.chat_template is None:
        files = replace(files, chat_template=default_template(files))
    architecture, weights, reference = FAMILIES[kind](config, tensors, files)
    # an id outside the vocabulary is a default that nobody adjusted: it can never be sampled
    end_tokens = tuple(token for token in _end_tokens(path, config, files) if token < architecture.vocabulary_size)
    files = replace(files, end_tokens=end_tokens)
    return Checkpoint(
        path, architecture, weights, files, frameworks.huggingface(path, said, reference, architecture.vocabulary_size)
    )


def _kind(config: Mapping[str, Any]) -> str:
    """The model type. Raises CheckpointError if it is not supported."""
    demand(config, "quantization_config", None)
    kind = config.get("model_type")
    if kind is None and config.keys() >= OLD_GPT2:
        return "gpt2"
    if isinstance(kind, str) and (kind in FAMILIES or kind == "gemma3"):
        return kind
    asked = f"its configuration says model_type = {shown(kind)}"
    counts = [config.get(key) for key in EXPERTS]
    if "moe" in str(kind) or any(isinstance(count, int) and count > 0 for count in counts):
        raise CheckpointError(f"{asked}, a mixture of experts, which is not served yet")
    if any(key in config for key in OTHER_SENSES):
        raise CheckpointError(f"{asked}, a model of more than text, which is not served yet")
    raise CheckpointError(f"{asked}, which is not implemented; served are {', '.join(sorted(FAMILIES, key=str.lower))}")


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
