"""minimind's directories. All generations share one model type; the tensors tell them apart."""

from collections.abc import Iterable, Mapping

from export.checkpoint import CheckpointError, TokenizerFiles
from export.checkpoints import llama2c
from export.checkpoints.huggingface import decoder
from export.checkpoints.huggingface.decoder import Kind, Made, Settings
from export.checkpoints.settings import whole
from export.checkpoints.tensors import RawTensor
from export.references.llama import Qwen3

COMMON = {"max_position_embeddings": 32768, "num_attention_heads": 8, "rope_theta": 1e6, "tie_word_embeddings": True}
MINIMIND2 = Kind(defaults={**COMMON, "num_key_value_heads": 2, "rms_norm_eps": 1e-5})
MINIMIND3 = Kind(defaults={**COMMON, "num_key_value_heads": 4, "rms_norm_eps": 1e-6}, reference=Qwen3, qk_norm="head")
ORIGINAL = 2048  # positions, of which more are scaled
YARN = {  # what `inference_rope_scaling` asks for since December 2025, whatever else the configuration says
    "rope_type": "yarn",
    "factor": 16,
    "original_max_position_embeddings": ORIGINAL,
    "beta_fast": 32,
    "beta_slow": 1,
    "attention_factor": 1.0,
}


def minimind(config: Settings, tensors: Mapping[str, RawTensor], tokenizer: TokenizerFiles) -> Made:
    require_dense(tensors, config)
    if "dim" in config:  # until April 2025, and happy-llm: names, keys and positions of llama2.c
        return llama2c.assembled(tensors, config, tokenizer)
    has_norms = any(name.endswith(".self_attn.q_norm.weight") for name in tensors)
    return decoder.read(MINIMIND3 if has_norms else MINIMIND2, {**config, **_scaling(config)}, tensors, tokenizer)


def require_dense(names: Iterable[str], config: Settings | None = None) -> None:
    if any(".experts." in name for name in names) or (config or {}).get("use_moe"):
        raise CheckpointError("it is a mixture of experts, which is not served yet")


def _scaling(config: Settings) -> dict[str, object]:
    if config.get("inference_rope_scaling") is not True:
        return {"rope_scaling": None}
    given = config.get("rope_scaling")
    if isinstance(given, dict) and given.get("factor") == 4:
        raise CheckpointError(
            "its configuration says inference_rope_scaling = True with factor 4, as of autumn 2025, which is not implemented: "
            "set it to false, as in training"
        )
    return {"rope_scaling": YARN if whole(config, "max_position_embeddings", 32768) > ORIGINAL else None}
