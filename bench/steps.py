"""Where a step's time goes, without HTTP: `python -m bench.steps` prints the table of docs/performance.md.

The engine runs in this process, on a real Triton. Every stream decodes in every step that counts; drafts are off.
"""

import asyncio
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.lineup import our_model
from bench.tiny import tiny_model
from gateway.engine.engine import Engine
from gateway.engine.generation import GenerationRecord, GenerationRequest, SamplingParameters
from gateway.engine.step import Backend, StepAnswer, StepRow
from gateway.errors import BackendUnavailable
from gateway.settings import Settings
from gateway.text.model import Model
from gateway.triton.client import TritonClient
from testing.proc import cpu_seconds
from testing.triton import Triton

TOKENS, REPEATS = 96, 3
STREAMS = (1, 8, 32)
BUDGETS = (0, 25)  # ms that a run-ahead may take
HEAD = ("streams", "RUN_AHEAD, ms", "tokens a step and stream", "step, ms", "backend, ms", "the rest, ms", "of all cores used")


@dataclass
class Steps:
    """With a row of every stream."""

    count: int = 0
    seconds: float = 0.0  # from one step's beginning to the next one's
    backend: float = 0.0  # of these


class Watched:
    """A backend whose steps are timed, where they hold ``rows`` rows as the one before did."""

    def __init__(self, backend: Backend) -> None:
        self._backend, self.steps, self.rows = backend, Steps(), 0
        self._last: tuple[float, float] | None = None  # the last step's beginning, and its seconds in the backend

    async def step(self, model: Model, rows: list[StepRow], release: list[int], time_budget: float | None = None) -> StepAnswer:
        now, last, self._last = time.perf_counter(), self._last, None
        if last is not None:
            self.steps.count += 1
            self.steps.seconds += now - last[0]
            self.steps.backend += last[1]
        answer = await self._backend.step(model, rows, release, time_budget)
        if len(rows) == self.rows and all(row.decodes for row in rows):
            self._last = now, answer.compute_seconds
        return answer


async def measure(triton: Triton, name: str) -> list[tuple[str, ...]]:
    """The table's rows."""
    rows = []
    for budget in BUDGETS:
        async with TritonClient(triton.grpc_address) as client:
            model, watched = await client.describe(name), Watched(client)
            engine = Engine(model, Settings(run_ahead=budget, speculation=False))
            engine.add_replica(triton.grpc_address, watched, model)
            for streams in STREAMS:
                await _generate(engine, streams)  # what a step takes is learned
                watched.steps, watched.rows = Steps(), streams
                with _busy({"triton": triton.pid, "stub": triton.stub_pids[0], "engine": os.getpid()}) as busy:
                    for _ in range(REPEATS):
                        await _generate(engine, streams)
                rows.append((str(streams), str(budget or "off"), *_figures(watched.steps), f"{busy['share']:.2f}"))
            await engine.close(BackendUnavailable("It was measured."))
    return rows


def _figures(steps: Steps) -> tuple[str, ...]:
    step, backend = 1000 * steps.seconds / steps.count, 1000 * steps.backend / steps.count
    tokens = REPEATS * TOKENS / steps.count
    return f"{tokens:.1f}", f"{step:.1f}", f"{backend:.1f}", f"{step - backend:.1f}"


@contextmanager
def _busy(pids: Mapping[str, int]) -> Iterator[dict[str, float]]:
    """Filled in at its end: which share of all cores these processes took."""
    share: dict[str, float] = {}
    began, before = time.perf_counter(), sum(map(cpu_seconds, pids.values()))
    yield share
    cores = len(os.sched_getaffinity(0))
    share["share"] = (sum(map(cpu_seconds, pids.values())) - before) / (time.perf_counter() - began) / cores


async def _generate(engine: Engine, streams: int) -> None:
    async def one(number: int) -> None:
        prompt = engine.model.tokenizer.encode(f"Number {number}: the king of the country was")
        request = GenerationRequest(prompt, TOKENS, SamplingParameters(temperature=0.0), ignore_eos=True)
        with closing(engine.generate([request], GenerationRecord())) as generation:
            while await generation.take():
                pass

    await asyncio.gather(*map(one, range(streams)))


def main() -> None:
    for directory in (our_model("int8"), tiny_model()):
        with tempfile.TemporaryDirectory() as run, Triton(directory.parent, Path(run), [directory.name], slots=32) as triton:
            rows = asyncio.run(measure(triton, directory.name))
        print(f"\n{directory.name}\n\n| {' | '.join(HEAD)} |\n|{' --- |' * len(HEAD)}")
        print("\n".join(f"| {' | '.join(row)} |" for row in rows), flush=True)


if __name__ == "__main__":
    main()
