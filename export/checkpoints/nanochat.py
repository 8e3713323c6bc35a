"""nanochat's checkpoints: `model_NNNNNN.pt` with `meta_NNNNNN.json`, and the tokenizer trained for it.

Source: nanochat/checkpoint_manager.py for file locations, tokenizer.py for conversations.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, processors

from export.checkpoint import Checkpoint, CheckpointError, TokenizerFiles, shown
from export.checkpoints import nearby, torch_file
from export.checkpoints.nanochat_model import assembled
from export.checkpoints.options import Options
from export.checkpoints.settings import whole
from export.text.tokenizer_source import named
from export.text.tokenizers import vocabulary_size
from export.text_file import read_object

MODEL = re.compile(r"model_(\d+)\.pt")
# training stages in nanochat's order of preference for chat: directories of models; since July 2026, nested inside them
STAGES = ("chatsft_checkpoints", "chatrl_checkpoints", "mid_checkpoints", "base_checkpoints", "sft", "rl", "mid", "base")
TOKENIZERS = ("tokenizer/tokenizer.pkl", "tokenizer.pkl", "tokenizer/tokenizer.json", "tokenizer.json")
KEYS = {"sequence_len", "vocab_size", "n_layer", "n_head", "n_kv_head", "n_embd", "window_pattern"}

BOS, ASSISTANT_END = "<|bos|>", "<|assistant_end|>"
CHAT_TEMPLATE = (  # from render_conversation; a system message is prepended to the user's
    "<|bos|>{% set system = namespace(text='') %}{% for message in messages %}"
    "{% if message['role'] in ('system', 'developer') %}{% set system.text = system.text + message['content'] + '\\n\\n' %}"
    "{% elif message['role'] == 'user' %}<|user_start|>{{ system.text + message['content'] }}<|user_end|>"
    "{% set system.text = '' %}"
    "{% elif message['role'] == 'assistant' %}<|assistant_start|>{{ message['content'] }}<|assistant_end|>"
    "{% else %}{{ raise_exception('nanochat knows the roles system, user and assistant') }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant_start|>{% endif %}"
)
CHAT_TOKENS = re.findall(r"<\|\w+\|>", CHAT_TEMPLATE)


def find(path: Path) -> Path | None:
    """The newest model in a directory, or else in the subdirectory of the deepest model or the last training stage."""
    if not os.path.isdir(path):  # Path.is_dir may raise for another user's directory
        return None
    if (found := _newest(path) or _of_last_stage(path)) is not None:
        return found
    tags = [(_depth(tag), tag.stat().st_mtime, tag) for tag in path.iterdir() if tag.is_dir()]
    return next((found for *_, tag in sorted(tags, reverse=True) if (found := _newest(tag) or _of_last_stage(tag))), None)


def _of_last_stage(directory: Path) -> Path | None:
    return next((found for stage in STAGES if (found := find(directory / stage)) is not None), None)


def _newest(directory: Path) -> Path | None:
    """By step. A model without its meta_NNNNNN.json is still being written, or another project's."""
    steps = {int(name[1]): file for file in directory.glob("model_*.pt") if (name := MODEL.fullmatch(file.name))}
    complete = [step for step, file in steps.items() if _meta(file).is_file()]
    return steps[max(complete)] if complete else None


def _depth(tag: Path) -> int:
    depth = re.match(r"d(\d+)", tag.name)
    return int(depth[1]) if depth else -1


def _meta(model: Path) -> Path:
    return model.with_name(f"{model.stem.replace('model', 'meta', 1)}.json")


def recognises(saved: Mapping[str, Any]) -> bool:
    return any(isinstance(name, str) and name.endswith("transformer.h.0.attn.c_q.weight") for name in saved)


def read(path: Path, saved: dict[str, Any], options: Options) -> Checkpoint:
    config = _config(path)
    tensors = torch_file.raw_tensors(torch_file.state_dict(saved, "it"))
    vocabulary = whole(config, "vocab_size")
    files = named(options.tokenizer) if options.tokenizer else nearby.tokenizer(path, TOKENIZERS, vocabulary)[1]
    tokenizer = with_chat(files)
    if vocabulary_size(tokenizer, vocabulary) < vocabulary:
        raise CheckpointError(
            f"its vocabulary has {vocabulary} tokens, its tokenizer names fewer: it is another model's; "
            "name the tokenizer it was trained with (TOKENIZER)"
        )
    shape, weights, reference = assembled(config, tensors)
    return Checkpoint(path, shape, weights, tokenizer, lambda tokens: reference(tokens)[:, :vocabulary])


def _config(path: Path) -> dict[str, Any]:
    meta = _meta(path)
    if not meta.is_file():
        name = meta.name if MODEL.fullmatch(path.name) else "meta_NNNNNN.json"
        raise CheckpointError(f"it lacks {name}, which nanochat writes beside it and which says how many heads it has")
    config = read_object(meta).get("model_config")
    if not isinstance(config, dict):
        raise CheckpointError(f"its {meta.name} has no model_config, as nanochat writes it")
    if unknown := [key for key, value in config.items() if key not in KEYS and value]:
        raise CheckpointError(f"its {meta.name} asks for {shown(unknown[0])}, which nanochat's model_config does not have")
    return config


def with_chat(files: TokenizerFiles) -> TokenizerFiles:
    """If the tokenizer has nanochat's special tokens, adds its chat template and a `<|bos|>` before each sequence."""
    tokenizer = Tokenizer.from_str(files.tokenizer_json)
    ids = {text: number for text in CHAT_TOKENS if (number := tokenizer.token_to_id(text)) is not None}
    if len(ids) < len({*CHAT_TOKENS}):
        return files
    pair = f"{BOS} $A {BOS}:1 $B:1"
    tokenizer.post_processor = processors.TemplateProcessing(f"{BOS} $A", pair, [(BOS, ids[BOS])])
    return replace(
        files,
        tokenizer_json=tokenizer.to_str(),
        chat_template=files.chat_template or CHAT_TEMPLATE,
        end_tokens=tuple(sorted({*files.end_tokens, ids[BOS], ids[ASSISTANT_END]})),
        special_tokens={"bos_token": BOS, "eos_token": ASSISTANT_END, **files.special_tokens},
    )
