"""One step as the engine sees it, and the one seam to whatever runs it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from gateway.text.model import Model

if TYPE_CHECKING:
    from gateway.telemetry.tracing import RequestTrace

UNKNOWN = -1  # cached_length: the sequence is not cached there, send all its tokens
NO_SLOT = -2  # cached_length: no slot is free


@dataclass(frozen=True)
class StepRow:
    """A sequence's part of a step; the names and meanings are those of docs/wire-contract.md."""

    sequence_id: int
    past_length: int
    tokens: np.ndarray  # int32: everything known beyond past_length
    token_limit: int
    logit_count: int = 1
    full_logits: bool = False
    drafts: int = 0  # not sent: how many of the last tokens are guesses
    trace: "RequestTrace | None" = None  # not sent: the trace of its request, where that is traced

    @property
    def decodes(self) -> bool:
        """Whether it computes one token, and its drafts; else it is a prefill."""
        return len(self.tokens) == 1 + self.drafts


@dataclass(frozen=True)
class StepAnswer:
    """``positions`` of the arrays belong to the rows that reached their end, in row order."""

    cached_length: np.ndarray  # int32 [rows]
    reused_length: np.ndarray  # int32 [rows]
    candidate_id: np.ndarray  # int32 [positions, k]
    candidate_logit: np.ndarray  # float32 [positions, k]
    log_normalizer: np.ndarray  # float32 [positions]
    logits: np.ndarray  # float32 [asked positions, vocabulary]


class Backend(Protocol):
    async def step(self, model: Model, rows: list[StepRow], release: list[int]) -> StepAnswer:
        """Runs one forward pass. Raises BackendUnavailable where a retry may help; a step may be sent again at any time."""
        ...
