"""Models with llama2.c's tensor names: its `ckpt.pt`, and bare state dicts of projects derived from it.

The names originate from Meta's Llama. Rotary pairs are adjacent rows of a head.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from export.checkpoint import Architecture, Checkpoint, CheckpointError, TokenizerFiles
from export.checkpoints import bare, nearby, torch_file
from export.checkpoints.canonical import Canonical
from export.checkpoints.options import Options
from export.checkpoints.rotary import half_split, rotary
from export.checkpoints.settings import LAYERS, checked, head_dim, real, whole
from export.checkpoints.tensors import RawTensor, Weights
from export.references.llama2c import Llama2c
from export.text.tokenizer_source import named
from export.text.tokenizers import vocabulary_size

EMBEDDING = "tok_embeddings.weight"
MASKS = (".attention.mask",)  # causal masks, saved as buffers when torch had no fused attention
TABLES = ("freqs_cos", "freqs_sin")  # rotary tables
CHATGLM = "chatglm_tokenizer"  # baby-llama2-chinese's
CHATGLM_TEMPLATE = (  # from its sft.py
    "{% for message in messages %}{{ message['content'] }}"
    "{{ bos_token if message['role'] == 'user' else eos_token }}{% endfor %}"
)


@dataclass(frozen=True)
class Project:
    """What a project trains, as far as its files do not say. Its models are recognised by vocabulary and grouping."""

    rows: int
    group: int  # query heads per key-value head
    heads: Mapping[int, int]  # by width
    context_length: int
    theta: float = 10000.0


PROJECTS = (
    Project(6400, 2, {512: 16, 768: 16}, 512),  # minimind-v1
    Project(6400, 4, {512: 8, 640: 8, 768: 8}, 8192, theta=1e6),  # MiniMind2 until April 2025
    Project(6144, 2, {768: 16, 1024: 16}, 512),  # happy-llm
    Project(64793, 1, {512: 8, 1024: 8}, 512),  # baby-llama2-chinese
)
CONTEXT_LENGTH = 512  # for unknown projects: what most of them train with


def recognises(saved: Mapping[str, Any]) -> bool:
    model = saved.get("model", saved)
    return isinstance(model, Mapping) and any(isinstance(name, str) and name.endswith(EMBEDDING) for name in model)


def read(path: Path, saved: dict[str, Any], options: Options) -> Checkpoint:
    is_bare = "model" not in saved
    state = torch_file.state_dict(saved if is_bare else saved["model"], "it" if is_bare else "its `model`")
    tensors = torch_file.raw_tensors(state)
    config = saved.get("model_args")
    if config is not None and not isinstance(config, dict):
        raise CheckpointError("its `model_args` is no dictionary, as llama2.c saves it")
    return checkpoint(path, tensors, _settings(tensors, options) if config is None else config, options)


def _settings(tensors: Mapping[str, RawTensor], options: Options) -> dict[str, Any]:
    """llama2.c's `model_args`, derived from the tensors' shapes and what is known about the project."""
    rows, width = bare.matrix(tensors, EMBEDDING)
    kv_width, _ = bare.matrix(tensors, "layers.0.attention.wk.weight")
    project = next(
        (one for one in PROJECTS if (one.rows, one.group * kv_width) == (rows, width)),
        Project(rows, max(width // kv_width, 1), {}, CONTEXT_LENGTH),
    )
    heads = bare.heads(options, width, project.heads.get(width))
    return {
        "dim": width,
        "n_layers": bare.layer_count(tensors, "layers."),
        "n_heads": heads,
        "n_kv_heads": kv_heads(kv_width, head_dim(width, heads)),
        "vocab_size": rows,
        "max_seq_len": project.context_length,
        "rope_theta": project.theta,
    }


def kv_heads(kv_width: int, head_dim: int) -> int:
    """For a file that does not store head counts; ``kv_width`` is kv_heads · head_dim."""
    if kv_width % head_dim:
        raise CheckpointError(
            f"its keys have {kv_width} rows, which are no heads of {head_dim}: HEADS (--heads) is another number"
        )
    return kv_width // head_dim


def checkpoint(path: Path, tensors: Mapping[str, RawTensor], settings: Mapping[str, Any], options: Options) -> Checkpoint:
    """``settings``: llama2.c's `model_args`."""
    tokenizer = _tokenizer(path, whole(settings, "vocab_size"), options)
    architecture, weights, reference = assembled(tensors, settings, tokenizer)
    return Checkpoint(
        path, architecture, weights, tokenizer, lambda tokens: reference(tokens)[:, : architecture.vocabulary_size]
    )


