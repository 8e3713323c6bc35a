"""Reads safetensors files as numpy with the safetensors package, whose Rust parser validates the header and maps the file.

Importing ml_dtypes registers bfloat16 with numpy.
"""

from functools import partial
from pathlib import Path

import ml_dtypes  # noqa: F401
import numpy as np
from safetensors import SafetensorError, safe_open

from export.checkpoint import CheckpointError
from export.checkpoints.shards import shards
from export.checkpoints.tensors import RawTensor, fitting

TYPES = ("F32", "F16", "BF16", "F64")
BUFFERS = {"BOOL", "U8", "I64"}  # types of masks and positions


def directory(path: Path) -> dict[str, RawTensor]:
    """All tensors of a Hugging Face directory, from one file or from the shards in its index."""
    tensors: dict[str, RawTensor] = {}
    for file in shards(path, "model.safetensors", "*.safetensors"):
        tensors |= read(file)
    return tensors


def read(path: Path) -> dict[str, RawTensor]:
    """Tensors are read on demand, one at a time."""
    try:
        with safe_open(path, framework="numpy") as file:
            kinds = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            tensors = {
                name: RawTensor(tuple(kind.get_shape()), partial(_fp32, path, name))
                for name, kind in kinds.items()
                if _is_weight(name, kind.get_dtype())
            }
    except SafetensorError as exc:
        raise CheckpointError(f"{path.name} is no safetensors file, or damaged or cut short: {exc}") from exc
    return fitting(tensors)


def _is_weight(name: str, dtype: str) -> bool:
    if dtype not in TYPES and dtype not in BUFFERS:
        raise CheckpointError(f"its tensor {name} is of type {dtype}; served are {', '.join(TYPES)}")
    return dtype in TYPES


def _fp32(path: Path, name: str) -> np.ndarray:
    with safe_open(path, framework="numpy") as file:
        return np.asarray(file.get_tensor(name)).astype(np.float32, copy=False)
