"""Models that transformers makes, under litgpt's names: what litgpt's own conversion of a Hugging Face model writes."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
import yaml
from torch import nn

from tests.export.samples import drawn, save_tokenizer, small_tokenizer

State = dict[str, torch.Tensor]
COUNT = small_tokenizer().get_vocab_size()
ROWS = COUNT + 9
THEIRS: dict[str, Any] = {
    "vocab_size": ROWS,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 0,
    "eos_token_id": 2,
}
CONFIG: dict[str, Any] = {  # as litgpt 0.5 writes it, but for what is null
    "name": "tiny-llama-1.1b",
    "hf_config": {"name": "TinyLlama", "org": "TinyLlama"},
    "attn_bias": False,
    "bias": False,
    "block_size": 64,
    "gelu_approximate": "none",
    "head_size": 16,
    "intermediate_size": 96,
    "latent_attention": None,
    "lm_head_bias": False,
    "mlp_class_name": "LLaMAMLP",
    "n_embd": 64,
    "n_expert": 0,
    "n_head": 4,
    "n_layer": 2,
    "n_query_groups": 2,
    "norm_1": True,
    "norm_2": True,
    "norm_class_name": "RMSNorm",
    "norm_eps": 1e-6,
    "norm_qk": False,
    "norm_qk_type": "default",
    "padded_vocab_size": ROWS,
    "padding_multiple": 64,
    "parallel_residual": False,
    "post_attention_norm": False,
    "post_mlp_norm": False,
    "rope_adjustments": None,
    "rope_base": 10000,
    "rope_condense_ratio": 1,
    "rope_interleave": False,
    "rotary_percentage": 1.0,
    "scale_embeddings": False,
    "shared_attention_norm": False,
    "vocab_size": COUNT,
}
GEMMA: dict[str, Any] = {
    "name": "Gemma-2-2b",
    "mlp_class_name": "GemmaMLP",
    "gelu_approximate": "tanh",
    "scale_embeddings": True,
    "post_attention_norm": True,
    "post_mlp_norm": True,
    "sliding_window_size": 8,
    "sliding_window_indices": [1, 0],
}
NEOX: dict[str, Any] = {
    "name": "pythia-14m",
    "bias": True,
    "mlp_class_name": "GptNeoxMLP",
    "norm_class_name": "LayerNorm",
    "norm_eps": 1e-5,
    "n_query_groups": 4,
    "parallel_residual": True,
    "rotary_percentage": 0.25,
}
# parts of a layer: transformers' name → litgpt's
LLAMA = {
    "input_layernorm": "norm_1",
    "post_attention_layernorm": "norm_2",
    "self_attn.o_proj": "attn.proj",
    "self_attn.q_norm": "attn.norm_q",
    "self_attn.k_norm": "attn.norm_k",
    "mlp.gate_proj": "mlp.fc_1",
    "mlp.up_proj": "mlp.fc_2",
    "mlp.down_proj": "mlp.proj",
}
BEHIND = LLAMA | {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "norm_2",
    "post_feedforward_layernorm": "post_mlp_norm",
}
PHI = {"input_layernorm": "norm_1", "self_attn.dense": "attn.proj", "mlp.fc1": "mlp.fc", "mlp.fc2": "mlp.proj"}
PYTHIA = {
    "input_layernorm": "norm_1",
    "post_attention_layernorm": "norm_2",
    "attention.query_key_value": "attn.attn",  # by group, as litgpt had it before December 2024
    "attention.dense": "attn.proj",
    "mlp.dense_h_to_4h": "mlp.fc",
    "mlp.dense_4h_to_h": "mlp.proj",
}
OUTSIDE = {
    "model.embed_tokens": "transformer.wte",
    "model.norm": "transformer.ln_f",
    "model.final_layernorm": "transformer.ln_f",
    "gpt_neox.embed_in": "transformer.wte",
    "gpt_neox.final_layer_norm": "transformer.ln_f",
    "lm_head": "lm_head",
}


def renamed(model: nn.Module, parts: dict[str, str]) -> State:
    """The model's weights under litgpt's names; queries, keys and values that lie apart are stacked."""
    state: State = {}
    for name, tensor in model.state_dict().items():
        module, kind = name.rsplit(".", 1)
        if module in OUTSIDE:
            state[f"{OUTSIDE[module]}.{kind}"] = tensor
            continue
        _, _, layer, part = module.split(".", 3)
        if part.endswith(("q_proj", "k_proj", "v_proj")):
            stacked = f"transformer.h.{layer}.attn.qkv.{kind}"
            state[stacked] = torch.cat([state[stacked], tensor]) if stacked in state else tensor
        else:
            state[f"transformer.h.{layer}.{parts[part]}.{kind}"] = tensor
    return state


def write(directory: Path, state: State, *, key: str | None = "model", tokenizer: bool = True, **config: Any) -> Path:
    """As litgpt's training does (``key``), or its download (None)."""
    directory.mkdir(parents=True, exist_ok=True)
    torch.save({key: state} if key else state, directory / "lit_model.pth")
    (directory / "model_config.yaml").write_text(yaml.dump(CONFIG | config))
    if tokenizer:
        save_tokenizer(directory)
    return directory


