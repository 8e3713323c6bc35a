"""Tiny models under llama2.c's names, in the files that its scripts write."""

import struct
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tests.export.samples import Logits, drawn, logits_of

State = dict[str, torch.Tensor]
LETTERS = "abcdefghijklmnopqrstuvwxyz"
WORDS = ["th", "the", " th", " the", "an", "in", "ing", " a", " an", " w"]
PIECES = ["<unk>", "\n<s>\n", "\n</s>\n", *(f"<0x{byte:02X}>" for byte in range(256)), " ", *LETTERS, *WORDS]
ROWS = len(PIECES)
TOKENS = [1, *np.random.default_rng(5).integers(3, ROWS, 40).tolist()]
SIZES = {"dim": 32, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "vocab_size": ROWS, "multiple_of": 16, "max_seq_len": 64}


def write_tokenizer(path: Path, pieces: list[str] = PIECES) -> None:
    """As llama2.c's tokenizer.py: letters before words, a word the better the earlier."""
    texts = [piece.encode() for piece in pieces]
    content = struct.pack("<I", max(map(len, texts)))
    for number, text in enumerate(texts):
        content += struct.pack("<fI", 0.0 if number < 259 else 259.0 - number, len(text)) + text
    path.write_bytes(content)


def llama(*, tied: bool = True, kv_heads: int = 2, seed: int = 0) -> tuple[State, Logits]:
    """Random weights under llama2.c's names, and what transformers makes of them."""
    config = LlamaConfig(
        vocab_size=ROWS,
        hidden_size=32,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=kv_heads,
        max_position_embeddings=64,
        rms_norm_eps=1e-5,
        tie_word_embeddings=tied,
    )
    model = drawn(LlamaForCausalLM(config), seed)
    own = model.state_dict()
    state = {"tok_embeddings.weight": own["model.embed_tokens.weight"]}
    for layer in range(2):
        theirs, here = f"model.layers.{layer}", f"layers.{layer}"
        state[f"{here}.attention.wq.weight"] = neighbours(own[f"{theirs}.self_attn.q_proj.weight"], 4)
        state[f"{here}.attention.wk.weight"] = neighbours(own[f"{theirs}.self_attn.k_proj.weight"], kv_heads)
        state[f"{here}.attention.wv.weight"] = own[f"{theirs}.self_attn.v_proj.weight"]
        state[f"{here}.attention.wo.weight"] = own[f"{theirs}.self_attn.o_proj.weight"]
        for name, module in (("w1", "gate_proj"), ("w2", "down_proj"), ("w3", "up_proj")):
            state[f"{here}.feed_forward.{name}.weight"] = own[f"{theirs}.mlp.{module}.weight"]
        state[f"{here}.attention_norm.weight"] = own[f"{theirs}.input_layernorm.weight"]
        state[f"{here}.ffn_norm.weight"] = own[f"{theirs}.post_attention_layernorm.weight"]
    state |= {"norm.weight": own["model.norm.weight"], "output.weight": own["lm_head.weight"]}
    return state, logits_of(model)


def neighbours(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """transformers' rows of each head in Meta's order."""
    return weight.view(heads, 2, -1, weight.shape[1]).transpose(1, 2).reshape(weight.shape).contiguous()


def write_checkpoint(directory: Path, state: State, **model_args: Any) -> Path:
    """As llama2.c's train.py: out/ckpt.pt, and the tokenizer in data/."""
    (directory / "out").mkdir(exist_ok=True)
    (directory / "data").mkdir(exist_ok=True)
    write_tokenizer(directory / "data" / f"tok{ROWS}.bin")
    saved = {
        "model": state,
        "optimizer": {},
        "model_args": SIZES | model_args,
        "iter_num": 1,
        "best_val_loss": torch.tensor(9.0),
    }
    torch.save(saved | {"config": {"vocab_source": "custom"}}, directory / "out" / "ckpt.pt")
    return directory / "out" / "ckpt.pt"


def write_bare(directory: Path, state: State, name: str = "model.pth") -> Path:
    write_tokenizer(directory / "tokenizer.bin")
    torch.save(state, directory / name)
    return directory / name


def write_bin(path: Path, state: State, version: int, *, tied: bool, kv_heads: int = 2, group: int = 16) -> Path:
    """As llama2.c's export.py."""

    def of_layers(*kinds: str) -> list[str]:
        return [f"layers.{layer}.{kind}.weight" for kind in kinds for layer in range(2)]

    matrices = [
        *(f"attention.{name}" for name in ("wq", "wk", "wv", "wo")),
        *(f"feed_forward.{name}" for name in ("w1", "w2", "w3")),
    ]
    rows = -ROWS if version == 0 and not tied else ROWS
    numbers = struct.pack("<7i", 32, 96, 2, 4, kv_heads, rows, 64)
    if version == 0:
        content = numbers
        names = [
            "tok_embeddings.weight",
            *of_layers("attention_norm", *matrices[:4], "ffn_norm", *matrices[4:]),
            "norm.weight",
            "tables",
        ]
    else:
        flags = struct.pack("<B", tied) + (struct.pack("<i", group) if version == 2 else b"")
        content = (struct.pack("<Ii", 0x616B3432, version) + numbers + flags).ljust(256, b"\0")
        names = [*of_layers("attention_norm", "ffn_norm"), "norm.weight", "tok_embeddings.weight", *of_layers(*matrices)]
    for name in [*names, *["output.weight"] * (not tied)]:
        tensor = torch.zeros(2, 64, 4) if name == "tables" else state[name]
        quantized = version == 2 and tensor.dim() > 1
        content += b"".join(part.tobytes() for part in q80(tensor, group)) if quantized else tensor.numpy().tobytes()
    path.write_bytes(content)
    return path


def q80(tensor: torch.Tensor, group: int) -> tuple[np.ndarray, np.ndarray]:
    groups = tensor.reshape(-1, group)
    scales = groups.abs().amax(1) / 127
    return torch.round(groups / scales[:, None]).to(torch.int8).numpy(), scales.numpy()
