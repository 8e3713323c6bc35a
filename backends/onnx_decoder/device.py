"""What computes and holds the KV pool, as the decoder needs it: the CPU here, a GPU in gpu.py."""

import mmap
from collections.abc import Sequence
from contextlib import suppress
from typing import ClassVar, Protocol

import numpy as np


class Memory(Protocol):
    """One tensor of the KV pool."""

    address: int

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        """Copies the first ``length`` positions of a slot to another one."""
        ...


class Device(Protocol):
    """What computes, as ONNX Runtime knows it, and has the KV pool."""

    @property
    def name(self) -> str:
        """ "cpu", "cuda" """

    @property
    def providers(self) -> Sequence[str | tuple[str, dict[str, str]]]:
        """The first is the one meant."""

    @property
    def copies_inputs(self) -> bool:
        """Whether inputs go there from the CPU: that happens when they are bound, not when they are used."""

    def allocate(self, shape: tuple[int, ...], dtype: np.dtype) -> Memory:
        """Zeros."""
        ...


class Cpu:
    """``growing``: the pool takes memory only as its positions are first written. Otherwise it takes all of it at once."""

    name = "cpu"
    providers: ClassVar[Sequence[str]] = ("CPUExecutionProvider",)
    copies_inputs = False

    def __init__(self, *, growing: bool = False) -> None:
        self.growing = growing

    def allocate(self, shape: tuple[int, ...], dtype: np.dtype) -> Memory:
        return _CpuMemory(_unmapped_zeros(shape, dtype) if self.growing else np.full(shape, 0, dtype))


class _CpuMemory:
    def __init__(self, array: np.ndarray) -> None:
        self._array = array
        self.address = array.ctypes.data

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        self._array[target, :, :length] = self._array[source, :, :length]


def _unmapped_zeros(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Zeros whose pages the kernel provides at their first write. Small pages, because a huge one spans the positions of
    several slots: the first step of a few sequences would then map nearly all of the pool, which takes seconds."""
    size = int(np.prod(shape)) * dtype.itemsize
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError):  # a kernel without huge pages
        memory.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(memory, dtype).reshape(shape)
