"""Safetensors files as numpy: a length, a JSON header, and raw tensors, mapped and never copied whole.

Read by hand because the safetensors package has no bfloat16 for numpy, and torch must not be needed here.
"""

import json
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from export.checkpoint import CheckpointError
from export.checkpoints.tensors import RawTensor, check_places, fitting
from export.text_file import read_object

DTYPES: dict[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
    "F64": np.dtype("<f8"),
}
HEADER_LIMIT = 16 << 20  # bytes: 100 thousand tensors, and what parsing it takes


def directory(path: Path) -> dict[str, RawTensor]:
    """All tensors of a Hugging Face directory, from one file or from the shards that its index names."""
    index = path / "model.safetensors.index.json"
    if index.is_file():
        return _shards(path, index)
    files = sorted(path.glob("*.safetensors"))
    single = [file for file in files if file.name == "model.safetensors"] or files
    if len(single) != 1:
        found = ", ".join(file.name for file in files) or "none"
        raise CheckpointError(f"it holds no model.safetensors and no index of shards (safetensors files found: {found})")
    return read(single[0])


def _shards(path: Path, index: Path) -> dict[str, RawTensor]:
    weight_map = read_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(shard, str) for shard in weight_map.values()):
        raise CheckpointError(f"{index.name} is no index of shards with a weight_map")
    tensors: dict[str, RawTensor] = {}
    for shard in sorted(set(weight_map.values())):
        if "\0" in shard or Path(shard).name != shard or not (path / shard).is_file():
            raise CheckpointError(f"{index.name} names the shard {shard!r}, which is not in the directory")
        tensors |= read(path / shard)
    return tensors


def read(path: Path) -> dict[str, RawTensor]:
    data = np.memmap(path, np.uint8, mode="r") if path.stat().st_size else np.empty(0, np.uint8)
    size = int.from_bytes(data[:8].tobytes(), "little") if len(data) >= 8 else HEADER_LIMIT + 1
    if size > min(HEADER_LIMIT, len(data) - 8):
        raise CheckpointError(f"{path.name} is no safetensors file, or cut short: its header cannot be {size} bytes long")
    try:
        header = json.loads(data[8 : 8 + size].tobytes())
        header.pop("__metadata__", None)
        tensors = {name: _tensor(data[8 + size :], name, **entry) for name, entry in header.items()}
        check_places((name, *entry["data_offsets"]) for name, entry in header.items())
        return fitting(tensors)
    except (ValueError, TypeError, AttributeError, RecursionError) as exc:
        raise CheckpointError(f"{path.name} has a damaged header: {exc}") from exc


def _tensor(data: np.ndarray, name: str, *, dtype: str, shape: list[int], data_offsets: list[int]) -> RawTensor:
    begin, end = data_offsets
    if not all(type(number) is int for number in (begin, end, *shape)):
        raise CheckpointError(f"its tensor {name} has a shape or a place that is made of other things than whole numbers")
    if dtype not in DTYPES:
        raise CheckpointError(f"its tensor {name} is of type {dtype}; served are {', '.join(DTYPES)}")
    if not 0 <= begin <= end <= len(data):
        raise CheckpointError(f"its tensor {name} lies outside the file, which is cut short or damaged")
    if any(side < 0 for side in shape) or prod(shape) * DTYPES[dtype].itemsize != end - begin:
        raise CheckpointError(f"its tensor {name} of shape {shape} does not fit its {end - begin} bytes")
    return RawTensor(tuple(shape), partial(_fp32, data[begin:end], dtype, shape))


def _fp32(data: np.ndarray, dtype: str, shape: list[int]) -> np.ndarray:
    values = data.view(DTYPES[dtype])
    if dtype == "BF16":  # the upper half of an fp32
        values = (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32, copy=False).reshape(shape)
