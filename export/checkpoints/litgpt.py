"""litgpt's directories: `lit_model.pth`, `model_config.yaml`, tokenizer files."""

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from math import sqrt
from pathlib import Path

import numpy as np

from export.checkpoint import Architecture, Checkpoint, CheckpointError, TokenizerFiles
from export.checkpoints import torch_file
from export.checkpoints.canonical import Canonical, Turn
from export.checkpoints.litgpt_config import Settings, architecture, flag, model_name, rows, settings, turned
from export.checkpoints.options import Options
from export.checkpoints.rotary import half_split
from export.checkpoints.tensors import RawTensor, Weights
from export.own_files import require_own_files
from export.references.litgpt import LitGpt
from export.text.default_templates import default_template
from export.text.tokenizer_source import from_directory, named
from export.text.tokenizers import token_count, vocabulary_size
from export.text_file import read_object, read_text

MODEL, CONFIG, STYLE = "lit_model.pth", "model_config.yaml", "prompt_style.yaml"
PARTS = tuple(f"{MODEL}.{kind}" for kind in ("lora", "adapter", "adapter_v2"))  # adapters, saved without their base model
INSIDE = (MODEL, CONFIG, STYLE, *PARTS)
STEP = re.compile(r"step-(\d{1,12})")
TOKENIZERS = ("tokenizer.json", "tokenizer.model")
ALPACA = Path(__file__).parents[1] / "text" / "alpaca.jinja"
ALPACA_STYLES = ("Alpaca", "FLAN", "Longform")
EMBEDDING, HEAD = "transformer.wte.weight", "lm_head.weight"


def find(path: Path) -> Path | None:
    """The directory itself, or in it the training result: `final`, else the last `step-…`."""
    steps = {int(found[1]): entry for entry in path.iterdir() if (found := STEP.fullmatch(entry.name))}
    candidates = (path, path / "final", *(steps[number] for number in sorted(steps, reverse=True)))
    return next((one for one in candidates if any((one / name).is_file() for name in (MODEL, *PARTS))), None)


def read(path: Path, options: Options) -> Checkpoint:
    require_own_files(path)
    if not (path / MODEL).is_file():
        way_out = f"`litgpt merge_lora {path}` makes it of a LoRA, other adapters are not served"
        raise CheckpointError(f"it lacks {MODEL}: {way_out}")
    if not (path / CONFIG).is_file():
        raise CheckpointError(f"it lacks {CONFIG}, which litgpt writes beside {MODEL}")
    config = settings(path / CONFIG)
    files = named(options.tokenizer) if options.tokenizer else _tokenizer(path, rows(config))
    shape = architecture(config, vocabulary_size(files, rows(config)))
    saved = torch_file.load(path / MODEL)
    tensors = torch_file.raw_tensors(torch_file.state_dict(saved.get("model", saved), f"its {MODEL}"))
    if any(".lora_" in name for name in tensors):
        raise CheckpointError(f"its {MODEL} holds a LoRA beside the model: `litgpt merge_lora` makes one of both")
    if HEAD not in tensors:
        raise CheckpointError(f"it lacks the tensor {HEAD}")
    run = LitGpt.of(
        tensors,
        shape,
        config=config,
        model=model_name(config),
    )
    return Checkpoint(
        path, shape, _weights(config, tensors, shape), files, lambda tokens: run(tokens)[:, : shape.vocabulary_size]
    )


def _tokenizer(path: Path, rows: int) -> TokenizerFiles:
    """Includes the prompt style of fine-tuning, if it is a known one, and the end tokens from generation_config.json."""
    if not any((path / name).is_file() for name in TOKENIZERS):
        raise CheckpointError(f"it has neither {' nor '.join(TOKENIZERS)}: name the tokenizer it was trained with (TOKENIZER)")
    files = from_directory(path, rows=rows)
    template = files.chat_template or default_template(files)
    if (path / STYLE).is_file() and str(settings(path / STYLE).get("class_path")).rpartition(".")[2] in ALPACA_STYLES:
        end = "eos_token" if "eos_token" in files.special_tokens else "''"
        template = read_text(ALPACA).replace("'<|endoftext|>'", end)
    end_tokens = {*files.end_tokens, *_end_tokens(path, token_count(files))}
    return replace(files, chat_template=template, end_tokens=tuple(sorted(end_tokens)))


