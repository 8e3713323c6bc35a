"""Gemma 1, 2 and 3: norms whose weights are what they have above 1, and an embedding times √width.

Sources: transformers' configuration_*.py and modeling_*.py.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from math import sqrt
from typing import Any

from export.checkpoint import CheckpointError, TokenizerFiles
from export.checkpoints.huggingface.biases import Biases
from export.checkpoints.huggingface.decoder import Family, Kind, Made, read
from export.checkpoints.settings import whole
from export.checkpoints.tensors import RawTensor
from export.references import llama as references

Settings = Mapping[str, Any]
NORMS = {
    "attention_norm": "input_layernorm",
    "attention_out_norm": "post_attention_layernorm",
    "mlp_norm": "pre_feedforward_layernorm",
    "mlp_out_norm": "post_feedforward_layernorm",
}
DEFAULTS = {"attention_bias": False, "head_dim": 256, "max_position_embeddings": 8192, "tie_word_embeddings": True}
LATER = {
    **DEFAULTS,
    "hidden_activation": "gelu_pytorch_tanh",
    "num_key_value_heads": 4,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
}
# what the text_config of a published Gemma 3 leaves out
TEXT_SIZES = {
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_attention_heads": 8,
    "num_hidden_layers": 26,
    "vocab_size": 262208,
}
OTHER_PARTS = ("vision_tower.", "multi_modal_projector.")
TEXT_PARTS = ("model.language_model.", "language_model.", "model.")  # before a name, by version of transformers


def _root_of_width(config: Settings) -> float:
    return sqrt(whole(config, "hidden_size"))


def _every_second(config: Settings, layer: int) -> bool:
    return layer % 2 == 0


def _all_but_some(config: Settings, layer: int) -> bool:
    return (layer + 1) % whole(config, "sliding_window_pattern", 6) != 0


GEMMA = Kind(
    reference=references.Gemma,
    defaults={**DEFAULTS, "hidden_act": "gelu_pytorch_tanh", "num_key_value_heads": 16},
    refused=("use_bidirectional_attention",),
    norm_offset=1.0,
    biases=Biases("attention_bias", "attention_bias"),
    embedding_scale=_root_of_width,
)
GEMMA2 = replace(
    GEMMA,
    reference=references.Gemma2,
    defaults={**LATER, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
    norms=NORMS,
    activation="hidden_activation",
    is_sliding=_every_second,
)
GEMMA3 = replace(
    GEMMA2,
    reference=references.Gemma3,
    defaults={
        **LATER,
        "final_logit_softcapping": None,
        "max_position_embeddings": 131072,
        "rope_local_base_freq": 10000.0,
        "rope_theta": 1000000.0,
    },
    qk_norm="head",
    rope_by_type=True,
    is_sliding=_all_but_some,
)


def gemma(config: dict[str, Any], tensors: Mapping[str, RawTensor], tokenizer: TokenizerFiles) -> Made:
    """The first Gemmas say `gelu` but mean the tanh approximation."""
    if config.get("hidden_act") in ("gelu", None):
        config = {**config, "hidden_act": "gelu_pytorch_tanh"}
    return read(GEMMA, config, tensors, tokenizer)


def text_model(config: dict[str, Any], tensors: Mapping[str, RawTensor]) -> tuple[dict[str, Any], dict[str, RawTensor]]:
    """Configuration and tensors of the `gemma3_text` in a `gemma3`. Raises CheckpointError if it is multimodal."""
    text = config.get("text_config")
    if not isinstance(text, dict):
        raise CheckpointError("its config.json says model_type = 'gemma3' and lacks text_config")
    if any(name.removeprefix("model.").startswith(OTHER_PARTS) for name in tensors):
        raise CheckpointError("it is a model of images and text (Gemma 3 with a vision tower), which is not served yet")
    tied = {"tie_word_embeddings": config.get("tie_word_embeddings", True)}
    return {**TEXT_SIZES, **tied, **text, "model_type": "gemma3_text"}, {_plain(name): tensors[name] for name in tensors}


def _plain(name: str) -> str:
    name = name.removeprefix("language_model.") if name.startswith("language_model.lm_head.") else name
    if name.startswith("lm_head."):
        return name
    start = next((start for start in TEXT_PARTS if name.startswith(start)), "")
    return f"model.{name.removeprefix(start).removeprefix('model.')}"


FAMILIES: dict[str, Family] = {"gemma": gemma, "gemma2": partial(read, GEMMA2), "gemma3_text": partial(read, GEMMA3)}