def _tokenizer(path: Path, rows: int, options: Options) -> TokenizerFiles:
    if options.tokenizer:
        file, tokenizer = Path(options.tokenizer), named(options.tokenizer)
    else:
        file, tokenizer = nearby.tokenizer(path, _tokenizer_names(rows), rows)
    if file.parent.name == CHATGLM:  # no BOS at the start; BOS separates a question from its answer
        is_tuned = any("sft" in part for part in path.parts[-2:])
        return replace(named(str(file), add_bos=False), chat_template=CHATGLM_TEMPLATE if is_tuned else None)
    # llama2.c's sequences have no end token: the BOS of the next one ends them, as in run.c
    bos = tokenizer.added_tokens.get("<s>")
    return tokenizer if bos is None else replace(tokenizer, end_tokens=tuple(sorted({*tokenizer.end_tokens, bos})))


def _tokenizer_names(rows: int) -> list[str]:
    own = [f"{directory}{name}" for name in (f"tok{rows}", "tokenizer") for directory in ("", "data/")]
    directories = ("", "tokenizer_k/", "model/minimind_tokenizer/", "model/")  # includes happy-llm's and minimind's
    return [f"{name}.{kind}" for name in own for kind in ("model", "bin")] + [
        *(f"{directory}tokenizer.json" for directory in directories),
        f"{CHATGLM}/tokenizer.model",
    ]


def assembled(
    tensors: Mapping[str, RawTensor], settings: Mapping[str, Any], tokenizer: TokenizerFiles
) -> tuple[Architecture, Weights, Llama2c]:
    if any(".feed_forward.experts." in name for name in tensors):
        raise CheckpointError("it is a mixture of experts, which is not served yet")
    heads, width, rows = whole(settings, "n_heads"), whole(settings, "dim"), whole(settings, "vocab_size")
    size, theta = head_dim(width, heads), real(settings, "rope_theta", 10000.0)
    if theta <= 1:
        raise CheckpointError(f"its configuration says rope_theta = {theta}, allowed are numbers above 1")
    architecture = checked(
        Architecture(
            layers=whole(settings, "n_layers", limit=LAYERS),
            heads=heads,
            kv_heads=whole(settings, "n_kv_heads", default=heads),
            head_dim=size,
            width=width,
            mlp_width=bare.matrix(tensors, "layers.0.feed_forward.w1.weight")[0],
            vocabulary_size=vocabulary_size(tokenizer, rows),
            context_length=whole(settings, "max_seq_len", default=2048),
            norm="rms",
            norm_epsilon=real(settings, "norm_eps", 1e-5),
            activation="silu",
            rotary=(rotary(size, theta),),
        )
    )
    reference = Llama2c.of(tensors, architecture, theta=theta)
    return architecture, _weights(tensors, architecture, rows), reference


def _weights(tensors: Mapping[str, RawTensor], architecture: Architecture, rows: int) -> Weights:
    out, turn = Canonical(tensors, architecture, rows, biases=False), partial(half_split, neighbours=True)
    out.embedding(EMBEDDING)
    out.norm("final_norm", "norm.weight")
    out.head("output.weight", EMBEDDING)
    for layer in range(architecture.layers):
        name = f"layers.{layer}"
        out.norm(f"{name}.attention_norm", f"{name}.attention_norm.weight")
        out.norm(f"{name}.mlp_norm", f"{name}.ffn_norm.weight")
        out.qkv(f"{name}.qkv", [f"{name}.attention.w{letter}.weight" for letter in "qkv"], turn)
        out.attention_out(name, f"{name}.attention.wo.weight")
        gate, down, up = (f"{name}.feed_forward.w{number}.weight" for number in (1, 2, 3))
        out.gated_mlp(name, gate, up, down)
    return out.weights(ignored=(*MASKS, *TABLES, "output.weight"))  # a tied head may be saved twice
