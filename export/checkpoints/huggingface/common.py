"""Helpers shared by the readers of Hugging Face's model types."""

from collections.abc import Mapping
from typing import Any, Literal

from export.checkpoint import CheckpointError, shown
from export.checkpoints.tensors import RawTensor, is_tied

Activation = Literal["silu", "gelu", "gelu_tanh", "relu", "relu2"]
ACTIVATIONS: dict[str, Activation] = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "relu2": "relu2",
}


def activation(config: Mapping[str, Any], key: str, default: str) -> Activation:
    name = config.get(key)
    name = default if name is None else name
    if not isinstance(name, str) or name not in ACTIVATIONS:
        served = ", ".join(ACTIVATIONS)
        raise CheckpointError(f"its configuration says {key} = {shown(name)}, which is not implemented; served are {served}")
    return ACTIVATIONS[name]


def prefixed(tensors: Mapping[str, RawTensor], prefix: str, head: str = "lm_head.") -> dict[str, RawTensor]:
    """Adds ``prefix`` to names: files of bare models (without a head) omit it."""
    return {name if name.startswith((prefix, head)) else prefix + name: tensor for name, tensor in tensors.items()}


def require_head(config: Mapping[str, Any], tensors: Mapping[str, RawTensor], head: str, embedding: str, *, tied: bool) -> None:
    """Rejects a file whose head contradicts `tie_word_embeddings`, which defaults to ``tied``."""
    said = config.get("tie_word_embeddings")
    if tied if said is None else bool(said):
        if not is_tied(tensors, head, embedding):
            raise CheckpointError(
                f"its config.json ties the head to the embedding, but its tensor {head} differs from {embedding}"
            )
    elif head not in tensors:
        raise CheckpointError(f"it lacks the tensor {head}, though its config.json says tie_word_embeddings = false")
