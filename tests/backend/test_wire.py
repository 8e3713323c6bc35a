"""Bad input is refused with a sentence that names the field; good input is read exactly."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from backends.onnx_decoder.step import StepRow
from backends.onnx_decoder.wire import INPUTS, BadStep, Limits, parse

LIMITS = Limits(context_length=64, vocabulary_size=100)
GOOD = {
    "sequence_id": np.array([[7, 2**64 - 1]], np.uint64),
    "past_length": np.array([[0, 9]], np.int32),
    "token_count": np.array([[3, 1]], np.int32),
    "token_limit": np.array([[16, 1]], np.int32),
    "logit_count": np.array([[1, 1]], np.int32),
    "full_logits": np.array([[False, True]]),
    "tokens": np.array([[1, 2, 3, 99]], np.int32),
    "release": np.array([[5]], np.uint64),
}


def test_good_step_is_read_row_by_row() -> None:
    step = parse(GOOD, LIMITS, StepRow)
    assert [(row.sequence_id, row.past_length, row.tokens.tolist(), row.full_logits) for row in step.rows] == [
        (7, 0, [1, 2, 3], False),
        (2**64 - 1, 9, [99], True),
    ]
    assert step.release == [5]


def test_no_inputs_is_a_step_of_nothing() -> None:
    step = parse({}, LIMITS, StepRow)
    assert (step.rows, step.release) == ([], [])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("sequence_id", np.array([[7, 7]], np.uint64)),
        ("past_length", np.array([[0, -1]], np.int32)),
        ("past_length", np.array([[0]], np.int32)),
        ("token_count", np.array([[4, 0]], np.int32)),
        ("tokens", np.array([[1, 2, 3, 100]], np.int32)),
        ("tokens", np.array([[1, 2, -3, 4]], np.int32)),
        ("tokens", np.array([[1, 2, 3]], np.int32)),
        ("tokens", np.array([[1, 2, 3, 4]], np.int64)),
        ("tokens", np.array([1, 2, 3, 4], np.int32)),
        ("token_limit", np.array([[16, 0]], np.int32)),
        ("logit_count", np.array([[4, 1]], np.int32)),
        ("logit_count", np.array([[-1, 1]], np.int32)),
        ("full_logits", np.array([[True]])),
        ("release", np.array([[5]], np.int32)),
    ],
)
def test_what_does_not_add_up_is_refused_by_name(field: str, value: np.ndarray) -> None:
    with pytest.raises(BadStep, match=f"^{field}: "):
        parse(GOOD | {field: value}, LIMITS, StepRow)


def test_past_beyond_the_context_is_refused() -> None:
    with pytest.raises(BadStep, match="65.*64"):
        parse(GOOD | {"past_length": np.array([[62, 9]], np.int32)}, LIMITS, StepRow)


def test_lengths_that_overflow_int32_are_refused() -> None:
    huge = np.array([[2**31 - 1, 2**31 - 1]], np.int32)
    with pytest.raises(BadStep, match="tokens"):
        parse(GOOD | {"token_count": huge}, LIMITS, StepRow)


arrays = st_numpy.arrays(
    st.sampled_from([np.int32, np.uint64, np.bool_, np.int64]), st.tuples(st.integers(0, 2), st.integers(0, 5))
)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.sampled_from(sorted(INPUTS)), arrays))
def test_any_arrays_are_either_a_step_or_refused(inputs: dict[str, np.ndarray]) -> None:
    try:
        step = parse(inputs, LIMITS, StepRow)
    except BadStep:
        return
    for row in step.rows:
        assert 1 <= len(row.tokens) <= LIMITS.context_length - row.past_length
        assert row.logit_count <= len(row.tokens)
