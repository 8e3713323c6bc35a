"""Tiny models that transformers makes itself, and whether they are served as it computes them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from export.checkpoint import Checkpoint
from export.checkpoints import read
from export.references import frameworks
from tests.export.families import assert_same_logits, decoder_of, greedy, prefill
from tests.export.samples import drawn, logits_of, save_tokenizer, small_tokenizer

COUNT = small_tokenizer().get_vocab_size()
TOKENS = [int(token) for token in np.random.default_rng(3).integers(0, COUNT, 48)]
SIZES: dict[str, Any] = {
    "vocab_size": COUNT + 7,  # the embedding is padded
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "pad_token_id": 1,
}


def saved(model_type: str, directory: Path, **config: Any) -> Any:
    """The model that ``directory`` holds afterwards. ``config`` overrides its sizes."""
    model = drawn(AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **SIZES | config)), seed=len(config))
    model.save_pretrained(directory)
    save_tokenizer(directory)
    return model


def edit(directory: Path, drop: tuple[str, ...] = (), **settings: Any) -> None:
    path = directory / "config.json"
    config = {key: value for key, value in json.loads(path.read_text()).items() if key not in drop}
    path.write_text(json.dumps(config | settings))


def assert_as_transformers(directory: Path, model: nn.Module) -> Checkpoint:
    """The graph in chunks and one by one, and the reference in numpy, say what transformers' model says."""
    expected = logits_of(model)(np.array(TOKENS))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(frameworks, "find_spec", lambda name: None)
        checkpoint = read(directory)
        assert_same_logits(checkpoint.reference(np.array(TOKENS)), expected)
    decoder = decoder_of(checkpoint, directory)
    logits = prefill(decoder, TOKENS, chunk=13)
    assert_same_logits(logits, expected)
    tokens = greedy(decoder, logits[-1], len(TOKENS), 8)
    assert tokens == own_tokens(model, TOKENS, 8, columns=logits.shape[1])
    return checkpoint


def own_tokens(model: nn.Module, prompt: list[int], count: int, *, columns: int) -> list[int]:
    """Those that the model finds most probable, without a cache, one after the other."""
    tokens = list(prompt)
    while len(tokens) < len(prompt) + count:
        tokens.append(int(logits_of(model)(np.array(tokens))[-1, :columns].argmax()))
    return tokens[len(prompt) :]
