"""Which linear layers have a bias: determined by the model type or its configuration; the file must agree."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from export.checkpoint import CheckpointError, shown
from export.checkpoints.tensors import RawTensor


@dataclass(frozen=True)
class Biases:
    """A key of the configuration that says it, or whether there always is one."""

    qkv: str | bool = False
    out: str | bool = False
    mlp: str | bool = False


def require_biases(
    config: Mapping[str, Any], tensors: Mapping[str, RawTensor], said: Mapping[str, str | bool], layers: int, *, in_norms: bool
) -> None:
    """``said``: by module in `model.layers.{i}`; ``in_norms``: whether the last norm may have one. CheckpointError where the
    file has one too many, or lacks one."""
    names = {f"model.layers.{layer}.{module}.bias": key for layer in range(layers) for module, key in said.items()}
    names |= {"lm_head.bias": False} | ({} if in_norms else {"model.norm.bias": False})
    for name, key in names.items():
        wanted = bool(config.get(key)) if isinstance(key, str) else key
        if wanted != (name in tensors):
            said_by = key if isinstance(key, str) else "model_type"
            value = shown(config.get(said_by))
            raise CheckpointError(
                f"it {'lacks' if wanted else 'holds'} the tensor {name}, though its config.json says {said_by} = {value}"
            )
