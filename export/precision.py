"""PRECISION=auto: chooses how to store the weights, by the checkpoint and the hardware."""

import os
from pathlib import Path

from export.checkpoint import Checkpoint
from export.quantize import keeps_in_int4

CPU_FACTS = Path("/proc/cpuinfo")
MORE_EXACT = {"int4": "int8", "int8": "fp32"}  # the fallback if rounding changes a model too much
VNNI = {"avx512_vnni", "avx_vnni"}  # instructions for 8-bit dot products


def choose(checkpoint: Checkpoint) -> tuple[str, str]:
    """One of PRECISIONS, and the reason. Evidence: docs/export.md."""
    if os.environ.get("TIDEGATE_DEVICE") == "cuda":
        return "fp16", "attention on a GPU needs it"
    if has_vnni():
        return "int8", "this CPU has instructions for it (VNNI)"
    if _has_four_bits(checkpoint):
        return "int4", "the checkpoint itself has 4 bits, so nothing is lost"
    return "int8", "4 bits would lose too much"


def has_vnni() -> bool:
    flags = next((line for line in CPU_FACTS.read_text().splitlines() if line.startswith("flags")), "")
    return not VNNI.isdisjoint(flags.split())


def _has_four_bits(checkpoint: Checkpoint) -> bool:
    names = (name for name in checkpoint.weights if name.startswith("layers."))
    return all(keeps_in_int4(weight) for weight in map(checkpoint.weights.__getitem__, names) if weight.ndim == 2)
