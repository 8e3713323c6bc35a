"""The backend's side of a step: validates a request's tensors into arrays over its rows, and encodes the answer's tensors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np

from .limits import MORE_POSITIONS, MOST_RUN_AHEAD
from .step import StepAnswer
from .tensors import INPUTS, ROW_FIELDS, RULE_FIELDS

_ANY = 2**31 - 1
_COLUMNS = {"rows": len(ROW_FIELDS), "rule": len(RULE_FIELDS)}  # of tensors that have columns
_LEAST = np.array([0, 1, 1, 0, 0, 0, 0])[:, None]  # minimums of ROW_FIELDS
_ABSENT = {
    name: np.zeros((0, _COLUMNS[name]) if name in _COLUMNS else 0, tensor.dtype)
    for name, tensor in INPUTS.items()
    if name != "describe"
}


class BadStep(ValueError):
    """The request is invalid. The message names the field, its value and what is allowed."""


class Limits:
    """The limits of a model."""

    def __init__(self, context_length: int, vocabulary_size: int) -> None:
        self.context_length, self.vocabulary_size = context_length, vocabulary_size
        self.most = np.array([context_length, _ANY, _ANY, _ANY, 1, MOST_RUN_AHEAD, 1])[:, None]  # maximums of ROW_FIELDS


@dataclass(slots=True)
class Rows:
    """Rows of one or more requests; see tensors.py. Arrays are int64 [rows] unless noted otherwise."""

    sequence_id: list[int]
    past_length: np.ndarray
    token_count: np.ndarray
    token_limit: np.ndarray
    logit_count: np.ndarray
    full_logits: np.ndarray
    run_ahead: np.ndarray
    ignore_end: np.ndarray
    tokens: np.ndarray  # int32 [sum of token_count]
    rule: np.ndarray  # float64 [rows, 4]
    seed: np.ndarray  # uint64 [rows]

    def __len__(self) -> int:
        return len(self.sequence_id)


@dataclass(slots=True)
class Step:
    rows: Rows
    release: list[int]
    fingerprint: int | None  # of the model that the step is for
    time_budget: int | None  # microseconds


def read_step(inputs: Mapping[str, np.ndarray], limits: Limits) -> Step:
    """Reads and checks a request's inputs, each with a leading batch dimension of 1. Raises BadStep."""
    values = _ABSENT | {name: _without_batch(name, array) for name, array in inputs.items() if name in _ABSENT}
    numbers = values["rows"].T.astype(np.int64, order="C")
    rule, seed = values["rule"], values["seed"]
    if not numbers[5].any():  # no row runs ahead: there are no rules
        rule, seed = np.zeros((len(numbers[0]), len(RULE_FIELDS))), np.zeros(len(numbers[0]), np.uint64)
    past, count, limit, logit_count, full, ahead, ignore_end = numbers
    rows = Rows(
        values["sequence_id"].tolist(), past, count, limit, logit_count, full, ahead, ignore_end, values["tokens"], rule, seed
    )
    _check_sizes(rows)
    _check_numbers(numbers, limits)
    _check_rows(rows, limits)
    fingerprint, time_budget = values["fingerprint"].tolist(), values["time_budget"].tolist()
    return Step(
        rows, values["release"].tolist(), fingerprint[0] if fingerprint else None, time_budget[0] if time_budget else None
    )


def merge(parts: Sequence[Rows]) -> Rows:
    """Concatenates the rows of requests, in order."""
    if len(parts) == 1:
        return parts[0]
    joined = (np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Rows)[1:])
    return Rows([sequence_id for part in parts for sequence_id in part.sequence_id], *joined)


def encode_answer(answer: StepAnswer) -> dict[str, np.ndarray]:
    """Returns a request's outputs, each with a leading batch dimension of 1. Leaves out optional outputs that are empty."""
    compute_time = np.full(len(answer.cached_length), round(answer.compute_seconds * 1e6))
    results = np.array([answer.cached_length, answer.reused_length, answer.drawn_count, compute_time])
    outputs = {
        "results": results.T.astype(np.int32, order="C")[None],
        "candidate_id": answer.candidate_id[None],
        "candidate_logit": answer.candidate_logit[None],
        "log_normalizer": answer.log_normalizer[None],
    }
    if len(answer.logits):
        outputs["logits"] = answer.logits[None]
    if len(answer.drawn):
        outputs["drawn"] = answer.drawn[None]
    return outputs


