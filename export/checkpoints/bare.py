"""Reads a model's sizes from tensors in files without a configuration, and handles what they do not reveal."""

from collections.abc import Iterable, Mapping

from export.checkpoint import CheckpointError
from export.checkpoints.options import Options
from export.checkpoints.settings import LAYERS
from export.checkpoints.tensors import RawTensor


def matrix(tensors: Mapping[str, RawTensor], name: str) -> tuple[int, int]:
    """The shape of a matrix. Raises CheckpointError if there is none of that name."""
    if name not in tensors:
        raise CheckpointError(f"it lacks the tensor {name}")
    shape = tensors[name].shape
    if len(shape) != 2 or min(shape) < 1:
        raise CheckpointError(f"its tensor {name} has shape {list(shape)}, expected is a matrix")
    return shape[0], shape[1]


def layer_count(names: Iterable[str], block: str) -> int:
    count = len({name.removeprefix(block).split(".")[0] for name in names if name.startswith(block)})
    if not 1 <= count <= LAYERS:
        raise CheckpointError(f"it has {count} layers, allowed are 1 to {LAYERS}")
    return count


def heads(options: Options, width: int, known: int | None) -> int:
    """``known``: the head count of the published model with these sizes, if any."""
    if (count := options.heads or known) is None:
        raise CheckpointError(f"nothing in it tells how many heads its width of {width} is divided into: set HEADS (--heads)")
    return count
