"""Names that users may pass, and the wording for rejecting them. Standard library only, so that the set-up can use it."""

import os
import re
from pathlib import Path

AUTO = "auto"  # chosen by checkpoint and hardware: export/precision.py
PRECISIONS = (AUTO, "fp32", "int8", "int8-row", "int4", "fp16")
MODEL_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
MODEL_NAME_ALLOWED = "letters, digits, '_', '.' and '-', the first of them a letter, a digit or '_'"
SUFFIXES = {".pt", ".pth", ".gguf", ".bin", ".ckpt", ".safetensors", ".json", ".yaml"}
# Stems that say nothing about a model: the directory's name is used instead.
SAYING_NOTHING = re.compile(
    r"(ckpt|checkpoint|(pytorch_|lit_)?model(_config)?|config|weights|best|final|last|latest|"
    r"out|output|logs?|ckpts|checkpoints|models)(-\d+-of-\d+)?(\.(safetensors|bin)\.index)?",
    re.IGNORECASE,
)
PLACES = {"", "data", "downloads", "home", "mnt", "root", "tmp"}  # generic directories: never a model's name


def default_name(checkpoint: Path) -> str:
    """`log/model_40000.pt` → `model_40000`, `SmolLM2-135M-Instruct.Q4_1.gguf` → `smollm2-135m-instruct-q4_1`,
    `out-shakespeare-char/ckpt.pt` → `out-shakespeare-char`, `nanoGPT/out/ckpt.pt` → `nanogpt`, and in the hub's cache
    `models--Qwen--Qwen3-0.6B` → `qwen3-0-6b`."""
    cached = (part for part in reversed(checkpoint.parts) if part.startswith("models--"))
    name = next((part.rpartition("--")[2] for part in cached), None) or _telling(Path(os.path.abspath(checkpoint)))
    return re.sub(r"[^a-z0-9_]+", "-", name.lower()).strip("-") or "model"


def _telling(path: Path) -> str:
    """The name of the file or directory, or of its nearest meaningful ancestor; its own name if there is none."""
    own = path.stem if path.suffix in SUFFIXES else path.name
    if not SAYING_NOTHING.fullmatch(own):
        return own
    directory = next(directory for directory in path.parents if not SAYING_NOTHING.fullmatch(directory.name))
    return own if directory.name.lower() in PLACES or directory == Path.home() else directory.name
