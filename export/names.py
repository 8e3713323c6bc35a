"""The names that a user may give, with the words in which they are refused. Standard library only, so that a set-up can ask."""

import re
from pathlib import Path

AUTO = "auto"  # by what the checkpoint is and what will compute it: export/precision.py
PRECISIONS = (AUTO, "fp32", "int8", "int8-row", "int4", "fp16")
MODEL_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
MODEL_NAME_ALLOWED = "letters, digits, '_', '.' and '-', the first of them a letter, a digit or '_'"
STANDING_FOR_DIRECTORIES = {"config.json", "model.safetensors", "pytorch_model.bin", "lit_model.pth", "model_config.yaml"}
CHECKPOINT_SUFFIXES = {".pt", ".pth", ".gguf", ".bin", ".ckpt", ".safetensors"}


def default_name(checkpoint: Path) -> str:
    """`log/model_40000.pt` → `model_40000`, `SmolLM2-135M-Instruct.Q4_1.gguf` → `smollm2-135m-instruct-q4_1`. A file that all
    models have stands for its directory, and a directory of the hub's cache for the model: `models--Qwen--Qwen3-0.6B` →
    `qwen3-0-6b`."""
    if checkpoint.name in STANDING_FOR_DIRECTORIES:
        checkpoint = checkpoint.absolute().parent
    cached = (part for part in reversed(checkpoint.parts) if part.startswith("models--"))
    checkpoint = next((Path(part.rpartition("--")[2]) for part in cached), checkpoint)
    stem = checkpoint.stem if checkpoint.suffix in CHECKPOINT_SUFFIXES else checkpoint.name
    return re.sub(r"[^a-z0-9_]+", "-", stem.lower()).strip("-") or "model"
