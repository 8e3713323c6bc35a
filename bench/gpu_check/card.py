"""What computes here: the card, versions, and the bandwidth of its memory."""

import platform
import time
from collections.abc import Callable
from importlib import metadata
from typing import Any

import onnxruntime
import torch

from backends.onnx_decoder import gpu
from backends.onnx_decoder.device import Cpu, Device

COPIED = {"cuda": 2**30, "cpu": 2**28}  # bytes, far more than any cache holds
PACKAGES = ("torch", "transformers", "numpy", "tritonclient", "nvidia-pytriton")


def device_of(name: str) -> Device:
    """SystemExit with the reason where it cannot be used."""
    if name == "cpu":
        return Cpu()
    if reason := gpu.why_not("fp16"):
        raise SystemExit(f"gpu-check: {reason}")
    if not torch.cuda.is_available():
        raise SystemExit(
            f"gpu-check: torch {torch.__version__} does not see the GPU: is it the build for CUDA {gpu.built_for()}?"
        )
    return gpu.Device()


def facts(name: str) -> dict[str, Any]:
    known: dict[str, Any] = {
        "device": name,
        "python": platform.python_version(),
        "onnxruntime": onnxruntime.__version__,
        "providers": onnxruntime.get_available_providers(),
    }
    known |= {package: metadata.version(package) for package in PACKAGES}
    if name == "cuda":
        card = torch.cuda.get_device_properties(0)
        known |= {"card": card.name, "memory": card.total_memory, "capability": f"{card.major}.{card.minor}"}
        known |= {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
    return known


def seconds(name: str, work: Callable[[], object], times: int = 1) -> float:
    """Of one of ``times`` runs, until the device has finished."""
    synchronize(name)
    began = time.perf_counter()
    for _ in range(times):
        work()
    synchronize(name)
    return (time.perf_counter() - began) / times


def synchronize(name: str) -> None:
    if name == "cuda":
        torch.cuda.synchronize()


def bandwidth(name: str) -> float:
    """Bytes a second that a copy within the device's memory reads and writes."""
    source = torch.zeros(COPIED[name], dtype=torch.uint8, device=name)
    target = torch.empty_like(source)
    target.copy_(source)
    return 2 * COPIED[name] / min(seconds(name, lambda: target.copy_(source), 3) for _ in range(5))
