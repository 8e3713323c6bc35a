"""Hugging Face's GPT families: tiny models that transformers makes, in the decoder that serves them."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import nn

from export.checkpoint import CheckpointError
from export.checkpoints import read
from tests.export.families import assert_as_written, shared
from tests.export.samples import drawn, save_tokenizer
from tests.export.transformers_models import COUNT, assert_as_transformers, edit

ROWS = COUNT + 7  # the embedding is padded
OF_GPT2 = {"vocab_size": ROWS, "n_positions": 64, "n_embd": 64, "n_layer": 2, "n_head": 4}
COMMON = {
    "vocab_size": ROWS,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
ENDS = {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}
NEO = COMMON | {"num_heads": 4, "num_layers": 2, "window_size": 8, "attention_types": [[["global", "local"], 1]]}
NEO = {key: value for key, value in NEO.items() if key not in ("num_hidden_layers", "num_attention_heads")}
MODELS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "gpt2": (transformers.GPT2Config, transformers.GPT2LMHeadModel, OF_GPT2),
    "gpt_neo": (transformers.GPTNeoConfig, transformers.GPTNeoForCausalLM, NEO),
    "gptj": (transformers.GPTJConfig, transformers.GPTJForCausalLM, OF_GPT2 | {"rotary_dim": 8}),
    "codegen": (transformers.CodeGenConfig, transformers.CodeGenForCausalLM, OF_GPT2 | {"rotary_dim": 8, "n_ctx": 64}),
    "gpt_neox": (transformers.GPTNeoXConfig, transformers.GPTNeoXForCausalLM, COMMON | {"intermediate_size": 96}),
    "phi": (transformers.PhiConfig, transformers.PhiForCausalLM, COMMON | {"intermediate_size": 96}),
    "opt": (transformers.OPTConfig, transformers.OPTForCausalLM, COMMON | {"ffn_dim": 96, "word_embed_proj_dim": 64}),
    "gpt_bigcode": (transformers.GPTBigCodeConfig, transformers.GPTBigCodeForCausalLM, OF_GPT2),
}
VARIANTS = [
    ("gpt2", {}),
    ("gpt2", {"n_inner": 96, "activation_function": "gelu", "layer_norm_epsilon": 1e-3}),
    ("gpt2", {"tie_word_embeddings": False, "activation_function": "gelu_fast"}),
    ("gpt_neo", {}),
    ("gpt_neo", {"intermediate_size": 96, "attention_types": [[["local"], 1], [["global"], 1]], "activation_function": "relu"}),
    ("gpt_neo", {"num_heads": 16, "window_size": 100}),
    ("gptj", {}),
    ("gptj", {"rotary_dim": 16, "n_inner": 96}),
    ("codegen", {}),
    ("gpt_neox", {}),
    ("gpt_neox", {"use_parallel_residual": False, "hidden_act": "gelu_new"}),
    ("gpt_neox", {"attention_bias": False, "rope_parameters": {"partial_rotary_factor": 1.0, "rope_theta": 500.0}}),
    ("gpt_neox", {"tie_word_embeddings": True, "hidden_size": 40, "layer_norm_eps": 1e-3, "hidden_act": "gelu_fast"}),
    ("gpt_neox", {"rope_parameters": {"rope_type": "linear", "factor": 3.0, "rope_theta": 1e4, "partial_rotary_factor": 0.5}}),
    ("phi", {}),
    ("phi", {"tie_word_embeddings": True}),
    ("phi", {"num_key_value_heads": 2, "rope_parameters": {"partial_rotary_factor": 0.25, "rope_theta": 1e4}}),
    ("opt", {}),
    ("opt", {"enable_bias": False, "activation_function": "gelu"}),
    ("opt", {"layer_norm_elementwise_affine": False}),
    ("opt", {"_remove_final_layer_norm": True}),
    ("gpt_bigcode", {}),
    ("gpt_bigcode", {"multi_query": False, "n_inner": 96, "activation_function": "gelu"}),
]


def saved(kind: str, directory: Path, *, bare: bool = False, **config: Any) -> nn.Module:
    """The model that ``directory`` holds afterwards. ``bare``: without its head, which it shares with the embedding."""
    config_class, model_class, sizes = MODELS[kind]
    model = drawn(model_class(config_class(**sizes | ENDS | config)), seed=len(kind))
    (model.base_model if bare else model).save_pretrained(directory)
    save_tokenizer(directory)
    return model


@pytest.mark.parametrize(("kind", "config"), VARIANTS, ids=[f"{kind}-{number}" for number, (kind, _) in enumerate(VARIANTS)])
def test_a_model_is_served_as_transformers_computes_it(kind: str, config: dict[str, Any], tmp_path: Path) -> None:
    assert_as_transformers(tmp_path, saved(kind, tmp_path, **config))


@pytest.mark.parametrize("kind", ["gpt2", "gpt_neo", "opt", "gpt_bigcode"])
def test_a_model_that_was_saved_without_its_head_is_served_with_the_embedding(kind: str, tmp_path: Path) -> None:
    assert_as_transformers(tmp_path, saved(kind, tmp_path, bare=True))


def test_transformers_4_names_the_rotary_settings_in_the_familys_own_words(tmp_path: Path) -> None:
    rope = {"partial_rotary_factor": 0.5, "rope_theta": 500.0}
    for kind, written in (
        ("gpt_neox", {"rotary_pct": 0.5, "rotary_emb_base": 500, "rope_scaling": None}),
        ("phi", {"partial_rotary_factor": 0.5, "rope_theta": 500.0, "rope_scaling": None}),
    ):
        model = saved(kind, tmp_path / kind, rope_parameters=rope)
        edit(tmp_path / kind, drop=("rope_parameters",), **written)
        assert_as_transformers(tmp_path / kind, model)


MASK = torch.ones(1, 1, 64, 64)
BUFFERS = {
    "gpt2": {"transformer.h.0.attn.bias": MASK.byte(), "transformer.h.0.attn.masked_bias": torch.tensor(-1e4)},
    "gpt_neo": {
        "transformer.h.0.attn.attention.bias": MASK.byte(),
        "transformer.h.0.attn.attention.masked_bias": torch.tensor(-1e9),
    },
    "gptj": {"transformer.h.0.attn.bias": MASK.bool(), "transformer.h.0.attn.masked_bias": torch.tensor(-1e9)},
    "codegen": {"transformer.h.0.attn.causal_mask": MASK.byte()},
    "gpt_neox": {
        "gpt_neox.layers.0.attention.bias": MASK.byte(),
        "gpt_neox.layers.0.attention.masked_bias": torch.tensor(-1e9),
        "gpt_neox.layers.0.attention.rotary_emb.inv_freq": torch.ones(2),
    },
}


@pytest.mark.parametrize("kind", BUFFERS)
def test_masks_that_older_versions_saved_are_left_alone(kind: str, tmp_path: Path) -> None:
    model = saved(kind, tmp_path)
    (tmp_path / "model.safetensors").unlink()
    state = {
        name.replace("lm_head.", "embed_out.") if kind == "gpt_neox" else name: one for name, one in model.state_dict().items()
    }
    torch.save(state | BUFFERS[kind], tmp_path / "pytorch_model.bin")
    assert_as_transformers(tmp_path, model)


@pytest.mark.parametrize("kind", MODELS)
def test_a_file_that_lacks_a_bias_is_refused(kind: str, tmp_path: Path) -> None:
    state = saved(kind, tmp_path).state_dict()
    (tmp_path / "model.safetensors").unlink()
    lost = next(name for name in reversed(state) if name.endswith(".bias") and ".1." in name)
    torch.save({name: tensor for name, tensor in state.items() if name != lost}, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="lacks the tensors? " + re.escape(lost)):
        read(tmp_path)


@pytest.mark.parametrize(
    ("kind", "settings", "sentence"),
    [
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx = True"),
        ("gpt2", {"activation_function": "quick_gelu"}, "activation_function = 'quick_gelu'"),
        ("gpt2", {"tie_word_embeddings": False}, "lacks the tensor lm_head.weight"),
        ("gpt_neo", {"attention_types": [[["global", "sparse"], 1]]}, "attention_types"),
        ("gpt_neo", {"attention_types": [[["global"], 3]]}, "for 2 layers"),
        ("gpt_neo", {"attention_types": 7}, "attention_types = 7"),
        ("gptj", {"rotary_dim": 7}, "rotary_dim is 7"),
        ("gptj", {"rotary_dim": 32}, "to its head size 16"),
        ("codegen", {"n_head": 2}, "multiples of 4"),
        ("gpt_neox", {"use_parallel_residual": "yes"}, "use_parallel_residual = 'yes'"),
        ("gpt_neox", {"rope_parameters": {"rope_type": "yarn", "factor": 2.0}}, "rope_type = 'yarn'"),
        ("phi", {"qk_layernorm": True}, "qk_layernorm = True"),
        ("phi", {"num_key_value_heads": 3}, "do not share 3 key-value heads"),
        ("opt", {"do_layer_norm_before": False}, "do_layer_norm_before = False"),
        ("opt", {"word_embed_proj_dim": 32}, "word_embed_proj_dim = 32"),
        ("gpt_bigcode", {"multi_query": False}, "asks for [192, 64]"),
    ],
)
def test_what_is_not_implemented_is_refused_by_its_name(
    kind: str, settings: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    saved(kind, tmp_path)
    edit(tmp_path, **settings)
    with pytest.raises(CheckpointError) as refused:
        read(tmp_path)
    assert sentence in str(refused.value)


@pytest.mark.parametrize("config", ["config.json", "config_v4.json"])
@pytest.mark.parametrize("name", ["hf-gpt-neo", "hf-gpt-neox", "hf-opt"])
def test_a_tiny_model_of_transformers_own_says_what_it_said_there(name: str, config: str, tmp_path: Path) -> None:
    folder = shared(name)
    copy = tmp_path / name
    shutil.copytree(folder, copy)
    copy.chmod(0o755)
    (copy / "config.json").unlink()
    shutil.copy(folder / config, copy / "config.json")
    assert_as_written(copy, folder, tmp_path)


def test_a_gpt2_chinese_says_what_it_said_in_its_own_project(tmp_path: Path) -> None:
    folder = shared("gpt2-chinese")
    assert_as_written(folder, folder, tmp_path)
