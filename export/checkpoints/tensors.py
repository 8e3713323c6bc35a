"""A file's raw tensors and their mapping to canonical weights: found by name, checked for shape, read on demand."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod

import numpy as np

from export.checkpoint import CheckpointError

Shape = tuple[int, ...]
FP32_BYTES, SMALLEST_BYTES = 4, 0.5  # per weight: when read, and at the smallest precision served


@dataclass(frozen=True)
class RawTensor:
    """A tensor with the name and layout of its file."""

    shape: Shape
    read: Callable[[], np.ndarray]  # fp32 of that shape; costs time and memory, so call it once and late


@dataclass(frozen=True)
class Source:
    """The source of one canonical weight."""

    raw: Mapping[str, Shape]  # the raw tensors, with the shapes that the configuration requires
    arrange: Callable[..., np.ndarray] = lambda tensor: tensor  # raw tensors, in that order → the canonical one


class Weights(Mapping[str, np.ndarray]):
    """Canonical weights, read from the file on each access, so only those held by the caller are in memory.

    Access raises CheckpointError if the weight contains NaN or infinity.
    """

    def __init__(self, tensors: Mapping[str, RawTensor], sources: Mapping[str, Source]) -> None:
        self._tensors, self._sources = tensors, sources

    def __getitem__(self, name: str) -> np.ndarray:
        source = self._sources[name]
        with np.errstate(all="ignore"):  # values too large for fp32 become infinity
            raw = [self._tensors[name].read() for name in source.raw]
            weight = np.ascontiguousarray(source.arrange(*raw), dtype=np.float32)
        if not np.isfinite(weight).all():
            raise CheckpointError(
                f"the checkpoint's tensor {' or '.join(source.raw)} holds NaN or infinity, so the training of this model failed"
            )
        return weight

    def __contains__(self, name: object) -> bool:
        return name in self._sources  # Mapping's own would read the weight

    def __iter__(self) -> Iterator[str]:
        return iter(self._sources)

    def __len__(self) -> int:
        return len(self._sources)


def fitting(tensors: dict[str, RawTensor]) -> dict[str, RawTensor]:
    """Returns the tensors if this machine could hold them. A sparse file may claim any size while using no disk space."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for name, tensor in tensors.items():
        if prod(tensor.shape) * FP32_BYTES > memory:
            raise CheckpointError(
                f"its tensor {name} of shape {list(tensor.shape)} takes {_gib(prod(tensor.shape) * FP32_BYTES)}, "
                f"this machine has {_gib(memory)}"
            )
    parameters = sum(prod(tensor.shape) for tensor in tensors.values())
    if parameters * SMALLEST_BYTES > memory:
        raise CheckpointError(f"its {parameters} weights take more than this machine's {_gib(memory)}, even at 4 bits each")
    return tensors


def check_places(places: Iterable[tuple[str, int, int]]) -> None:
    """``(name, begin, end)`` of every tensor in a file. Raises CheckpointError if two of them overlap."""
    last, end = "", 0
    for name, begin, until in sorted(places, key=lambda place: place[1:]):
        if begin < end and begin < until:
            raise CheckpointError(f"its tensors {last} and {name} overlap in the file, which is damaged")
        if until > end:
            last, end = name, until


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"


def map_weights(tensors: Mapping[str, RawTensor], sources: Mapping[str, Source], ignored: Callable[[str], bool]) -> Weights:
    """Maps a file whose tensors must be exactly those of ``sources``, apart from ``ignored`` ones. Raises CheckpointError."""
    expected = {name: shape for source in sources.values() for name, shape in source.raw.items()}
    if missing := [name for name in expected if name not in tensors]:
        raise CheckpointError(f"it lacks the tensors {_listing(missing)}")
    if unknown := [name for name in tensors if name not in expected and not ignored(name)]:
        raise CheckpointError(f"it holds tensors that this kind of model does not have: {_listing(unknown)}")
    for name, shape in expected.items():
        if tensors[name].shape != shape:
            raise CheckpointError(
                f"its tensor {name} has shape {list(tensors[name].shape)}, its configuration asks for {list(shape)}"
            )
    return Weights({name: tensors[name] for name in expected}, sources)


def is_tied(tensors: Mapping[str, RawTensor], head: str, embedding: str) -> bool:
    """Whether the head is the embedding: absent from the file, or equal to it."""
    if head not in tensors or embedding not in tensors:
        return head not in tensors
    return tensors[head].shape == tensors[embedding].shape and np.array_equal(
        tensors[head].read(), tensors[embedding].read(), equal_nan=True
    )


def _listing(names: list[str]) -> str:
    shown = ", ".join(names[:6])
    return shown if len(names) <= 6 else f"{shown} and {len(names) - 6} more"
