"""minimind's checkpoints: bare state dicts, those to resume from, and its Hugging Face directories of every generation."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from export.checkpoint import CheckpointError
from export.checkpoints import read
from export.text.chat_environment import compile_template, render
from tests.export.families import assert_as_written, assert_same_logits, decoder_of, prefill, shared
from tests.export.samples import Logits, drawn, logits_of, save_tokenizer

State = dict[str, torch.Tensor]
ROWS = 6400
TOKENS = np.random.default_rng(7).integers(0, 290, 40).tolist()
SIZES = {
    "vocab_size": ROWS,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "max_position_embeddings": 32768,
    "tie_word_embeddings": True,
}
CONFIG = SIZES | {"model_type": "minimind", "rope_theta": 1e6, "rms_norm_eps": 1e-6, "hidden_act": "silu", "use_moe": False}


def minimind3(*, scaling: dict[str, Any] | None = None, **sizes: Any) -> tuple[State, Logits]:
    """fp16 weights under minimind-3's names, which are Qwen 3's, and what transformers makes of them."""
    rope = {"rope_type": "default", "rope_theta": 1e6} | (scaling or {})
    config = Qwen3Config(**{**SIZES, "head_dim": 8, "rms_norm_eps": 1e-6, "rope_parameters": rope, **sizes})
    return halved(drawn(Qwen3ForCausalLM(config), 3))


def minimind2(**sizes: Any) -> tuple[State, Logits]:
    """The same for MiniMind2, whose names are a Llama's."""
    rope = {"rope_type": "default", "rope_theta": 1e6}
    config = LlamaConfig(**{**SIZES, "num_key_value_heads": 2, "rms_norm_eps": 1e-5, "rope_parameters": rope, **sizes})
    return halved(drawn(LlamaForCausalLM(config), 4))


def halved(model: Any) -> tuple[State, Logits]:
    for parameter in model.parameters():
        parameter.data = parameter.data.half().float()
    return {name: tensor.half() for name, tensor in model.state_dict().items()}, logits_of(model)


def write(directory: Path, saved: dict[str, Any], name: str = "out/full_sft_64.pth") -> Path:
    """As minimind's trainers, with the project's tokenizer."""
    path = directory / name
    for folder in (path.parent, directory / "model"):
        folder.mkdir(exist_ok=True)
    save_tokenizer(directory / "model")
    torch.save(saved, path)
    return path


def write_directory(directory: Path, state: State, **config: Any) -> Path:
    """As minimind's convert_model.py."""
    (directory / "config.json").write_text(json.dumps(CONFIG | config))
    torch.save(state, directory / "pytorch_model.bin")
    save_tokenizer(directory)
    return directory


def assert_says(path: Path, logits: Logits, tmp_path: Path, **options: Any) -> None:
    checkpoint = read(path, **options)
    expected = logits(np.array(TOKENS))
    assert_same_logits(prefill(decoder_of(checkpoint, tmp_path), TOKENS, chunk=16), expected)
    assert_same_logits(checkpoint.reference(np.array(TOKENS)), expected)


def test_minimind_3_file_says_what_minimind_says(tmp_path: Path) -> None:
    folder = shared("minimind-3")
    checkpoint = assert_as_written(folder / "out" / "full_sft_64.pth", folder, tmp_path)
    assert checkpoint.architecture.heads == 4
    assert 2 in checkpoint.tokenizer.end_tokens
    assert checkpoint.tokenizer.chat_template is not None
    messages = [{"role": "user", "content": "你好"}]
    text = render(compile_template(checkpoint.tokenizer.chat_template), {"messages": messages, "add_generation_prompt": True})
    assert text.startswith("<|im_start|>user\n你好<|im_end|>\n<|im_start|>assistant\n")


def test_minimind_3_directory_says_what_minimind_says(tmp_path: Path) -> None:
    folder = shared("minimind-3-hf")
    assert_as_written(folder, folder, tmp_path)


def test_heads_of_minimind_3_are_told_by_its_norms(tmp_path: Path) -> None:
    state, logits = minimind3()
    path = write(tmp_path, state)
    assert_says(path, logits, tmp_path)
    with pytest.raises(CheckpointError, match="it has 8 heads.*HEADS says 4"):
        read(path, heads=4)


def test_minimind_3_with_a_vocabulary_and_a_head_of_its_own_says_what_transformers_says(tmp_path: Path) -> None:
    state, logits = minimind3(vocab_size=400, tie_word_embeddings=False)
    assert_says(write(tmp_path, state), logits, tmp_path)


def test_file_to_resume_from_is_read_beside_its_optimizer(tmp_path: Path) -> None:
    state, logits = minimind3()
    saved = {"model": state, "optimizer": {"state": {}, "param_groups": [{"lr": 1e-5}]}, "epoch": 1, "step": 9, "world_size": 1}
    path = write(tmp_path, saved | {"wandb_id": None, "scaler": {"scale": 65536.0}}, "checkpoints/full_sft_64_resume.pth")
    assert_says(path, logits, tmp_path)


def test_heads_that_contradict_the_file_are_refused(tmp_path: Path) -> None:
    state, _ = minimind3()
    path = write_directory(tmp_path, state)
    with pytest.raises(CheckpointError, match=r"HEADS \(--heads\) is 99, but it says itself that it has"):
        read(path, heads=99)


