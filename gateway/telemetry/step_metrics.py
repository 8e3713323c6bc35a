"""Metrics of steps: how long each took at Triton, how many sequences and tokens it had, and failures."""

import time

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Histogram

from gateway.engine.step import Backend, StepAnswer, StepRow
from gateway.text.model import Model

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)  # rows, tokens


class StepMetrics:
    """`measured` wraps the backend between a replica and its Triton."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def histogram(name: str, help: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(f"tidegate_{name}", help, ["model"], buckets=buckets, registry=registry)

        self.duration = histogram("step_duration_seconds", "From a step's sending to its answer.", SECONDS)
        self.batch_size = histogram("batch_size", "Texts in a step: its rows.", SIZES)
        self.tokens = histogram("iteration_tokens", "Tokens that a step has computed.", SIZES)
        self.failures = Counter(
            "tidegate_step_failures", "Steps that failed; each is sent again.", ["model"], registry=registry
        )

    def measured(self, backend: Backend, model: str) -> "MeasuredBackend":
        return MeasuredBackend(backend, self, model)


class MeasuredBackend:
    """A backend whose steps are measured, except those that only release sequences."""

    def __init__(self, backend: Backend, metrics: StepMetrics, model: str) -> None:
        self._backend = backend
        self._duration = metrics.duration.labels(model)
        self._batch_size = metrics.batch_size.labels(model)
        self._tokens = metrics.tokens.labels(model)
        self._failures = metrics.failures.labels(model)

    async def step(self, model: Model, rows: list[StepRow], release: list[int], time_budget: float | None = None) -> StepAnswer:
        began = time.monotonic()
        try:
            answer = await self._backend.step(model, rows, release, time_budget)
        except Exception:
            self._failures.inc()
            raise
        if rows:
            self._duration.observe(time.monotonic() - began)
            self._batch_size.observe(len(rows))
            # A negative length means that the row had no slot or was unknown, and nothing was computed.
            self._tokens.observe(int((np.maximum(answer.cached_length, 0) - answer.reused_length).sum()))
        return answer
