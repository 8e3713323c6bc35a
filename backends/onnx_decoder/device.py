"""The device that computes and holds the KV pool: the interface, and the CPU. The GPU is in gpu.py."""

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
    """A device of ONNX Runtime that computes and holds the KV pool."""

    @property
    def name(self) -> str:
        """ "cpu", "cuda" """

    @property
    def providers(self) -> Sequence[str | tuple[str, dict[str, str]]]:
        """ONNX Runtime providers; the first is the intended one."""

    @property
    def copies_inputs(self) -> bool:
        """Whether inputs are copied from the CPU to the device. This happens when they are bound, not when they are used."""

    def allocate(self, shape: tuple[int, ...], dtype: np.dtype) -> Memory:
        """Allocates zeros."""
        ...


class Cpu:
    """``growing``: the pool takes memory only as its positions are first written. Otherwise it takes all memory at once."""

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
    """Allocates zeros whose pages the kernel maps on first write. Uses small pages, because a huge page spans positions of
    multiple slots: the first step of a few sequences would then map nearly the whole pool, which takes seconds."""
    size = int(np.prod(shape)) * dtype.itemsize
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError):  # a kernel without huge pages
        memory.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(memory, dtype).reshape(shape)