def _end_tokens(path: Path, count: int) -> list[int]:
    """Empty if the file is damaged: Llama 3.2's is not valid JSON."""
    try:
        declared = read_object(path / "generation_config.json").get("eos_token_id")
    except CheckpointError:
        return []
    tokens = declared if isinstance(declared, list) else [declared]
    return [token for token in tokens if type(token) is int and 0 <= token < count]


def _weights(config: Settings, tensors: Mapping[str, RawTensor], shape: Architecture) -> Weights:
    out = Canonical(tensors, shape, rows(config))
    scale = sqrt(shape.width) if flag(config, "scale_embeddings", False) else 1.0
    out.embedding(EMBEDDING, lambda weight: weight * np.float32(scale))
    out.head(HEAD, EMBEDDING)
    is_tied = "head.weight" not in out.sources
    _norm(out, config, "final_norm", "transformer.ln_f", divisor=scale if is_tied else 1.0)
    for layer in range(shape.layers):
        _layer(out, config, f"layers.{layer}", f"transformer.h.{layer}")
    return out.weights(ignored=(HEAD,))  # a tied head is saved too


def _layer(out: Canonical, config: Settings, name: str, raw: str) -> None:
    shared = flag(config, "shared_attention_norm", False)
    norms = {
        "attention_norm": ("norm_1", flag(config, "norm_1", True)),
        "attention_out_norm": ("post_attention_norm", flag(config, "post_attention_norm", False)),
        "mlp_norm": ("norm_2", flag(config, "norm_2", True) and not shared),
        "mlp_out_norm": ("post_mlp_norm", flag(config, "post_mlp_norm", False)),
    }
    for canonical, (part, present) in norms.items():
        if present:
            _norm(out, config, f"{name}.{canonical}", f"{raw}.{part}")
    _attention(out, config, name, f"{raw}.attn")
    if config.get("mlp_class_name", "GptNeoxMLP") == "GptNeoxMLP":
        out.mlp(name, f"{raw}.mlp.fc.weight", f"{raw}.mlp.proj.weight")
    else:
        out.gated_mlp(name, *(f"{raw}.mlp.{part}.weight" for part in ("fc_1", "fc_2", "proj")))


def _norm(out: Canonical, config: Settings, name: str, raw: str, *, divisor: float = 1.0) -> None:
    """Gemma's weights are stored without the 1 that is added to them; OLMo's layer norms have no weights."""
    if out.architecture.norm == "layer" and "OLMo" in model_name(config):
        return out.ones(name)
    offset = np.float32(out.architecture.norm == "rms" and "Gemma" in model_name(config))
    out.norm(name, f"{raw}.weight", lambda weight: (weight + offset) / np.float32(divisor))


def _attention(out: Canonical, config: Settings, name: str, raw: str) -> None:
    shape = out.architecture
    turn = partial(half_split, turned=turned(config, shape.head_dim), neighbours=flag(config, "rope_interleave", False))
    by_group = f"{raw}.attn.weight" in out.tensors  # the layout of versions before December 2024
    groups = shape.kv_heads if by_group else 1
    queries, keys = shape.heads // groups, shape.kv_heads // groups

    def arrange(stacked: np.ndarray) -> np.ndarray:
        heads = stacked.reshape(groups, -1, shape.head_dim, *stacked.shape[1:])  # in each group: queries, keys, values
        parts = np.split(heads, [queries, queries + keys], axis=1)
        query, key, value = (part.reshape(-1, *stacked.shape[1:]) for part in parts)
        return np.concatenate([turn(query, shape.heads), turn(key, shape.kv_heads), value])

    out.stacked_qkv(f"{name}.qkv", f"{raw}.{'attn' if by_group else 'qkv'}.weight", arrange)
    out.attention_out(name, f"{raw}.proj.weight")
    if flag(config, "norm_qk", False):
        offset, together = np.float32("Gemma" in model_name(config)), config.get("norm_qk_type") == "olmo2"
        for letter, heads in (("q", shape.heads), ("k", shape.kv_heads)):
            count = heads if together else 1
            fold = partial(_turned_norm, turn=turn, heads=count, offset=offset)
            out.norm(f"{name}.{letter}_norm", f"{raw}.norm_{letter}.weight", fold, size=count * shape.head_dim)


def _turned_norm(weight: np.ndarray, *, turn: Turn, heads: int, offset: np.float32) -> np.ndarray:
    return turn(weight + offset, heads)
