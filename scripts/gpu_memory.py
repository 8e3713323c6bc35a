"""The table of docs/gpu.md: how many streams fit into a GPU's memory, given what the backend uses."""

from typing import NamedTuple

from backends.onnx_decoder.contract.limits import JOINED_TOKENS
from backends.onnx_decoder.resources import MOST_SLOTS, SHARE

GIB = 2**30
TAKEN = 1.5 * GIB  # bytes, estimated: CUDA's context, kernels and cuBLAS before any model
HALF = 2  # bytes of a number in fp16
CARDS = {"8 GB": 8, "16 GB": 16, "24 GB": 24, "48 GB": 48, "80 GB": 80, "141 GB": 141}


class Model(NamedTuple):
    parameters: int  # millions
    layers: int
    kv_heads: int
    head_dim: int
    context_length: int

    @property
    def slot_bytes(self) -> int:
        positions = self.context_length + JOINED_TOKENS
        return 2 * self.layers * self.kv_heads * self.head_dim * positions * HALF

    def slots(self, memory: int) -> int:
        """With ``memory`` billions of bytes on the card."""
        free = memory * 10**9 - TAKEN - self.parameters * 10**6 * HALF
        return max(0, int(free * SHARE["cuda"]) // self.slot_bytes)


MODELS = {
    "GPT-2, 124M": Model(124, 12, 12, 64, 1024),
    "SmolLM2-135M": Model(135, 30, 3, 64, 2048),
    "GPT-2 medium, 355M": Model(355, 24, 16, 64, 1024),
    "GPT-2 XL, 1.6B": Model(1558, 48, 25, 64, 1024),
    "TinyLlama, 1.1B": Model(1100, 22, 4, 64, 2048),
    "SmolLM2-1.7B": Model(1711, 24, 32, 64, 2048),
}


def streams_table() -> str:
    lines = [
        f"| model | context | a slot, MiB | {' | '.join(CARDS)} |",
        f"| --- | --- | --- |{' --- |' * len(CARDS)}",
    ]
    for name, model in MODELS.items():
        cells = [f"{slots:,}" if (slots := model.slots(memory)) else "–" for memory in CARDS.values()]
        lines.append(f"| {name} | {model.context_length:,} | {model.slot_bytes / 2**20:.1f} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", f"More than {MOST_SLOTS['cuda']} are taken only where `SLOTS` asks for them.", ""])