def made(kind: str, seed: int, **config: Any) -> nn.Module:
    """A model of transformers, such as `Gemma2`; Gemma 3's configuration alone has a name of its own."""
    config_class = getattr(transformers, f"{kind}TextConfig" if kind == "Gemma3" else f"{kind}Config")
    model: nn.Module = drawn(getattr(transformers, f"{kind}ForCausalLM")(config_class(**THEIRS | config)), seed)
    return model


llama, pythia, qwen3 = partial(made, "Llama", 1), partial(made, "GPTNeoX", 2), partial(made, "Qwen3", 3, head_dim=32)
LLAMA3: dict[str, Any] = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
VARIANTS: dict[str, tuple[Callable[[], nn.Module], dict[str, str], dict[str, Any]]] = {
    "llama": (llama, LLAMA, {}),
    "tied": (partial(llama, tie_word_embeddings=True), LLAMA, {}),
    "llama 3": (
        partial(
            llama, rope_parameters=LLAMA3 | {"rope_type": "llama3", "rope_theta": 5e5, "original_max_position_embeddings": 32}
        ),
        LLAMA,
        {"rope_base": 500000, "rope_adjustments": LLAMA3 | {"original_max_seq_len": 32}},
    ),
    "condensed": (
        partial(llama, rope_parameters={"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}),
        LLAMA,
        {"rope_condense_ratio": 4},
    ),
    "qwen 2.5": (
        partial(made, "Qwen2", 4),
        LLAMA,
        {"attn_bias": True},
    ),
    "qwen 3": (qwen3, LLAMA, {"head_size": 32, "norm_qk": True}),
    "gemma 2": (
        partial(
            made,
            "Gemma2",
            5,
            head_dim=24,
            query_pre_attn_scalar=20,
            sliding_window=8,
            attn_logit_softcapping=5.0,
            final_logit_softcapping=4.0,
            attn_implementation="eager",
        ),
        BEHIND,
        GEMMA
        | {
            "head_size": 24,
            "attention_scores_scalar": 20,
            "attention_logit_softcapping": 5.0,
            "final_logit_softcapping": 4.0,
        },
    ),
    "gemma 3": (
        partial(
            made,
            "Gemma3",
            6,
            head_dim=32,
            query_pre_attn_scalar=32,
            sliding_window=8,
            layer_types=["sliding_attention", "full_attention"],
            tie_word_embeddings=False,
            rope_parameters={
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            },
        ),
        BEHIND,
        GEMMA
        | {
            "name": "Gemma-3-1b-it",
            "head_size": 32,
            "norm_qk": True,
            "rope_base": 1000000,
            "rope_adjustments": {"factor": 8.0},
            "rope_local_base_freq": 10000,
            "rope_indices": [1, 0, 1],
        },
    ),
    "olmo": (partial(made, "Olmo", 7), LLAMA, {"name": "OLMo-1B-hf", "norm_class_name": "LayerNorm", "norm_eps": 1e-5}),
    "olmo 2": (
        partial(made, "Olmo2", 8),
        BEHIND,
        {
            "name": "OLMo-2-1B",
            "norm_1": False,
            "norm_2": False,
            "norm_eps": 1e-5,
            "norm_qk": True,
            "norm_qk_type": "olmo2",
            "post_attention_norm": True,
            "post_mlp_norm": True,
        },
    ),
    "pythia": (pythia, PYTHIA, NEOX),
    "sequential pythia": (
        partial(pythia, use_parallel_residual=False, hidden_act="gelu_pytorch_tanh"),
        PYTHIA,
        NEOX | {"parallel_residual": False, "gelu_approximate": "tanh"},
    ),
    "phi": (
        partial(made, "Phi", 9, num_key_value_heads=4),
        PHI,
        NEOX
        | {
            "name": "phi-2",
            "shared_attention_norm": True,
            "lm_head_bias": True,
            "gelu_approximate": "tanh",
            "rotary_percentage": 0.5,
        },
    ),
}
