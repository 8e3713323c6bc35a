"""The Qwen3Model of Sebastian Raschka's books (rasbt/LLMs-from-scratch, rasbt/reasoning-from-scratch): a bare state dict.

No file stores its constants: they are those of Qwen's dense models, the origin of its weights.
"""

from collections.abc import Mapping
from dataclasses import replace
from math import prod
from pathlib import Path

from export.checkpoint import Architecture, Checkpoint, CheckpointError, TokenizerFiles
from export.checkpoints import bare, gpt2
from export.checkpoints.canonical import Canonical
from export.checkpoints.options import Options
from export.checkpoints.rotary import rotary
from export.checkpoints.settings import checked
from export.checkpoints.tensors import RawTensor, Weights
from export.references.llms_from_scratch import Qwen3FromScratch
from export.text.default_templates import CHATML
from export.text.tokenizer_source import named
from export.text.tokenizers import vocabulary_size

THETA, EPSILON, CONTEXT_LENGTH = 1e6, 1e-6, 40960
BASE, CHAT = "tokenizer-base.json", ("tokenizer.json", "tokenizer-reasoning.json")  # the names the books download them as


def recognises(tensors: Mapping[str, RawTensor]) -> bool:
    return "trf_blocks.0.att.q_norm.scale" in tensors and "trf_blocks.0.ff.fc1.weight" in tensors


def read(path: Path, tensors: Mapping[str, RawTensor], options: Options) -> Checkpoint:
    rows, width = bare.matrix(tensors, "tok_emb.weight")
    files = named(options.tokenizer) if options.tokenizer else _tokenizer(path, rows)
    head_dim = max(prod(tensors["trf_blocks.0.att.q_norm.scale"].shape), 1)
    heads, kv_heads = (
        max(bare.matrix(tensors, f"trf_blocks.0.att.{name}.weight")[0] // head_dim, 1) for name in ("W_query", "W_key")
    )
    architecture = checked(
        Architecture(
            layers=bare.layer_count(tensors, "trf_blocks."),
            heads=heads,
            kv_heads=kv_heads,
            head_dim=head_dim,
            width=width,
            mlp_width=bare.matrix(tensors, "trf_blocks.0.ff.fc1.weight")[0],
            vocabulary_size=vocabulary_size(files, rows),
            context_length=CONTEXT_LENGTH,
            norm="rms",
            norm_epsilon=EPSILON,
            activation="silu",
            rotary=(rotary(head_dim, THETA),),
        )
    )
    run = gpt2.reference(Qwen3FromScratch, tensors, architecture, theta=THETA)
    return Checkpoint(path, architecture, _weights(tensors, architecture, rows), files, run)


def _weights(tensors: Mapping[str, RawTensor], architecture: Architecture, rows: int) -> Weights:
    out = Canonical(tensors, architecture, rows, biases=False)
    out.embedding("tok_emb.weight")
    out.norm("final_norm", "final_norm.scale")
    out.head("out_head.weight", "tok_emb.weight")
    for layer in range(architecture.layers):
        name, raw = f"layers.{layer}", f"trf_blocks.{layer}"
        out.norm(f"{name}.attention_norm", f"{raw}.norm1.scale")
        out.norm(f"{name}.mlp_norm", f"{raw}.norm2.scale")
        out.qkv(f"{name}.qkv", [f"{raw}.att.{part}.weight" for part in ("W_query", "W_key", "W_value")])
        for norm in ("q_norm", "k_norm"):
            out.norm(f"{name}.{norm}", f"{raw}.att.{norm}.scale", size=architecture.head_dim)
        out.attention_out(name, f"{raw}.att.out_proj.weight")
        out.gated_mlp(name, *(f"{raw}.ff.{part}.weight" for part in ("fc1", "fc2", "fc3")))
    return out.weights(ignored=("out_head.weight",))


def _tokenizer(path: Path, rows: int) -> TokenizerFiles:
    """The base tokenizer if the file is a base model; otherwise the chat tokenizer, with its prompt."""
    is_base = "base" in path.stem
    for name in (BASE,) if is_base else CHAT:
        if (file := path.parent / name).is_file():
            files = named(str(file))
            return files if is_base else replace(files, chat_template=CHATML)
    looked_for = BASE if is_base else " and ".join(CHAT)
    raise CheckpointError(f"its tokenizer of {rows} tokens is missing: looked for {looked_for} beside it; name it by TOKENIZER")
