"""The one seam between the engine and whatever computes its steps. What a step is stands in the wire contract."""

from typing import Protocol

from backends.onnx_decoder.contract.step import StepAnswer, StepRow
from gateway.text.model import Model

__all__ = ["Backend", "StepAnswer", "StepRow"]


class Backend(Protocol):
    async def step(self, model: Model, rows: list[StepRow], release: list[int], time_budget: float | None = None) -> StepAnswer:
        """Computes all rows. ``time_budget``: seconds after which no row that runs ahead begins another token.

        Raises BackendUnavailable where a retry may help; a step may be sent again at any time.
        """
        ...
