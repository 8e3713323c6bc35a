"""Tiny checkpoints under nanochat's names, as its training scripts leave them."""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch

SPECIAL = ["bos", *(f"{part}_{end}" for part in ("user", "assistant", "python", "output") for end in ("start", "end"))]
PATTERN = (  # of nanochat/tokenizer.py
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,2}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
)
WORDS = [b"th", b"he", b"the", b" the", b"in", b"ing", b"er", b" a", b"an", b"and", b" and"]
VOCABULARY = 256 + len(WORDS) + len(SPECIAL)  # of which 64 is no divisor

# which tensors there are, by the day from which on
GENERATIONS = ("2025-10-13", "2026-01-11", "2026-01-16", "2026-03-09", "2026-03-14")


def pickled(state: Any) -> bytes:
    """A `tiktoken.Encoding` of that state, without tiktoken."""
    return b"\x80\x03ctiktoken.core\nEncoding\n)\x81" + pickle.dumps(state, 3)[2:-1] + b"b."


def encoding(words: list[bytes] = WORDS) -> dict[str, Any]:
    ranks = {token: rank for rank, token in enumerate([*(bytes([byte]) for byte in range(256)), *words])}
    special = {f"<|{name}|>": len(ranks) + number for number, name in enumerate(SPECIAL)}
    return {"name": "rustbpe", "pat_str": PATTERN, "mergeable_ranks": ranks, "special_tokens": special}


def tokenizer(directory: Path, state: Any = None) -> Path:
    path = directory / "tokenizer" / "tokenizer.pkl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickled(state or encoding()))
    return path


def settings(**changes: Any) -> dict[str, Any]:
    sizes = {"sequence_len": 256, "vocab_size": VOCABULARY, "n_layer": 3, "n_head": 4, "n_kv_head": 2, "n_embd": 64}
    return sizes | {"window_pattern": "SL"} | changes


def state_dict(since: str = GENERATIONS[-1], *, seed: int = 3, **changes: Any) -> dict[str, torch.Tensor]:
    """Random tensors, the embeddings in bf16."""
    config, draw = settings(**changes), torch.Generator().manual_seed(seed)
    layers, width, heads = config["n_layer"], config["n_embd"], config["n_head"]
    kv_width, rows = width // heads * config["n_kv_head"], -(-config["vocab_size"] // 64) * 64

    def weight(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=draw) / shape[-1] ** 0.5

    tensors = {"transformer.wte.weight": weight(rows, width).bfloat16(), "lm_head.weight": 8 * weight(rows, width)}
    for layer in range(layers):
        block = f"transformer.h.{layer}"
        sizes = {"q": width, "k": kv_width, "v": kv_width, "proj": width}
        tensors |= {f"{block}.attn.c_{part}.weight": weight(size, width) for part, size in sizes.items()}
        tensors |= {
            f"{block}.mlp.c_fc.weight": weight(4 * width, width),
            f"{block}.mlp.c_proj.weight": weight(width, 4 * width),
        }
        if since >= "2026-01-16" and layer % 2 == (layers - 1) % 2:
            tensors[f"value_embeds.{layer}.weight"] = 4 * weight(rows, kv_width).bfloat16()
            channels = 12 if since >= "2026-03-09" else 32
            tensors[f"{block}.attn.ve_gate.weight"] = 4 * weight(config["n_kv_head"], channels)
    if since >= "2026-01-11":
        tensors["resid_lambdas"] = torch.linspace(1.2, 0.9, layers)
        tensors["x0_lambdas"] = torch.linspace(0.3, 0.1, layers)
    if since >= "2026-03-14":
        tensors["smear_gate.weight"] = 4 * weight(1, 24)
        tensors["smear_lambda"], tensors["backout_lambda"] = torch.tensor([0.9]), torch.tensor([0.2])
    return tensors


def save(directory: Path, tensors: dict[str, torch.Tensor], config: dict[str, Any], step: int = 650) -> Path:
    """Into a dNN: a model with its meta."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"model_{step:06d}.pt"
    torch.save(tensors, path)
    meta = {"step": step, "val_bpb": 1.0, "model_config": config, "user_config": {"run": "dummy"}}
    (directory / f"meta_{step:06d}.json").write_text(json.dumps(meta), encoding="utf-8")
    return path


def base_directory(directory: Path, since: str = GENERATIONS[-1], stage: str = "chatsft_checkpoints", **changes: Any) -> Path:
    """As NANOCHAT_BASE_DIR. Returns the model."""
    tokenizer(directory)
    config = settings(**changes)
    if since < "2026-01-11":
        del config["window_pattern"]
    return save(directory / stage / "d3", state_dict(since, **changes), config)


def text(length: int, *, seed: int = 7) -> list[int]:
    return [*map(int, np.random.default_rng(seed).integers(0, VOCABULARY, length))]
