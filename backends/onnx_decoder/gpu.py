"""A GPU under ONNX Runtime's CUDA provider: why it cannot be used, its free memory, and the KV pool on it.

The pool is allocated through the driver, because an arena would round its size up to a power of two. If the GPU cannot be used,
one sentence says why and what to do; there is no silent fallback. cuda-bindings and onnxruntime-gpu are installed only from
requirements/triton-gpu.lock.
"""

import ctypes
import importlib.util
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

LEAST_CAPABILITY = (7, 5)  # Turing: CUDA 13 does not support older ones
PROVIDER = "CUDAExecutionProvider"


class CudaError(Exception):
    """A driver call failed."""


def present() -> bool:
    """Whether this machine or container has an NVIDIA GPU; /dev/dxg is the device on Windows (WSL 2)."""
    return any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/dxg").exists()


def why_not(precision: str) -> str | None:
    """Returns why a model of this precision cannot run on the GPU, or None if it can."""
    version = onnxruntime.__version__
    if precision != "fp16":
        return f"this export is {precision}, and attention on a GPU takes fp16: export it with --precision fp16"
    if PROVIDER not in onnxruntime.get_available_providers():
        return f"onnxruntime {version} has no CUDA provider: install what requirements/triton-gpu.lock names in its place"
    driver = _driver()
    if driver is None:
        return "the package cuda-bindings is missing: install what requirements/triton-gpu.lock names"
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "there is no driver (libcuda.so.1): install NVIDIA's driver, and for a container NVIDIA's container toolkit"
    return _unfit_device(driver) or _missing_libraries()


def _unfit_device(driver: Any) -> str | None:
    needed = built_for()
    try:
        has = _call(driver.cuDriverGetVersion())
        if has // 1000 < needed:
            found = f"{has // 1000}.{has % 1000 // 10}"
            return f"the driver is for CUDA {found}, onnxruntime for CUDA {needed}: install a newer driver"
        _call(driver.cuInit(0))
        if not _call(driver.cuDeviceGetCount()):
            return "the driver finds no GPU: is CUDA_VISIBLE_DEVICES empty, or the device not given to this container?"
        device = _call(driver.cuDeviceGet(0))
        attribute = driver.CUdevice_attribute
        capability = tuple(
            _call(driver.cuDeviceGetAttribute(one, device))
            for one in (
                attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
                attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
            )
        )
    except CudaError as error:
        return f"the driver answers {error}: see nvidia-smi"
    if capability < LEAST_CAPABILITY:
        have, least = (".".join(map(str, one)) for one in (capability, LEAST_CAPABILITY))
        return f"the GPU has compute capability {have}, and CUDA {needed} takes {least} or newer"
    return None


def built_for() -> int:
    """The major version of CUDA that this onnxruntime was built for."""
    from onnxruntime.capi import build_and_package_info  # has a CUDA version only in CUDA builds

    return int(build_and_package_info.cuda_version.split(".")[0])


def _missing_libraries() -> str | None:
    """Loads the libraries installed by pip. Returns what the provider still lacks."""
    if importlib.util.find_spec("nvidia"):
        onnxruntime.preload_dlls()
    provider = Path(onnxruntime.__file__).parent / "capi" / "libonnxruntime_providers_cuda.so"
    output = subprocess.run(["ldd", provider], capture_output=True, text=True).stdout
    lacks = sorted(line.split()[0] for line in output.splitlines() if "not found" in line and not _loads(line.split()[0]))
    if lacks:
        cuda = f"CUDA {built_for()} and cuDNN 9"
        return f"onnxruntime's CUDA provider lacks {', '.join(lacks)}: use a Triton image with {cuda}, or install their wheels"
    return None


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


class Device:
    """The first visible GPU. Raises CudaError."""

    name = "cuda"
    copies_inputs = True
    # TF32 would round fp32 mantissas to 10 bits. An arena growing by powers of two takes up to twice the memory needed.
    providers = ((PROVIDER, {"device_id": "0", "use_tf32": "0", "arena_extend_strategy": "kSameAsRequested"}),)

    def __init__(self) -> None:
        driver = _driver()
        if driver is None:
            raise CudaError("the package cuda-bindings is missing")
        self._driver = driver
        _call(driver.cuInit(0))
        self._device = _call(driver.cuDeviceGet(0))
        self._context = _call(driver.cuDevicePrimaryCtxRetain(self._device))  # shared with ONNX Runtime
        self._enter()

    def describe(self) -> str:
        name = _call(self._driver.cuDeviceGetName(64, self._device)).split(b"\0")[0].decode()
        return f"{name} with {self.free_memory() / 2**30:.1f} GiB free, onnxruntime {onnxruntime.__version__}"

    def free_memory(self) -> int:
        """Free GPU memory in bytes."""
        self._enter()
        free, _ = self._driver_values(self._driver.cuMemGetInfo())
        return int(free)

    def allocate(self, shape: tuple[int, ...], dtype: np.dtype) -> "Memory":
        """Allocates zeros. The memory is freed with the process: a model's pool lives as long as its stub."""
        self._enter()
        size = int(np.prod(shape)) * dtype.itemsize
        address = _call(self._driver.cuMemAlloc(size))
        _call(self._driver.cuMemsetD8(address, 0, size))
        _call(self._driver.cuCtxSynchronize())
        return Memory(self, int(address), shape, dtype)

    def copy_rows(self, source: int, target: int, *, rows: int, pitch: int, width: int) -> None:
        """Copies the first ``width`` bytes of each of ``rows`` spaced ``pitch`` bytes apart. Returns once the copy is complete,
        because ONNX Runtime's stream does not wait for others."""
        self._enter()
        kind = self._driver.CUmemorytype.CU_MEMORYTYPE_DEVICE
        copy = self._driver.CUDA_MEMCPY2D()
        copy.srcMemoryType = copy.dstMemoryType = kind
        copy.srcDevice, copy.dstDevice = source, target
        copy.srcPitch = copy.dstPitch = pitch
        copy.WidthInBytes, copy.Height = width, rows
        _call(self._driver.cuMemcpy2D(copy))
        _call(self._driver.cuCtxSynchronize())

    def _enter(self) -> None:
        _call(self._driver.cuCtxSetCurrent(self._context))  # per thread

    @staticmethod
    def _driver_values(result: tuple[Any, ...]) -> tuple[Any, ...]:
        _call(result[:1])
        return result[1:]


class Memory:
    """One tensor of the KV pool, [slots, kv_heads, positions, head_dim], on the GPU."""

    def __init__(self, device: Device, address: int, shape: tuple[int, ...], dtype: np.dtype) -> None:
        self.address = address
        self._device = device
        _, self._heads, positions, head_dim = shape
        self._position_bytes = head_dim * dtype.itemsize
        self._head_bytes = positions * self._position_bytes
        self._slot_bytes = self._heads * self._head_bytes

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        self._device.copy_rows(
            self.address + source * self._slot_bytes,
            self.address + target * self._slot_bytes,
            rows=self._heads,
            pitch=self._head_bytes,
            width=length * self._position_bytes,
        )


def _driver() -> Any:
    try:
        from cuda.bindings import driver
    except ImportError:
        return None
    return driver


def _call(result: tuple[Any, ...]) -> Any:
    """Returns the value of a driver call; its first element is the status. Raises CudaError."""
    error, *values = result
    if int(error) != 0:
        raise CudaError(error.name)
    return values[0] if values else None
