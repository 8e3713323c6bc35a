"""What computes here: the card, versions, and the bandwidth of its memory. No torch: the peers bring that along."""

import platform
import subprocess
import time
from importlib import metadata
from typing import Any

import numpy as np
import onnxruntime

from backends.onnx_decoder import gpu
from backends.onnx_decoder.device import Cpu, Device

COPIED = {"cuda": 2**30, "cpu": 2**27}  # bytes, far more than any cache holds
PACKAGES = ("numpy", "tritonclient", "nvidia-pytriton")
QUERIED = "name,driver_version,memory.total,compute_cap,clocks.max.memory"


def check(name: str) -> None:
    """SystemExit with the reason where the device cannot be used. Loads CUDA's libraries."""
    if name == "cuda" and (reason := gpu.why_not("fp16")):
        raise SystemExit(f"gpu-check: {reason}")


def device_of(name: str) -> Device:
    """SystemExit as in `check`."""
    check(name)
    return gpu.Device() if name == "cuda" else Cpu()


def facts(name: str) -> dict[str, Any]:
    known: dict[str, Any] = {
        "device": name,
        "python": platform.python_version(),
        "onnxruntime": onnxruntime.__version__,
        "providers": onnxruntime.get_available_providers(),
    }
    known |= {package: _version(package) for package in PACKAGES}
    if name == "cuda":
        command = ["nvidia-smi", f"--query-gpu={QUERIED}", "--format=csv"]
        known["nvidia-smi"] = subprocess.run(command, capture_output=True, text=True).stdout.splitlines()
    return known


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:  # a bundle may bring along only its files
        return None


def bandwidth(device: Device) -> float:
    """Bytes a second that a copy within the device's memory reads and writes."""
    rows, size = 64, COPIED[device.name]
    memory = device.allocate((2, rows, size // rows, 1), np.dtype(np.uint8))
    seconds = []
    for _ in range(6):
        began = time.perf_counter()
        memory.copy_prefix(0, 1, size // rows)  # returns when it is done
        seconds.append(time.perf_counter() - began)
    return 2 * size / min(seconds)