def _without_batch(name: str, array: np.ndarray) -> np.ndarray:
    dtype, columns = INPUTS[name].dtype, _COLUMNS.get(name)
    if array.dtype != dtype:
        raise BadStep(f"{name}: is {array.dtype}, must be {dtype}")
    if columns is None and (array.ndim != 2 or array.shape[0] != 1):
        raise BadStep(f"{name}: has shape {list(array.shape)}, must be [1, n]")
    if columns is not None and (array.ndim != 3 or array.shape[0] != 1 or array.shape[2] != columns):
        raise BadStep(f"{name}: has shape {list(array.shape)}, must be [1, n, {columns}]")
    return np.asarray(array[0])


def _check_sizes(rows: Rows) -> None:
    for name, values in (("rows", rows.past_length), ("rule", rows.rule), ("seed", rows.seed)):
        if len(values) != len(rows):
            raise BadStep(f"{name}: has {len(values)} values for {len(rows)} rows (the length of sequence_id)")
    if len(set(rows.sequence_id)) != len(rows):
        raise BadStep("sequence_id: names a sequence twice, each row of a step must be another one")


def _check_numbers(numbers: np.ndarray, limits: Limits) -> None:
    """``numbers`` int64 [fields, rows]."""
    wrong = (numbers < _LEAST) | (numbers > limits.most)
    if wrong.any():
        field, row = np.argwhere(wrong)[0]
        low, high = int(_LEAST[field, 0]), int(limits.most[field, 0])
        allowed = f"at least {low}" + ("" if high == _ANY else f" and at most {high}")
        raise BadStep(f"{list(ROW_FIELDS)[field]}: is {numbers[field, row]}, must be {allowed}")


def _check_rows(rows: Rows, limits: Limits) -> None:
    total = int(rows.token_count.sum())
    if total != len(rows.tokens):
        raise BadStep(f"tokens: has {len(rows.tokens)} tokens, token_count adds up to {total}")
    if not total:
        return
    if rows.tokens.view(np.uint32).max() >= limits.vocabulary_size:
        wrong = int(rows.tokens[rows.tokens.view(np.uint32) >= limits.vocabulary_size][0])
        raise BadStep(f"tokens: is {wrong}, must be at least 0 and at most {limits.vocabulary_size - 1}")
    length = rows.past_length + rows.token_count
    if length.max() > limits.context_length:
        raise BadStep(
            f"token_count: past_length and token_count add up to {length.max()}, "
            f"the context has {limits.context_length} positions"
        )
    if (rows.logit_count > np.minimum(rows.token_count, rows.token_limit)).any():
        raise BadStep("logit_count: is larger than token_count or token_limit, only new tokens have logits")
    positions = int(rows.logit_count.sum())
    if positions > len(rows) + MORE_POSITIONS:
        allowed = f"at most {len(rows) + MORE_POSITIONS} are allowed in a step of {len(rows)} rows"
        raise BadStep(f"logit_count: adds up to {positions} positions, {allowed}")
    if rows.run_ahead.any():
        _check_run_ahead(rows, length, limits)


def _check_run_ahead(rows: Rows, length: np.ndarray, limits: Limits) -> None:
    """``length`` [rows]: the length of each sequence before it runs ahead."""
    ahead = rows.run_ahead > 0
    if (ahead & ((rows.logit_count != 1) | (rows.full_logits != 0))).any():
        raise BadStep("run_ahead: a row that runs ahead has logit_count 1 and no full_logits")
    if (most := (length + rows.run_ahead).max()) > limits.context_length:
        raise BadStep(
            f"run_ahead: past_length, token_count and run_ahead add up to {most}, "
            f"the context has {limits.context_length} positions"
        )
    if not (np.isfinite(rows.rule) & (rows.rule >= 0)).all():
        raise BadStep("rule: has a number that is negative, infinite or none")
