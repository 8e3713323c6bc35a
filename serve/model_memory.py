"""What the models of a Triton take of this machine's memory: now, and when their slots are full."""

import mmap
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

# As backends/onnx_decoder/model.py logs it for each version that it loads.
SLOTS = re.compile(r'"(\S+): (\d+) slots of (\d+) tokens on \w+, (\d+) bytes each, (growing|reserved)"')
FEW_SLOTS = 4  # as suggested for less memory


@dataclass(frozen=True)
class ModelMemory:
    resident: int  # bytes
    growth: int  # bytes that full slots would take besides
    slots: int  # of the default model
    context_length: int

    def __str__(self) -> str:
        slots = f"{self.slots} slots of {self.context_length:,} tokens"
        if not self.growth:
            return f"{_gb(self.resident)}, {slots} included"
        less = f"; SLOTS={FEW_SLOTS} for less" if self.slots > FEW_SLOTS else ""
        return f"{_gb(self.resident)} now, up to {_gb(self.resident + self.growth)} with {slots} all full{less}"


def model_memory(model: str, log: str, processes: Iterable[int]) -> ModelMemory | None:
    """``log``: what Triton has logged. None where it says nothing of the model."""
    loaded = {name: (int(slots), int(length), int(size), how) for name, slots, length, size, how in SLOTS.findall(log)}
    if model not in loaded:
        return None
    slots, context_length, _, _ = loaded[model]
    growth = sum(slots * size for slots, _, size, how in loaded.values() if how == "growing")
    return ModelMemory(sum(map(_resident, processes)), growth, slots, context_length)


def _resident(process: int) -> int:
    with suppress(OSError):  # it has ended
        return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * mmap.PAGESIZE
    return 0


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