def test_heads_of_a_minimind_2_of_unknown_width_are_asked_for(tmp_path: Path) -> None:
    state, logits = minimind2()
    path = write(tmp_path, state, "out/pretrain_64.pth")
    with pytest.raises(CheckpointError, match="HEADS"):
        read(path)
    assert_says(path, logits, tmp_path, heads=8)


def test_heads_of_a_published_minimind_2_need_not_be_named(tmp_path: Path) -> None:
    state, _ = minimind2(hidden_size=512, intermediate_size=8, num_hidden_layers=1)
    architecture = read(write(tmp_path, state, "out/full_sft_512.pth")).architecture
    assert (architecture.heads, architecture.kv_heads, architecture.head_dim) == (8, 2, 64)
    assert architecture.norm_epsilon == 1e-5


def test_directory_with_scaled_positions_says_what_transformers_says(tmp_path: Path) -> None:
    yarn = {"rope_type": "yarn", "factor": 16.0, "original_max_position_embeddings": 2048, "attention_factor": 1.0}
    state, logits = minimind3(scaling=yarn)
    _, plain = minimind3()
    assert not np.allclose(logits(np.array(TOKENS)), plain(np.array(TOKENS)), atol=1e-3)
    assert_says(write_directory(tmp_path, state, inference_rope_scaling=True), logits, tmp_path)


def test_directory_of_minimind_2_says_what_transformers_says(tmp_path: Path) -> None:
    state, logits = minimind2()
    path = write_directory(tmp_path, state, num_key_value_heads=2, rms_norm_eps=1e-5, rope_scaling=None)
    assert_says(path, logits, tmp_path)


@pytest.mark.parametrize("model_type", ["minimind", "Tiny-K"])
def test_directory_of_the_first_minimind_2_or_of_happy_llm_has_names_and_positions_of_llama2c(
    model_type: str, tmp_path: Path
) -> None:
    state, logits = minimind2()
    renamed = {}
    parts = {
        "self_attn.": "attention.",
        "q_proj": "wq",
        "k_proj": "wk",
        "v_proj": "wv",
        "o_proj": "wo",
        "mlp.": "feed_forward.",
    }
    parts |= {"gate_proj": "w1", "down_proj": "w2", "up_proj": "w3", "input_layernorm": "attention_norm"}
    parts |= {"post_attention_layernorm": "ffn_norm", "model.": "", "embed_tokens": "tok_embeddings", "lm_head": "output"}
    for name, tensor in state.items():
        heads = 8 if "q_proj" in name else 2 if "k_proj" in name else None
        if heads:  # neighbouring rows are a pair
            tensor = tensor.view(heads, 2, -1, tensor.shape[1]).transpose(1, 2).reshape(tensor.shape).contiguous()
        for old, new in parts.items():
            name = name.replace(old, new)
        renamed[name] = tensor
    path = write_directory(tmp_path, renamed)
    config = {
        "model_type": model_type,
        "dim": 64,
        "n_layers": 2,
        "n_heads": 8,
        "n_kv_heads": 2,
        "vocab_size": ROWS,
        "use_moe": False,
    }
    (path / "config.json").write_text(json.dumps(config | {"max_seq_len": 8192, "norm_eps": 1e-5, "rope_theta": 1e6}))
    assert_says(path, logits, tmp_path)


def test_llama_of_unknown_settings_is_refused(tmp_path: Path) -> None:
    state, _ = minimind2(vocab_size=400)
    with pytest.raises(CheckpointError, match="vocabulary of 400 is not minimind's"):
        read(write(tmp_path, state), heads=8)


def test_mixture_of_experts_is_refused(tmp_path: Path) -> None:
    state, _ = minimind3()
    experts = {name.replace(".mlp.", ".mlp.experts.0."): tensor for name, tensor in state.items()}
    with pytest.raises(CheckpointError, match="mixture of experts"):
        read(write(tmp_path, experts, "out/full_sft_64_moe.pth"))


def test_mixture_of_experts_in_a_directory_is_refused(tmp_path: Path) -> None:
    state, _ = minimind3()
    with pytest.raises(CheckpointError, match="mixture of experts"):
        read(write_directory(tmp_path, state, use_moe=True))


@pytest.mark.parametrize("with_model", [False, True])
def test_lora_matrices_are_refused(with_model: bool, tmp_path: Path) -> None:
    state, _ = minimind3()
    lora = {f"model.layers.0.self_attn.q_proj.lora.{part}.weight": torch.zeros(16, 64).half() for part in "AB"}
    with pytest.raises(CheckpointError, match="LoRA.*convert_merge_base_lora"):
        read(write(tmp_path, state | lora if with_model else lora, "out/lora_identity_64.pth"))


def test_file_without_its_project_asks_for_a_tokenizer(tmp_path: Path) -> None:
    state, _ = minimind3()
    torch.save(state, tmp_path / "full_sft_64.pth")
    with pytest.raises(CheckpointError, match="model/tokenizer.json.*TOKENIZER"):
        read(tmp_path / "full_sft_64.pth")


def test_positions_scaled_as_in_2025_are_refused(tmp_path: Path) -> None:
    state, _ = minimind2()
    old = {"beta_fast": 4, "beta_slow": 1, "factor": 4, "original_max_position_embeddings": 2048, "type": "yarn"}
    path = write_directory(tmp_path, state, num_key_value_heads=2, inference_rope_scaling=True, rope_scaling=old)
    with pytest.raises(CheckpointError, match="inference_rope_scaling"):
        read(path)
