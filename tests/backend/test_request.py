"""Bad input is refused with a sentence that names the field; good input is read exactly (tests/test_contract.py)."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from backends.onnx_decoder.contract.limits import MORE_POSITIONS, MOST_RUN_AHEAD
from backends.onnx_decoder.contract.request import BadStep, Limits, read_step
from backends.onnx_decoder.contract.tensors import INPUTS, ROW_FIELDS, RULE_FIELDS

LIMITS = Limits(context_length=64, vocabulary_size=100)
NUMBERS = {
    "past_length": [0, 9],
    "token_count": [3, 1],
    "token_limit": [16, 1],
    "logit_count": [1, 1],
    "full_logits": [0, 0],
    "run_ahead": [0, 3],
    "ignore_end": [0, 1],
}


def numbers(**changed: Sequence[int]) -> np.ndarray:
    return np.array([list(zip(*(NUMBERS | changed).values(), strict=True))], np.int64).astype(np.int32)


GOOD = {
    "sequence_id": np.array([[7, 2**64 - 1]], np.uint64),
    "rows": numbers(),
    "tokens": np.array([[1, 2, 3, 99]], np.int32),
    "rule": np.array([[[0, 0, 0, 0], [1, 40, 0.9, 0]]], np.float64),
    "seed": np.array([[0, 5]], np.uint64),
    "release": np.array([[5]], np.uint64),
}


def test_no_inputs_is_a_step_of_nothing() -> None:
    step = read_step({}, LIMITS)
    assert (len(step.rows), step.release, step.fingerprint, step.time_budget) == (0, [], None, None)


def test_rules_are_not_asked_for_where_no_row_runs_ahead() -> None:
    inputs = GOOD | {"rows": numbers(run_ahead=[0, 0])}
    del inputs["rule"], inputs["seed"]
    assert read_step(inputs, LIMITS).rows.rule.shape == (2, len(RULE_FIELDS))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("sequence_id", np.array([[7, 7]], np.uint64)),
        ("rows", numbers()[:, :1]),
        ("rows", numbers()[..., :-1]),
        ("rows", numbers()[0]),
        ("rows", numbers().astype(np.int64)),
        ("tokens", np.array([[1, 2, 3, 100]], np.int32)),
        ("tokens", np.array([[1, 2, -3, 4]], np.int32)),
        ("tokens", np.array([[1, 2, 3]], np.int32)),
        ("tokens", np.array([[1, 2, 3, 4]], np.int64)),
        ("tokens", np.array([1, 2, 3, 4], np.int32)),
        ("rule", GOOD["rule"][:, :1]),
        ("rule", -GOOD["rule"]),
        ("rule", np.full((1, 2, 4), np.nan)),
        ("rule", np.full((1, 2, 4), np.inf)),
        ("seed", np.zeros((1, 0), np.uint64)),
        ("release", np.array([[5]], np.int32)),
        ("fingerprint", np.array([[5]], np.int32)),
        ("time_budget", np.array([5], np.int32)),
    ],
)
def test_what_does_not_add_up_is_refused_by_name(field: str, value: np.ndarray) -> None:
    read_step(GOOD, LIMITS)
    with pytest.raises(BadStep, match=f"^{field}: "):
        read_step(GOOD | {field: value}, LIMITS)


@pytest.mark.parametrize(
    ("field", "values", "said"),
    [
        ("past_length", [0, -1], "is -1, must be at least 0 and at most 64"),
        ("token_count", [4, 0], "is 0, must be at least 1"),
        ("token_limit", [16, 0], "is 0, must be at least 1"),
        ("logit_count", [4, 1], "is larger than token_count or token_limit"),
        ("logit_count", [-1, 1], "is -1, must be at least 0"),
        ("full_logits", [2, 0], "is 2, must be at least 0 and at most 1"),
        ("ignore_end", [0, -1], "is -1, must be at least 0 and at most 1"),
        ("run_ahead", [0, MOST_RUN_AHEAD + 1], f"is {MOST_RUN_AHEAD + 1}, must be at least 0 and at most {MOST_RUN_AHEAD}"),
        ("run_ahead", [62, 3], "past_length, token_count and run_ahead add up to 65, the context has 64"),
    ],
)
def test_a_wrong_number_is_refused_by_the_name_of_its_field(field: str, values: list[int], said: str) -> None:
    with pytest.raises(BadStep, match=f"^{field}: .*{said}"):
        read_step(GOOD | {"rows": numbers(**{field: values})}, LIMITS)


@pytest.mark.parametrize(
    "changed", [{"logit_count": [1, 0]}, {"logit_count": [2, 1], "run_ahead": [1, 0]}, {"full_logits": [0, 1]}]
)
def test_only_a_row_that_wants_one_positions_candidates_runs_ahead(changed: dict[str, list[int]]) -> None:
    with pytest.raises(BadStep, match="^run_ahead: a row that runs ahead has logit_count 1 and no full_logits"):
        read_step(GOOD | {"rows": numbers(**changed)}, LIMITS)


def test_past_beyond_the_context_is_refused() -> None:
    with pytest.raises(BadStep, match="^token_count: .*65.*64"):
        read_step(GOOD | {"rows": numbers(past_length=[62, 9])}, LIMITS)


def test_lengths_that_overflow_int32_are_refused() -> None:
    with pytest.raises(BadStep, match="^tokens: .*4294967294"):
        read_step(GOOD | {"rows": numbers(token_count=[2**31 - 1, 2**31 - 1])}, LIMITS)


def test_more_positions_than_memory_is_promised_for_are_refused() -> None:
    limits, count = Limits(2048, 100), MORE_POSITIONS + 2
    inputs = {
        "sequence_id": np.array([[1]], np.uint64),
        "rows": np.array([[[0, count, count, count, 1, 0, 0]]], np.int32),
        "tokens": np.zeros((1, count), np.int32),
    }
    with pytest.raises(BadStep, match=f"^logit_count: adds up to {count} positions, at most {count - 1} are allowed"):
        read_step(inputs, limits)


small = st.tuples(st.integers(0, 2), st.integers(0, 5))
shapes = st.one_of(small, small.map(lambda shape: (*shape, len(ROW_FIELDS))), small.map(lambda shape: (*shape, 4)))
arrays = st_numpy.arrays(st.sampled_from([np.int32, np.uint64, np.bool_, np.int64, np.float64]), shapes)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.sampled_from(sorted(INPUTS)), arrays))
def test_any_arrays_are_either_a_step_or_refused(inputs: dict[str, np.ndarray]) -> None:
    try:
        rows = read_step(inputs, LIMITS).rows
    except BadStep:
        return
    assert rows.token_count.sum() == len(rows.tokens)
    assert (rows.past_length + rows.token_count + rows.run_ahead <= LIMITS.context_length).all()
    assert (rows.logit_count <= rows.token_count).all()
