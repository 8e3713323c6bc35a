"""Gemma 1, 2 and 3: tiny models that transformers makes, in the decoder that serves them."""

import json
import shutil
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig

from export.checkpoint import CheckpointError
from export.checkpoints import read
from export.checkpoints.huggingface.gemma import GEMMA, GEMMA2, GEMMA3
from tests.export.families import assert_as_written, assert_same_logits, decoder_of, prefill, shared
from tests.export.samples import logits_of
from tests.export.test_hf_llama_likes import assert_defaults_of
from tests.export.transformers_models import TOKENS, assert_as_transformers, edit, saved

SLIDING, FULL = "sliding_attention", "full_attention"
SMALL = {"head_dim": 16, "sliding_window": 8}
ROPES = {
    FULL: {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
    SLIDING: {"rope_type": "default", "rope_theta": 500.0},
}
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("gemma", {"head_dim": 24, "num_key_value_heads": 1}),
    ("gemma", {"head_dim": 16, "attention_bias": True, "tie_word_embeddings": False}),
    ("gemma2", SMALL),
    ("gemma2", SMALL | {"head_dim": 24, "query_pre_attn_scalar": 10, "attn_logit_softcapping": 2.0}),
    ("gemma2", SMALL | {"attn_logit_softcapping": None, "final_logit_softcapping": None, "layer_types": [FULL, SLIDING, FULL]}),
    ("gemma3_text", SMALL | {"num_hidden_layers": 7}),
    ("gemma3_text", SMALL | {"head_dim": 24, "layer_types": [FULL, SLIDING, FULL], "final_logit_softcapping": 3.0}),
    ("gemma3_text", SMALL | {"rope_parameters": ROPES, "layer_types": [FULL, SLIDING, FULL], "tie_word_embeddings": False}),
]


@pytest.mark.parametrize(("kind", "config"), VARIANTS, ids=[f"{kind}-{number}" for number, (kind, _) in enumerate(VARIANTS)])
def test_a_gemma_is_served_as_transformers_computes_it(kind: str, config: dict[str, Any], tmp_path: Path) -> None:
    assert_as_transformers(tmp_path, saved(kind, tmp_path, **config))


@pytest.mark.parametrize("config", ["config.json", "config_v4.json"])
def test_gemma_3_says_what_it_said_where_it_was_made(config: str, tmp_path: Path) -> None:
    directory = shutil.copytree(shared("hf-gemma3"), tmp_path / "model")
    (directory / config).rename(directory / "config.json")
    assert_as_written(directory, directory, tmp_path)


def test_the_first_gemmas_say_gelu_and_mean_its_approximation(tmp_path: Path) -> None:
    model = saved("gemma", tmp_path, head_dim=16)
    edit(tmp_path, hidden_act="gelu", hidden_activation=None)
    assert assert_as_transformers(tmp_path, model).architecture.activation == "gelu_tanh"


def test_transformers_4_writes_the_positions_of_gemma_3_side_by_side(tmp_path: Path) -> None:
    model = saved("gemma3_text", tmp_path, **SMALL, rope_parameters=ROPES, layer_types=[SLIDING, FULL, SLIDING])
    edit(
        tmp_path,
        drop=("rope_parameters", "layer_types"),
        rope_theta=1e6,
        rope_local_base_freq=500.0,
        rope_scaling={"rope_type": "linear", "factor": 8.0},
        sliding_window_pattern=2,
    )
    assert_as_transformers(tmp_path, model)


@pytest.mark.parametrize("kind", ["gemma", "gemma2", "gemma3_text"])
def test_what_a_configuration_lacks_is_as_transformers_has_it(kind: str) -> None:
    assert_defaults_of({"gemma": GEMMA, "gemma2": GEMMA2, "gemma3_text": GEMMA3}[kind], AutoConfig.for_model(kind))


def test_the_embedding_is_scaled_and_the_tied_head_is_not(tmp_path: Path) -> None:
    saved("gemma", tmp_path, head_dim=16)
    raw = load_file(tmp_path / "model.safetensors")["model.embed_tokens.weight"].numpy()
    checkpoint = read(tmp_path)
    rows = checkpoint.architecture.vocabulary_size
    np.testing.assert_array_equal(checkpoint.weights["embedding"], raw[:rows] * np.float32(sqrt(64)))
    assert "head.weight" not in checkpoint.weights


@pytest.mark.parametrize("prefix", ["language_model.model.", "model.language_model."])
def test_a_gemma_3_whose_images_are_gone_is_served_as_its_text_model(prefix: str, tmp_path: Path) -> None:
    model = saved("gemma3_text", tmp_path, **SMALL, tie_word_embeddings=False)
    tensors = load_file(tmp_path / "model.safetensors")
    head = "language_model.lm_head." if prefix.startswith("language_model") else "lm_head."
    named = {
        name.replace("lm_head.", head).replace("model.", prefix, 1)
        if name.startswith("model.")
        else name.replace("lm_head.", head): tensor
        for name, tensor in tensors.items()
    }
    save_file(named, tmp_path / "model.safetensors", metadata={"format": "pt"})
    text = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gemma3", "text_config": text, "vision_config": {}}))
    checkpoint = read(tmp_path)
    expected = logits_of(model)(np.array(TOKENS))
    assert_same_logits(checkpoint.reference(np.array(TOKENS)), expected)
    assert_same_logits(prefill(decoder_of(checkpoint, tmp_path), TOKENS, chunk=13), expected)


def test_a_gemma_3_that_sees_images_is_refused(tmp_path: Path) -> None:
    saved("gemma3_text", tmp_path, **SMALL)
    tensors = load_file(tmp_path / "model.safetensors") | {"vision_tower.vision_model.embeddings.weight": torch.ones(2)}
    save_file(tensors, tmp_path / "model.safetensors")
    text = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gemma3", "text_config": text}))
    with pytest.raises(CheckpointError, match="a model of images and text .* not served yet"):
        read(tmp_path)


def test_attention_to_what_comes_later_is_refused(tmp_path: Path) -> None:
    saved("gemma3_text", tmp_path, **SMALL)
    edit(tmp_path, use_bidirectional_attention=True)
    with pytest.raises(CheckpointError, match="use_bidirectional_attention = True, which is not implemented"):
        read(tmp_path)
