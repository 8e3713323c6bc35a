"""How much memory a Triton's models take: now, and when all slots are full."""

import mmap
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

# Logged by backends/onnx_decoder/model.py for each version that it loads.
SLOTS = re.compile(r'"(\S+): (\d+) slots of (\d+) tokens on \w+, (\d+) bytes each, (growing|reserved)"')
FEW_SLOTS = 4  # suggested for less memory


@dataclass(frozen=True)
class ModelMemory:
    resident: int  # bytes
    growth: int  # additional bytes when all slots are full
    slots: int  # of the default model
    context_length: int

    def __str__(self) -> str:
        slots = f"{self.slots} slots of {self.context_length:,} tokens"
        if not self.growth:
            return f"{_gb(self.resident)}, {slots} included"
        less = f"; SLOTS={FEW_SLOTS} for less" if self.slots > FEW_SLOTS else ""
        return f"{_gb(self.resident)} now, up to {_gb(self.resident + self.growth)} with {slots} all full{less}"


def model_memory(model: str, log: str, processes: Iterable[int]) -> ModelMemory | None:
    """``log`` is Triton's log. Returns None if it does not mention the model."""
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
