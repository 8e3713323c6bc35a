"""A decode step's time: in kernels, and in the gaps between them."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from backends.onnx_decoder.decoder import Decoder, Row, session_options
from backends.onnx_decoder.device import Device
from bench.gpu_check.kernels import CuptiError, Interval, busy, cupti, nodes

ROWS, ROWS_QUICK = [1, 64, 256], [1, 4]
PAST, CONTEXT = 128, 256  # tokens
WARM, STEPS = 3, 20
LONGEST = 6  # kernels that are named


@dataclass(frozen=True)
class Profile:
    """Per step. Without ``kernel_seconds`` nothing could look into the device."""

    rows: int
    seconds: float
    kernel_seconds: float | None = None
    kernels: float | None = None
    longest: dict[str, float] | None = None  # seconds by name
    failure: str | None = None

    def line(self) -> str:
        head = f"{self.rows} rows: a step takes {self.seconds * 1e3:.2f} ms"
        if self.kernel_seconds is None or self.longest is None:
            return f"{head}; its kernels are unknown: {self.failure}"
        gaps = max(0.0, self.seconds - self.kernel_seconds)
        named = ", ".join(f"{name} {seconds * 1e6:.0f}" for name, seconds in self.longest.items())
        inside = f"{self.kernel_seconds * 1e3:.2f} in {self.kernels:.0f} kernels"
        return f"{head}: {inside}, {gaps * 1e3:.2f} in gaps; µs by kernel: {named}"


def steps(decoder: Decoder, rows: int) -> Callable[[], object]:
    """One decode step of so many rows, behind whatever the cache holds."""
    batch = [Row(slot, PAST, np.array([slot + 1], np.int32)) for slot in range(rows)]
    return lambda: decoder.run(batch)


def seconds(work: Callable[[], object], times: int = STEPS) -> float:
    """Of one, on average, as the kernels are counted."""
    for _ in range(WARM):
        work()
    began = time.perf_counter()
    for _ in range(times):
        work()
    return (time.perf_counter() - began) / times


def profiles(model: Path, device: Device, counts: list[int], peers_python: str, scratch: Path) -> Iterator[Profile]:
    if device.name == "cpu":
        yield from (_on_cpu(model, rows, scratch) for rows in counts)
        return
    decoder = Decoder(model, slots=counts[-1], context_length=CONTEXT, device=device)
    recorder, failure = None, ""
    try:
        recorder = cupti(peers_python)
    except CuptiError as error:
        failure = str(error)
    for rows in counts:
        step = steps(decoder, rows)
        taken, found = seconds(step), None  # before it is recorded, which takes time itself
        if recorder:
            try:
                found = recorder.record(lambda step=step: [step() for _ in range(STEPS)])  # type: ignore[misc]
            except CuptiError as error:
                recorder, failure = None, str(error)
        yield Profile(rows, taken, failure=failure) if found is None else _profile(rows, taken, found)


def _on_cpu(model: Path, rows: int, scratch: Path) -> Profile:
    options = session_options()
    options.enable_profiling, options.profile_file_prefix = True, str(scratch / "profile")
    decoder = Decoder(model, slots=rows, context_length=CONTEXT, options=options)
    taken = seconds(steps(decoder, rows))
    written = Path(decoder._session.end_profiling())
    found = list(nodes(written, WARM))
    written.unlink()
    return _profile(rows, taken, found)


def _profile(rows: int, taken: float, found: list[Interval]) -> Profile:
    by_name = defaultdict[str, float](float)
    for name, start, end in found:
        by_name[name] += (end - start) / STEPS
    longest = dict(sorted(by_name.items(), key=lambda one: -one[1])[:LONGEST])
    return Profile(rows, taken, busy(found) / STEPS, len(found) / STEPS, longest)
