"""What computes and holds the KV pool, as the decoder needs it: the CPU here, a GPU in gpu.py."""

from collections.abc import Sequence
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
    name = "cpu"
    providers: ClassVar[Sequence[str]] = ("CPUExecutionProvider",)
    copies_inputs = False

    def allocate(self, shape: tuple[int, ...], dtype: np.dtype) -> Memory:
        return _CpuMemory(shape, dtype)


class _CpuMemory:
    def __init__(self, shape: tuple[int, ...], dtype: np.dtype) -> None:
        # Written once now: untouched pages would be mapped during the first steps, which then take seconds.
        self._array = np.full(shape, 0, dtype)
        self.address = self._array.ctypes.data

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        self._array[target, :, :length] = self._array[source, :, :length]
