"""Each variant beside the decoder as it is: whether it says the same, and how long a step takes, in turn."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from backends.onnx_decoder import gpu
from backends.onnx_decoder.decoder import Candidates, Decoder, Row
from backends.onnx_decoder.device import Device
from bench.gpu_check.variants import Buffered, GraphDevice, Graphed, PaddedPrefill, two_stages

ROWS, ROWS_QUICK = [1, 64, 256], [1, 3]
CONTEXT = 512  # tokens of a slot
WARM, REPEATS = 4, 20
COMPARED = 8  # decode steps behind a prompt
Make = Callable[[Path, Device, int], Decoder]  # model, device, slots


@dataclass(frozen=True)
class Trial:
    rows: int
    default_seconds: float
    variant_seconds: float
    same_tokens: bool
    largest_difference: float  # of a candidate's logit

    def line(self) -> str:
        default, variant = self.default_seconds * 1e3, self.variant_seconds * 1e3
        same = "the same tokens" if self.same_tokens else "**OTHER TOKENS**"
        speed = f"{default:.2f} ms, the variant {variant:.2f} ms (× {default / variant:.2f})"
        return f"{self.rows} rows: {speed}, {same}, logits differ by at most {self.largest_difference:.1e}"


@dataclass(frozen=True)
class Variant:
    title: str
    make: Make
    prompt: int  # tokens of each row's prompt
    prefills: bool = False  # it is about prompts, not about decode steps


def _plain(model: Path, device: Device, slots: int) -> Decoder:
    return Decoder(model, slots=slots, context_length=CONTEXT, device=device)


def _buffered(model: Path, device: Device, slots: int) -> Decoder:
    return Buffered(model, slots=slots, context_length=CONTEXT, device=device)


def _graphed(model: Path, device: Device, slots: int) -> Decoder:
    captures = GraphDevice() if isinstance(device, gpu.Device) else device
    return Graphed(model, slots=slots, context_length=CONTEXT, device=captures)


def _two_stages(model: Path, device: Device, slots: int) -> Decoder:
    target = model.with_name("two-stages.onnx")
    try:
        return _plain(two_stages(model, target), device, slots)
    finally:
        target.unlink()


def _padded(model: Path, device: Device, slots: int) -> Decoder:
    return PaddedPrefill(model, slots=slots, context_length=CONTEXT, device=device)


VARIANTS = {
    "buffers": Variant("Inputs and outputs in one buffer each", _buffered, prompt=20),
    "graphs": Variant("CUDA graphs, rows padded to a power of two", _graphed, prompt=20),
    "top-k": Variant("Candidates in two stages", _two_stages, prompt=20),
    "prefill": Variant("Prompts padded into one pass", _padded, prompt=128, prefills=True),
}


def trial(variant: Variant, model: Path, device: Device, rows: int) -> Trial:
    slots = 1 << (rows - 1).bit_length()
    default, other = (make(model, device, slots) for make in (_plain, variant.make))
    expected, found = (_texts(decoder, rows, variant.prompt) for decoder in (default, other))
    same = all(np.array_equal(a.candidate_id[:, 0], b.candidate_id[:, 0]) for a, b in zip(expected, found, strict=True))
    differences = [np.abs(a.candidate_logit - b.candidate_logit).max() for a, b in zip(expected, found, strict=True)]
    step = _prompts(rows, variant.prompt) if variant.prefills else _next(rows, variant.prompt)
    seconds = _in_turn(default, other, step)
    return Trial(rows, *seconds, same, float(max(differences)))


def _prompts(rows: int, length: int) -> list[Row]:
    """Of about that length: no two neighbours' are alike."""
    random = np.random.default_rng(3)
    return [Row(slot, 0, random.integers(0, 20000, max(2, length - slot % 7)).astype(np.int32)) for slot in range(rows)]


def _next(rows: int, past: int) -> list[Row]:
    return [Row(slot, past, np.array([slot + 1], np.int32)) for slot in range(rows)]


def _texts(decoder: Decoder, rows: int, length: int) -> list[Candidates]:
    """Of every row: greedy, some of them in every other step only, so that slots stand idle between."""
    prompts = _prompts(rows, length)
    found = decoder.run(prompts)
    lengths, tokens = [len(row.tokens) for row in prompts], [one.candidate_id[-1, :1] for one in found]
    everything = list(found)
    for step in range(COMPARED):
        going = [slot for slot in range(rows) if slot % 3 != 1 or step % 2]
        answers = decoder.run([Row(slot, lengths[slot], tokens[slot]) for slot in going])
        for slot, answer in zip(going, answers, strict=True):
            lengths[slot], tokens[slot] = lengths[slot] + 1, answer.candidate_id[0, :1]
        everything += answers
    return everything


def _in_turn(default: Decoder, variant: Decoder, step: Sequence[Row]) -> tuple[float, float]:
    """Median seconds of both."""
    seconds: list[tuple[float, float]] = []
    for _ in range(WARM + REPEATS):
        ends = [time.perf_counter()]
        for decoder in (default, variant):
            decoder.run(step)
            ends.append(time.perf_counter())
        seconds.append((ends[1] - ends[0], ends[2] - ends[1]))
    first, second = (statistics.median(one) for one in zip(*seconds[WARM:], strict=True))
    return first, second
