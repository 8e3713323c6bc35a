"""The one interface between the engine and what computes its steps. The wire contract defines a step."""

from typing import Protocol

from backends.onnx_decoder.contract.step import StepAnswer, StepRow
from gateway.text.model import Model

__all__ = ["Backend", "StepAnswer", "StepRow"]


class Backend(Protocol):
    async def step(self, model: Model, rows: list[StepRow], release: list[int], time_budget: float | None = None) -> StepAnswer:
        """Computes all rows. ``time_budget``: seconds after which no row that runs ahead starts another token.

        Raises BackendUnavailable if a retry may help; a step may be resent at any time.
        """
        ...
