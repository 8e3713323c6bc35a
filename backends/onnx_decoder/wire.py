"""The tensors of a step, checked: arrays by name ↔ rows and results. Knows neither Triton nor ONNX Runtime."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from .step import StepResult, StepRow

MORE_POSITIONS = 512  # than rows, with candidates in one request: bounds the logits, positions × vocabulary × 4 bytes

ROW_INPUTS = {
    "sequence_id": np.uint64,
    "past_length": np.int32,
    "token_count": np.int32,
    "token_limit": np.int32,
    "logit_count": np.int32,
    "full_logits": np.bool_,
}
INPUTS = ROW_INPUTS | {"tokens": np.int32, "release": np.uint64, "fingerprint": np.uint64}


class BadStep(ValueError):
    """The request does not add up; the message names the field, what came and what is allowed."""


@dataclass(frozen=True)
class Limits:
    context_length: int
    vocabulary_size: int


@dataclass(frozen=True)
class Step:
    rows: "list[StepRow]"
    release: list[int]
    fingerprint: int | None = None  # of the model that the step is meant for


def parse(arrays: Mapping[str, np.ndarray], limits: Limits, row_type: "type[StepRow]") -> Step:
    """Reads a request's inputs, each ``[1, n]``; an absent one is empty. Raises BadStep."""
    values = {name: _read(arrays, name, dtype) for name, dtype in INPUTS.items()}
    _check_sizes(values)
    _check_rows(values, limits)
    ends = np.cumsum(values["token_count"], dtype=np.int64)
    rows = [
        row_type(int(sequence_id), int(past), values["tokens"][end - count : end], int(limit), int(logits), bool(full))
        for sequence_id, past, count, limit, logits, full, end in zip(*(values[name] for name in ROW_INPUTS), ends, strict=True)
    ]
    fingerprint = next((int(value) for value in values["fingerprint"]), None)
    return Step(rows, [int(sequence_id) for sequence_id in values["release"]], fingerprint)


def pack(results: "Sequence[StepResult]", k: int, vocabulary_size: int) -> dict[str, np.ndarray]:
    """A request's outputs, each with the batch dimension of 1 in front; ``logits`` only where a row asked for them."""
    found = [result.candidates for result in results if result.candidates is not None]
    full = [candidates.logits for candidates in found if candidates.logits is not None]
    outputs = {
        "cached_length": np.array([result.cached_length for result in results], np.int32),
        "reused_length": np.array([result.reused_length for result in results], np.int32),
        "candidate_id": _join([candidates.candidate_id for candidates in found], (0, k), np.int32),
        "candidate_logit": _join([candidates.candidate_logit for candidates in found], (0, k), np.float32),
        "log_normalizer": _join([candidates.log_normalizer for candidates in found], (0,), np.float32),
    }
    if full:
        outputs["logits"] = _join(full, (0, vocabulary_size), np.float32)
    return {name: array[None] for name, array in outputs.items()}


def _read(arrays: Mapping[str, np.ndarray], name: str, dtype: Any) -> np.ndarray:
    array = arrays.get(name)
    if array is None:
        return np.zeros(0, dtype)
    if array.dtype != dtype:
        raise BadStep(f"{name}: is {array.dtype}, must be {np.dtype(dtype)}")
    if array.ndim != 2 or array.shape[0] != 1:
        raise BadStep(f"{name}: has shape {list(array.shape)}, must be [1, n]")
    return array[0]


def _check_sizes(values: Mapping[str, np.ndarray]) -> None:
    rows = len(values["sequence_id"])
    for name in ROW_INPUTS:
        if len(values[name]) != rows:
            raise BadStep(f"{name}: has {len(values[name])} values for {rows} rows (the length of sequence_id)")
    if rows != len(np.unique(values["sequence_id"])):
        raise BadStep("sequence_id: names a sequence twice, each row of a step must be another one")
    _check_range("token_count", values["token_count"], 1, None)
    total = int(values["token_count"].sum(dtype=np.int64))
    if total != len(values["tokens"]):
        raise BadStep(f"tokens: has {len(values['tokens'])} tokens, token_count adds up to {total}")


def _check_rows(values: Mapping[str, np.ndarray], limits: Limits) -> None:
    rows = len(values["sequence_id"])
    _check_range("tokens", values["tokens"], 0, limits.vocabulary_size - 1)
    _check_range("past_length", values["past_length"], 0, limits.context_length)
    _check_range("token_limit", values["token_limit"], 1, None)
    _check_range("logit_count", values["logit_count"], 0, None)
    length = values["past_length"].astype(np.int64) + values["token_count"]
    if rows and length.max() > limits.context_length:
        raise BadStep(
            f"token_count: past_length and token_count add up to {length.max()}, "
            f"the context has {limits.context_length} positions"
        )
    if np.any(values["logit_count"] > np.minimum(values["token_count"], values["token_limit"])):
        raise BadStep("logit_count: is larger than token_count or token_limit, only new tokens have logits")
    positions = int(values["logit_count"].sum(dtype=np.int64))
    if positions > rows + MORE_POSITIONS:
        allowed = f"at most {rows + MORE_POSITIONS} are allowed in a step of {rows} rows"
        raise BadStep(f"logit_count: adds up to {positions} positions, {allowed}")


def _check_range(name: str, values: np.ndarray, low: int, high: int | None) -> None:
    if len(values) == 0:
        return
    smallest, largest = int(values.min()), int(values.max())
    if smallest < low or (high is not None and largest > high):
        wrong = smallest if smallest < low else largest
        raise BadStep(f"{name}: is {wrong}, must be at least {low}" + ("" if high is None else f" and at most {high}"))


def _join(arrays: list[np.ndarray], empty: tuple[int, ...], dtype: Any) -> np.ndarray:
    return np.concatenate(arrays) if arrays else np.zeros(empty, dtype)
