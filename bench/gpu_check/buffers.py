"""Named arrays in one buffer in host memory, with a twin in the device's: one copy each way in place of one per tensor."""

import ctypes
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from backends.onnx_decoder import gpu
from backends.onnx_decoder.device import Device

ALIGNED = 256  # bytes


class Twin(Protocol):
    """``host`` uint8 [size], and the address of as many bytes on the device."""

    host: np.ndarray
    address: int

    def upload(self) -> None: ...

    def download(self) -> None: ...


class _CpuTwin:
    """The same on a CPU, to try it out there."""

    def __init__(self, size: int) -> None:
        self.host, self._device = np.zeros(size, np.uint8), np.zeros(size, np.uint8)
        self.address = int(self._device.ctypes.data)

    def upload(self) -> None:
        self._device[:] = self.host

    def download(self) -> None:
        self.host[:] = self._device


class _GpuTwin:
    """Host memory is page-locked: copies need no staging, and return when they are done."""

    def __init__(self, device: gpu.Device, size: int) -> None:
        self._driver: Any = gpu._driver()
        self.address = device.allocate((1, 1, size, 1), np.dtype(np.uint8)).address
        self._pinned = int(gpu._call(self._driver.cuMemAllocHost(size)))
        self.host = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(self._pinned))
        self.host[:] = 0

    def upload(self) -> None:
        gpu._call(self._driver.cuMemcpyHtoD(self.address, self._pinned, len(self.host)))

    def download(self) -> None:
        gpu._call(self._driver.cuMemcpyDtoH(self._pinned, self.address, len(self.host)))


class Buffer:
    """``arrays``: views of its host memory, as given; ``addresses``: of the same on the device."""

    def __init__(self, device: Device, arrays: Mapping[str, np.ndarray]) -> None:
        sizes = [-(-array.nbytes // ALIGNED) * ALIGNED for array in arrays.values()]
        offsets = np.cumsum([0, *sizes]).tolist()
        self.twin: Twin = _GpuTwin(device, offsets[-1]) if isinstance(device, gpu.Device) else _CpuTwin(offsets[-1])
        self.arrays: dict[str, np.ndarray] = {}
        self.addresses: dict[str, int] = {}
        for (name, array), offset in zip(arrays.items(), offsets, strict=False):
            view = self.twin.host[offset : offset + array.nbytes].view(array.dtype).reshape(array.shape)
            view[...] = array
            self.arrays[name], self.addresses[name] = view, self.twin.address + offset
