"""The architectures of GGUF files: what llama.cpp knows about each that no file stores."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from export.checkpoint import CheckpointError, shown
from export.checkpoints.settings import demand
from export.checkpoints.tensors import RawTensor

Norms = tuple[str, ...]

BEFORE: Norms = ("attn_norm", "ffn_norm")
BEHIND: Norms = ("post_attention_norm", "post_ffw_norm")


@dataclass(frozen=True)
class Family:
    """The default is a Llama whose rotary turns the first half of a head with the second."""

    norm: Literal["layer", "rms"] = "rms"
    norms: Norms = BEFORE  # of a layer
    qk_norm: Literal["head", "all"] | None = None  # of each head, or of all heads together
    activation: Literal["silu", "gelu", "gelu_tanh"] = "silu"
    mlp: Literal["gated", "stacked", "plain"] = "gated"  # stacked: gate and up are one tensor
    positions: Literal["halves", "neighbours", "learned"] = "halves"  # which rows of a head rotary turns with each other
    still_every: int | None = None  # every so many layers, one has no positions
    parallel: bool = False
    embedding_by_width: bool = False  # embeddings are multiplied by √width
    window: int | None = None  # where the file does not say it
    all_every: int | None = None  # every so many layers, one sees all keys, the others a window; None: a window is all layers'
    own_local_rotary: bool = False  # layers with a window have a base of their own, and it is not scaled
    local_theta: float | None = None  # that base, where the file does not say it; None: the others'
    scale_by_width: int | None = None  # layers of that size of the family whose scores are divided by √(width / heads)
    attention_softcap: float | None = None  # where the file does not say it
    logit_softcap: float | None = None


LLAMA = Family(positions="neighbours")
GEMMA = Family(activation="gelu_tanh", embedding_by_width=True)
GPT2 = Family(norm="layer", activation="gelu_tanh", mlp="plain", positions="learned")
STARCODER2 = replace(GPT2, positions="halves")

FAMILIES: dict[str, Family] = {
    "llama": LLAMA,
    "granite": LLAMA,
    "smollm3": replace(LLAMA, still_every=4),
    "qwen2": Family(),
    "qwen3": Family(qk_norm="head"),
    "gemma": GEMMA,
    "gemma2": replace(
        GEMMA,
        norms=BEFORE + BEHIND,
        window=4096,
        all_every=2,
        own_local_rotary=True,
        scale_by_width=46,
        attention_softcap=50.0,
        logit_softcap=30.0,
    ),
    "gemma3": replace(
        GEMMA,
        norms=BEFORE + BEHIND,
        qk_norm="head",
        all_every=6,
        own_local_rotary=True,
        local_theta=10000.0,
        scale_by_width=62,
    ),
    "olmo2": Family(norms=BEHIND, qk_norm="all", all_every=4, own_local_rotary=True),
    "phi2": replace(STARCODER2, norms=BEFORE[:1], parallel=True),
    "phi3": Family(mlp="stacked"),
    "gptneox": replace(STARCODER2, activation="gelu"),  # Pythia's; llama.cpp takes the approximation by tanh
    "stablelm": Family(norm="layer"),
    "starcoder2": STARCODER2,
    "gpt2": GPT2,
    "starcoder": GPT2,
}


def family_of(metadata: Mapping[str, Any], tensors: Mapping[str, RawTensor]) -> Family:
    """Raises CheckpointError, listing the known architectures, if it is none of them."""
    demand(metadata, "general.type", "model")
    name = metadata.get("general.architecture")
    if isinstance(name, str) and metadata.get(f"{name}.expert_count"):
        raise CheckpointError(f"it is a mixture of experts ({shown(name)}), which are not implemented yet")
    if not isinstance(name, str) or name not in FAMILIES:
        raise CheckpointError(f"its general.architecture is {shown(name)}; served are {', '.join(FAMILIES)}")
    demand(metadata, f"{name}.attention.causal", True)
    family = FAMILIES[name]
    if name == "gptneox":
        demand(metadata, "gptneox.use_parallel_residual", True, False)
        return replace(family, parallel=metadata.get("gptneox.use_parallel_residual", True))
    if name == "stablelm" and "blk.0.ffn_norm.weight" not in tensors:  # as StableLM 2 12B
        return replace(family, norms=BEFORE[:1], parallel=True)
    return family
