"""Reads a `.pt` file without running any code from it.

torch's `weights_only` loading accepts tensors and plain containers, but no classes of training scripts, such as the GPTConfig
in a build-nanogpt checkpoint. Each such class is replaced by a stand-in that can be filled but not called. Functions and
classes of the standard library or of torch are rejected by name before anything is loaded.
"""

import re
import sys
import zipfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from export.checkpoint import CheckpointError, shown
from export.checkpoints.tensors import RawTensor, fitting

if TYPE_CHECKING:
    import torch

# parts of pickled numpy random states and scalars: also loaded as stand-ins, and dropped
NUMPY_VALUES = {
    f"numpy.{module}.multiarray.{name}" for module in ("core", "_core") for name in ("_reconstruct", "scalar", "_frombuffer")
} | {"numpy.ndarray", "numpy.dtype", "numpy._core.numeric._frombuffer", "numpy.core.numeric._frombuffer"}
PICKLE_LIMIT = 64 << 20  # bytes, excluding tensors
PREFIXES = re.compile(r"(_orig_mod\.|module\.)+")
BUFFER_TYPES = {"bool", "uint8", "int64"}  # types of masks and positions
CONTAINERS = {"argparse.Namespace"}  # standard-library classes that only hold fields


def load(path: Path) -> dict[str, Any]:
    """The saved dictionary: tensors are memory-mapped, other objects are stand-ins, and none of its code runs."""
    try:
        import torch
    except ImportError as exc:
        raise CheckpointError(
            "reading a .pt checkpoint needs torch, which is not installed: `make setup-torch`, elsewhere `pip install torch`"
        ) from exc
    _check_archive(path)
    try:
        unknown = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        with torch.serialization.safe_globals([_stand_in(name) for name in unknown]):
            saved = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except CheckpointError:
        raise
    except Exception as exc:  # a damaged or hostile file can raise anything
        said = str(exc).split("\n")[0]
        raise CheckpointError(
            f"torch cannot read it, so it is damaged or no checkpoint ({type(exc).__name__}: {said})"
        ) from exc
    if not isinstance(saved, dict):
        raise CheckpointError("it holds no dictionary, as checkpoints do")
    return saved


def fields(value: Any) -> dict[str, Any] | None:
    """The fields of a saved configuration, whether a dictionary or an object; None if it is neither."""
    if isinstance(value, dict):
        return value
    return vars(value) if isinstance(type(value), _Uncallable) else None


def state_dict(model: Any, what: str = "its `model`") -> dict[str, "torch.Tensor"]:
    """The tensors of a model, without the name prefixes of torch.compile and DistributedDataParallel and without mask and
    position buffers. ``what``: a description for messages."""
    import torch

    if not isinstance(model, dict) or not model:
        raise CheckpointError(f"{what} is no state dict: it holds no tensors")
    for name, tensor in model.items():
        if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
            raise CheckpointError(f"{what} is no state dict: {shown(name)} is a {type(tensor).__name__}, not a tensor")
    kept = {name: tensor for name, tensor in model.items() if str(tensor.dtype).removeprefix("torch.") not in BUFFER_TYPES}
    for name, tensor in kept.items():
        if tensor.layout != torch.strided or tensor.device.type != "cpu" or not tensor.dtype.is_floating_point:
            kind = f"a {tensor.layout} tensor of {tensor.dtype} on {tensor.device}"
            raise CheckpointError(f"its tensor {name} is {kind}, served are plain ones of floating-point numbers")
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise CheckpointError(f"its tensor {name} claims to be larger than its storage")
    return {_plain(name): tensor.detach() for name, tensor in kept.items()}


def raw_tensors(state: dict[str, "torch.Tensor"]) -> dict[str, RawTensor]:
    return fitting({name: RawTensor(tuple(tensor.shape), partial(_fp32, tensor)) for name, tensor in state.items()})


def _fp32(tensor: "torch.Tensor") -> np.ndarray:
    return tensor.float().numpy()  # a view of the file if it is fp32 already


def _plain(name: str) -> str:
    return PREFIXES.sub("", name, count=1) if PREFIXES.match(name) else name


def _check_archive(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as exc:
        raise CheckpointError("it is cut short or damaged: the end of its zip archive is missing") from exc
    if not any(entry.filename.endswith("/data.pkl") for entry in entries):
        raise CheckpointError("it is a zip archive, but not one that torch.save wrote")
    if any(entry.filename.endswith("/data.pkl") and entry.file_size > PICKLE_LIMIT for entry in entries):
        raise CheckpointError(f"its data.pkl is longer than {PICKLE_LIMIT} bytes, which no description of tensors is")
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise CheckpointError("its archive is compressed, which torch.save never does")


class _Uncallable(type):
    """A class that pickle can create empty and fill, but that cannot be called."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        raise CheckpointError(
            f"it would call {cls.__qualname__} on loading; a checkpoint may hold only tensors and plain values"
        )


class _Absorbing(type):
    """The stand-in for numpy's functions and classes: calling it returns an inert object that accepts any state."""


def _stand_in(name: str) -> tuple[type, str]:
    """An inert class for a global that the file names. Raises CheckpointError if it is not allowed."""
    if name in NUMPY_VALUES or name.startswith("numpy.dtypes."):
        nothing = {"__new__": lambda cls, *args: object.__new__(cls), "__init__": lambda self, *args: None}
        return _Absorbing("numpy", (), nothing | {"__setstate__": lambda self, state: None}), name
    library = name.split(".")[0]
    if library in {*sys.stdlib_module_names, "torch", "numpy"} - {"__main__"} and name not in CONTAINERS:
        raise CheckpointError(
            f"it names {name}, which could run code on loading; "
            "a checkpoint may hold only tensors, plain values and a configuration class"
        )
    return _Uncallable(name, (), {"__new__": lambda cls: object.__new__(cls)}), name
