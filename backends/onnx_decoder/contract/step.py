"""The gateway's side of a step: encodes rows as a request's tensors, and decodes the answer's tensors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from .drawing import DrawingRule
from .tensors import ROW_FIELDS, RULE_FIELDS

_NO_RULE = (0.0,) * len(RULE_FIELDS)  # for a row that does not run ahead, in a request where others do


@dataclass(slots=True)
class StepRow:
    """A sequence's part of a step; see tensors.py. Not frozen because one is created for every row of every step: 0.3 µs
    instead of 2."""

    sequence_id: int
    past_length: int
    tokens: np.ndarray  # int32: all known tokens after past_length
    token_limit: int
    logit_count: int = 1
    full_logits: bool = False
    drafts: int = 0  # not sent: how many of the last tokens are drafts
    run_ahead: int = 0
    rule: DrawingRule | None = None  # needed to run ahead
    ignore_end: bool = False
    trace: Any = None  # not sent: the request's trace, if it is traced

    @property
    def decodes(self) -> bool:
        """Whether this row decodes: computes one token and its drafts. Otherwise it is a prefill."""
        return len(self.tokens) == 1 + self.drafts


@dataclass(slots=True)
class StepAnswer:
    """``positions`` belong to the rows that are complete, in row order: those whose ``cached_length`` is
    ``past_length + len(tokens) + drawn_count``. Such a row has ``logit_count + drawn_count`` positions.
    """

    cached_length: np.ndarray  # int32 [rows]
    reused_length: np.ndarray  # int32 [rows]
    drawn_count: np.ndarray  # int32 [rows]
    candidate_id: np.ndarray  # int32 [positions, k]
    candidate_logit: np.ndarray  # float32 [positions, k]
    log_normalizer: np.ndarray  # float32 [positions]
    logits: np.ndarray  # float32 [requested positions, vocabulary]
    drawn: np.ndarray  # int32 [sum of drawn_count]: tokens that the backend has drawn and computed, row by row
    compute_seconds: float = 0.0  # duration of the step in the backend; 0 if it has no rows


def encode_step(
    rows: Sequence[StepRow], release: Sequence[int], fingerprint: str, time_budget: int | None = None
) -> dict[str, np.ndarray]:
    """Returns a request's inputs as sent, each with a leading batch dimension of 1. Empty inputs are left out.

    ``fingerprint``: of the intended model, hexadecimal. ``time_budget``: microseconds, for running ahead.
    """
    inputs: dict[str, np.ndarray] = {"fingerprint": np.array([[fingerprint_number(fingerprint)]], np.uint64)}
    if rows:
        numbers = np.fromiter(chain.from_iterable(map(_numbers, rows)), np.int32, len(rows) * len(ROW_FIELDS))
        inputs["sequence_id"] = np.array([[row.sequence_id for row in rows]], np.uint64)
        inputs["rows"] = numbers.reshape(1, len(rows), -1)
        inputs["tokens"] = np.concatenate([row.tokens for row in rows], dtype=np.int32)[None]
        if any(row.run_ahead for row in rows):
            inputs["rule"] = np.array([[_NO_RULE if row.rule is None else row.rule[:4] for row in rows]], np.float64)
            inputs["seed"] = np.array([[0 if row.rule is None else row.rule.seed for row in rows]], np.uint64)
            if time_budget is not None:
                inputs["time_budget"] = np.array([[time_budget]], np.int32)
    if release:
        inputs["release"] = np.array([release], np.uint64)
    return inputs


def _numbers(row: StepRow) -> tuple[int, ...]:
    """The row's numbers in the order of ROW_FIELDS."""
    return (
        row.past_length,
        len(row.tokens),
        row.token_limit,
        row.logit_count,
        row.full_logits,
        row.run_ahead,
        row.ignore_end,
    )


def fingerprint_number(fingerprint: str) -> int:
    """The part of a fingerprint that is sent: its first 16 hexadecimal digits, as a number."""
    return int(fingerprint[:16], 16)


def decode_answer(outputs: Mapping[str, np.ndarray]) -> StepAnswer:
    """Decodes ``outputs`` as received, each with a leading batch dimension."""
    cached_length, reused_length, drawn_count, compute_time = outputs["results"][0].T
    logits, drawn = outputs.get("logits"), outputs.get("drawn")
    return StepAnswer(
        cached_length=cached_length,
        reused_length=reused_length,
        drawn_count=drawn_count,
        candidate_id=outputs["candidate_id"][0],
        candidate_logit=outputs["candidate_logit"][0],
        log_normalizer=outputs["log_normalizer"][0],
        logits=np.zeros((0, 0), np.float32) if logits is None else logits[0],
        drawn=np.zeros(0, np.int32) if drawn is None else drawn[0],
        compute_seconds=int(compute_time.max(initial=0)) / 1e6,
    )
